"""`routing: learned`: executors go in the order that paid checks have earned them, and the report says why."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest
from sandbox_runs import CLAUDE, GEMINI, LLAMA, At, executor

from tta_dev_primitives import cli
from tta_dev_primitives.blocks.ledger.database.protocol import database_for
from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.flows.routing import model_scores
from tta_dev_primitives.flows.routing.model_score_store import ModelScoreStore
from tta_dev_primitives.flows.routing.model_scores import (
    ENOUGH,
    ModelScores,
    Outcome,
    learned,
    led_by_chance,
    ranked,
)
from tta_dev_primitives.orchestration import MultiModelWorkflow

POOR_AND_GOOD = """
rules:
  - {match: {prompt: verdict, contains: a poor answer}, reply: {json: {score: 0.1, reason: "wrong"}}}
  - {match: {prompt: verdict}, reply: {json: {score: 0.97, reason: "right"}}}
  - {match: {model: gemini-2.5-pro}, reply: {text: "This is a poor answer about the kettle of the house."}}
  - {match: {provider: groq}, reply: {text: "Water boils in a kettle because its heater warms it up to the boil."}}
"""


def kettles(first: int, count: int) -> list[dict[str, str]]:
    """Open tasks that differ."""
    return [
        {"id": str(n), "task": f"Describe how kettle number {n} works.", "use_case": "moderate"}
        for n in range(first, first + count)
    ]


def asked_first(sandbox: Sandbox, number: int) -> str:
    """Which model was the first to be asked to solve a task."""
    found = [c for c in sandbox.calls if c.prompt == "solve" and f"number {number} " in json.dumps(c.body)]
    return found[0].model


def bulk(workflow: MultiModelWorkflow, tasks: list[dict[str, str]]) -> None:
    """Run tasks as one job, all of which are answered."""
    results = asyncio.run(workflow.execute_bulk(tasks, concurrency=20))
    assert all(result.accepted for result in results)


def report(capsys: pytest.CaptureFixture[str], config: str, *options: str) -> str:
    """What `tta report` prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", "--config", config, *options])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("routing", "then"), [("learned", LLAMA), ("file", GEMINI)])
def test_after_enough_checked_tasks_the_good_model_goes_first_when_learning_is_on(
    routing: str,
    then: str,
    at: At,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run keeps its order to its end; the next one asks the second executor first, and the report says why."""
    monkeypatch.setattr(model_scores, "EXPLORED", 0.0)
    workflow = at(POOR_AND_GOOD, routing=routing, validation={"mode": "always"})
    sandbox = workflow.sandbox
    bulk(workflow, kettles(100, ENOUGH + 5))
    assert asked_first(sandbox, 100 + ENOUGH + 4) == GEMINI
    bulk(workflow, kettles(200, ENOUGH + 5))
    assert asked_first(sandbox, 200) == then
    bulk(workflow, kettles(300, 1))
    assert asked_first(sandbox, 300) == then
    result = workflow.run("Describe how kettle number 400 works.", use_case="moderate")
    assert result.model == LLAMA
    assert asked_first(sandbox, 400) == then

    page, config = tmp_path / "report.html", str(tmp_path / "orchestration-config.yaml")
    places = [
        p for p in json.loads(report(capsys, config, "--json"))["routing"] if p["use_case"] == "moderate"
    ]
    report(capsys, config, "--html", str(page))
    told = [page.read_text(), report(capsys, config)]
    if routing == "file":
        assert places == []
        assert not any("Learned order" in text for text in told)
        return
    assert [(p["model"], p["place_in_file"]) for p in places] == [(LLAMA, 2), (GEMINI, 1)]
    assert "accepted more often" in places[0]["reason"]
    assert places[0]["interval"][0] > places[1]["interval"][1]
    assert all("Learned order" in text and "accepted 0%" in " ".join(text.split()) for text in told)


def test_free_models_stay_before_paid_ones(at: At) -> None:
    """However good a paid executor is, with `prefer_free_models` a poor free one is asked before it."""
    workflow = at(
        POOR_AND_GOOD,
        routing="learned",
        validation={"mode": "always"},
        executors=[
            executor(GEMINI, "google-ai-studio", ["moderate"]),
            executor(LLAMA, "groq", ["moderate"], billing="paid"),
        ],
        fallback_strategy={"models": [GEMINI, LLAMA, CLAUDE]},
    )
    for first in (100, 200):
        bulk(workflow, kettles(first, ENOUGH + 5))
    bulk(workflow, kettles(300, 1))
    assert asked_first(workflow.sandbox, 300) == GEMINI


async def test_concurrent_runs_lose_no_outcome(tmp_path: Path) -> None:
    """Two connections that record at the same time both count."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    both = [ModelScoreStore(database_for(url), "judge", 0.85) for _ in range(2)]
    outcome = Outcome("simple", "a", accepted=True)
    await asyncio.gather(*(ledger.learn([outcome, outcome]) for ledger in both for _ in range(10)))
    assert (await both[0].state()).of("simple", "a").seen == 40
    other = ModelScoreStore(database_for(url), "another judge", 0.85)
    assert (await other.state()).models == {}


def order(state: ModelScores, *models: str, free: tuple[str, ...] | None = None) -> list[str]:
    """The order of models whose place in the file is as given."""
    return list(ranked(state, "simple", models, threshold=0.85, free=models if free is None else free))


def said(model: str, count: int, rate: float) -> list[Outcome]:
    """Outcomes of a model, accepted at a rate, in random order."""
    made = [Outcome("simple", model, n < round(count * rate)) for n in range(count)]
    random.Random(5).shuffle(made)
    return made


def test_few_outcomes_move_nothing() -> None:
    """One below the minimum of outcomes, the order is the file's, however clear they look."""
    few = learned(ModelScores(), said("a", ENOUGH - 1, 0.0) + said("b", ENOUGH - 1, 1.0))
    assert order(few, "a", "b") == ["a", "b"]
    assert order(learned(few, said("a", 1, 0.0) + said("b", 1, 1.0)), "a", "b") == ["b", "a"]


def test_equally_good_models_are_not_reordered_by_chance() -> None:
    """Over 200 pairs of the same true rate, looked at after each outcome, hardly any is ever swapped."""
    rng, swapped = random.Random(11), 0
    for _ in range(200):
        state = ModelScores()
        for _ in range(60):
            state = learned(state, [Outcome("simple", m, rng.random() < 0.9) for m in ("a", "b")])
        swapped += order(state, "a", "b") != ["a", "b"]
    assert swapped <= 10


def test_a_decided_order_stays_until_the_opposite_is_shown() -> None:
    """Figures that draw level again change nothing; a reversal does. So the order cannot flap."""
    state = learned(ModelScores(), said("a", 40, 0.3) + said("b", 40, 1.0))
    assert order(state, "a", "b") == ["b", "a"]
    level = learned(state, said("a", 300, 1.0) + said("b", 300, 0.95))
    assert order(level, "a", "b") == ["b", "a"]
    assert order(learned(level, said("b", 400, 0.2)), "a", "b") == ["a", "b"]
    assert order(ModelScores.from_json(level.to_json()), "a", "b") == ["b", "a"]


def test_a_model_known_to_miss_the_threshold_lets_a_free_unknown_one_go_first() -> None:
    """So an executor that never had its turn becomes known; a paid one does not, since that would cost money."""
    state = learned(ModelScores(), said("a", 60, 0.3))
    assert order(state, "a", "b") == ["b", "a"]
    assert order(state, "a", "b", free=("a",)) == ["a", "b"]
    assert order(learned(state, said("b", ENOUGH, 0.3)), "a", "b") == ["a", "b"]
    assert order(learned(ModelScores(), said("a", 60, 1.0)), "a", "b") == ["a", "b"]


def test_a_rare_check_of_trusted_answers_counts_for_those_not_checked() -> None:
    """Where agreement is trusted, nearly every check is of a dispute: the weights keep a model from looking poor."""
    rng, state = random.Random(3), ModelScores()
    for _ in range(4000):
        dispute = rng.random() < 0.1
        if dispute:
            state = learned(state, [Outcome("simple", "a", rng.random() < 0.5)])
        elif rng.random() < 0.05:
            state = learned(state, [Outcome("simple", "a", accepted=True, weight=1 / 0.05)])
    assert state.of("simple", "a").rate == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("rates", [(0.7, 0.95), (0.4, 0.9)])
def test_a_better_second_model_is_found(rates: tuple[float, float]) -> None:
    """A few tasks are led by a random model: in all of 10 runs the better one goes first within 3,000 tasks."""
    for seed in range(10):
        rng, state = random.Random(seed), ModelScores()
        for _ in range(3000):
            first = led_by_chance(order(state, "a", "b"), ["a", "b"], rng.random())[0]
            right = rng.random() < rates[first == "b"]
            state = learned(state, [Outcome("simple", first, right)])
            if order(state, "a", "b") == ["b", "a"]:
                break
        assert order(state, "a", "b") == ["b", "a"]


def test_a_random_leader_is_rare_and_any_of_the_rivals() -> None:
    """Of evenly spread coins 4 % move a model to the front, each rival as often; a single rival moves nothing."""
    leaders = [led_by_chance(["a", "b", "paid"], ["a", "b"], n / 10_000)[0] for n in range(10_000)]
    assert (leaders.count("b"), leaders.count("paid")) == (200, 0)
    assert led_by_chance(["paid", "a"], ["a"], 0.0) == ["paid", "a"]
