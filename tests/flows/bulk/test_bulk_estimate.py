"""Estimates: facts and guesses kept apart, the worst case a true bound, the binding limit named; and no Prefect."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sandbox_runs import KEY, KEY_VALUE, sandbox_config

from tta_dev_primitives.blocks.ledger.types import ReportRow
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.models.resolve import resolve_targets
from tta_dev_primitives.config.models.targets import Price
from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.flows.bulk.arguments import duration
from tta_dev_primitives.flows.bulk.estimate import Estimate, Facts, estimate
from tta_dev_primitives.flows.bulk.forecast import Known, Sketch, forecast, output_prior
from tta_dev_primitives.flows.bulk.progress import Progress, span_text
from tta_dev_primitives.flows.bulk.reader import Record
from tta_dev_primitives.flows.validation.case import Candidate, Policy
from tta_dev_primitives.flows.validation.risk_state import RiskState, Stratum

NOW = 1_795_435_200.0
OPEN = "Summarize the history of tea."


def config(**changes: Any) -> OrchestrationConfig:
    everything = ["simple", "moderate", "complex", "expert", "speed-critical", "reasoning"]
    limits = {"rpm": 30, "rpd": 1000}
    free = {"api_key_env": KEY, "use_cases": everything, "limits": limits}
    return OrchestrationConfig.model_validate(
        {
            "orchestrator": {"model": "claude-sonnet-4.5", "api_key_env": KEY},
            "executors": [
                {"model": "gemini-2.5-pro", "provider": "google-ai-studio", **free},
                {"model": "llama-3.3-70b-versatile", "provider": "groq", **free},
            ],
            **changes,
        }
    )


def records(count: int, task: str = OPEN) -> list[Record]:
    return [Record(n, str(n), f"{task} {n}", "moderate") for n in range(count)]


def of(count: int, facts: Facts | None = None, task: str = OPEN, **changes: Any) -> Estimate:
    made = config(**changes)
    return estimate(records(count, task), made, resolve_targets(made), facts or Facts(), now=NOW)


def test_without_history_the_prior_is_stated() -> None:
    """What is assumed of free answers is said; some of the first tasks are expected to need the paid model."""
    found = of(100)
    assert found.tasks == 100
    assert 0 < found.paid_tasks < 100
    assert "no recorded outcomes" in found.paid_source
    assert found.low_usd < found.expected_usd < found.high_usd < found.baseline_usd


def test_recorded_outcomes_replace_the_prior() -> None:
    """Many rejections in the use case make the job dearer than many acceptances."""

    def known(rejected: int) -> Estimate:
        stratum = Stratum(
            order=1, strong=True, n=100, k=rejected, unjudged=20, labelled=100, rejected=rejected
        )
        return of(100, Facts(risk=RiskState(strata={"moderate|judged|a|b": stratum})))

    good, bad = known(1), known(40)
    assert good.expected_usd < bad.expected_usd
    assert "40 rejections in 100 recorded outcomes" in bad.paid_source


def test_tasks_that_were_done_before_cost_nothing() -> None:
    """Their answers are stored."""
    found = of(50, Facts(stored=frozenset(str(n) for n in range(50))))
    assert (found.stored, found.expected_usd, found.worst_usd, found.free_calls) == (50, 0, 0, 0)
    assert found.paid_source == "every task was done before; nothing is asked"


def test_copies_are_counted_once() -> None:
    """The same task under several ids is one call; seeds make independent tasks of it."""
    same = [Record(n, str(n), OPEN, "moderate") for n in range(20)]
    made, facts = config(), Facts()
    found, one = estimate(same, made, resolve_targets(made), facts, now=NOW), of(1)
    assert (found.copies, found.worst_usd > 0, found.baseline_usd < 2 * one.baseline_usd) == (19, True, True)
    seeded = [replace(record, seed=record.number) for record in same]
    assert estimate(seeded, made, resolve_targets(made), facts, now=NOW).copies == 0


def test_measured_lengths_of_the_use_case_count() -> None:
    """Long recorded answers make the baseline dearer."""
    row = ReportRow(
        "groq", "llama", "execute", "moderate", "free", "settled", "ok", 20, 400, 0, 20_000, *[Decimal(0)] * 4
    )
    assert of(20, Facts(rows=(row,))).output_tokens == 20 * 1000
    other = replace(row, use_case="simple")
    assert of(20, Facts(rows=(other,))).output_tokens != 20 * 1000


def test_advice_has_a_figure_for_each_change() -> None:
    """Another threshold, no validation, a use case: the cheapest first."""
    unnamed = [replace(record, use_case=None, task="Hm.") for record in records(60)]
    made = config()
    found = estimate(unnamed, made, resolve_targets(made), Facts(), now=NOW)
    changes = {one.change.split(":")[0]: one.expected_usd for one in found.advice}
    assert set(changes) == {
        "name the use_case of each task", "quality_threshold", "validation.mode",
    }  # fmt: skip
    assert changes["validation.mode"] == 0
    amounts = [one.expected_usd for one in found.advice]
    assert amounts == sorted(amounts)


@pytest.mark.parametrize(
    ("task", "form", "tokens"),
    [
        ("How many apples are 3 + 4?", "number", 8),
        ("Summarize the note in a sentence.", "open", 40),
        ("Summarize the note in three sentences.", "open", 120),
        ("Write 2 paragraphs on tea.", "open", 240),
        ("Write a slogan for a shop.", "open", 45),
        ("List two reasons why tea is good.", "open", 60),
        ("List the reasons why tea is good.", "open", 300),
        ("Explain the history of tea.", "open", 300),
    ],
)
def test_answers_are_as_long_as_the_task_asks(task: str, form: Any, tokens: int) -> None:
    """Before anything was measured."""
    assert output_prior(task, form) == tokens


def test_a_long_job_is_drawn_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times as many tasks of a kind cost more, but not three times as much: checks become rarer."""
    for module in ("forecast", "estimate"):
        monkeypatch.setattr(f"tta_dev_primitives.flows.bulk.{module}.MOST_DRAWN", 150)
    one, two = of(150), of(450)
    assert one.expected_usd < two.expected_usd < 3 * one.expected_usd
    assert two.baseline_usd == pytest.approx(3 * one.baseline_usd, rel=Decimal("0.1"))


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({"validation": {"mode": "always"}}, 1.0),
        ({"validation": {"mode": "never"}}, 0.0),
        ({"enabled": False}, 1.0),
        ({"executors": []}, 1.0),
    ],
)
def test_what_the_configuration_decides_is_not_guessed(changes: dict[str, Any], share: float) -> None:
    """Where the configuration says who is asked, the share follows from it."""
    assert of(10, **changes).paid_share == share


def test_the_worst_case_is_at_least_the_expected_one() -> None:
    """The worst case is the sum of what would be reserved: never below what is expected."""
    for task in (OPEN, "How many apples are 3 + 4? Answer with a number."):
        found = of(40, task=task)
        assert found.worst_usd > found.expected_usd > 0
        assert found.baseline_usd > 0


def test_the_limit_that_binds_is_named() -> None:
    """Two models of 30 requests a minute take the answers, verdicts and comparisons of 200 tasks in some minutes."""
    found = of(200)
    assert found.time.binding is not None
    assert found.time.seconds > 180
    assert sum(found.time.share.values()) >= 400


def test_a_model_without_key_is_not_counted() -> None:
    """What cannot be called does nothing of the work."""
    found = of(100, replace(Facts(), unreachable=frozenset({"gemini-2.5-pro"})))
    assert set(found.time.share) == {"llama-3.3-70b-versatile"}


@pytest.mark.server
def test_the_command_needs_no_prefect_and_speaks_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tta estimate --json` prints one document and imports no Prefect; no provider is asked."""
    monkeypatch.setenv(KEY, KEY_VALUE)
    monkeypatch.setenv("TTA_HOME", str(tmp_path))
    source = tmp_path / "in.jsonl"
    lines = [json.dumps({"id": str(n), "task": f"{OPEN} {n}"}) for n in range(30)]
    source.write_text("\n".join([*lines, lines[0], "{broken"]) + "\n")
    with Sandbox().start() as sandbox:
        file = tmp_path / "config.yaml"
        file.write_text(json.dumps({"orchestration": sandbox_config(sandbox, tmp_path)}))
        code = (
            "import sys; from tta_dev_primitives.cli import main\n"
            "try: main(sys.argv[1:])\n"
            "finally: print('prefect' in sys.modules, file=sys.stderr)"
        )
        arguments = ["estimate", str(source), "--config", str(file), "--json", "--samples", "2"]
        ended = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.splitlines()[-1] == "False"
        assert sandbox.calls == []
    found = json.loads(ended.stdout)
    assert (found["tasks"], found["broken_lines"], found["duplicates"]) == (60, 1, 1)
    assert Decimal(found["worst_usd"]) > Decimal(found["expected_usd"]) > 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ("90s", 90), ("1.5h", 5400), ("2d", 172_800)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """Seconds, minutes, hours, days."""
    assert duration("patience_s", text) == seconds
    assert duration("patience_s", "inf") == float("inf")


@pytest.mark.parametrize("text", ["", "soon", "-1", "1y", "nan"])
def test_other_durations_are_refused(text: str) -> None:
    """What is no duration is a usage error that shows the forms."""
    with pytest.raises(ConfigError, match="30m"):
        duration("patience_s", text)


def test_progress_tells_pace_and_time_left() -> None:
    """The line for people: done, failed, pace, cost, time left, and a wait for quota."""
    now = 1000.0
    clock: Callable[[], float] = lambda: now  # noqa: E731
    progress = Progress(total=100, skipped=50, clock=clock)
    progress.start()
    from test_bulk_io import result

    for _ in range(20):
        now += 0.5
        progress.add(result(), None)
    assert progress.rate == pytest.approx(2.0)
    assert progress.eta_s == pytest.approx(40.0)
    assert progress.percent == pytest.approx(100 * 70 / 150)
    progress.waiting_until = now + 90
    assert "70/150 done" in progress.line()
    assert "waiting 1 min 30 s for free quota, until " in progress.line()
    assert "paid now" not in progress.line()
    progress.baseline_usd = Decimal("0.5")
    assert progress.line().endswith(" (paid now: about $2.0000)")
    assert " of $" not in progress.line()
    progress.most_usd = Decimal("2.5")
    assert " of $2.50 " in progress.line()
    progress.quota_eta_s = 7200.0
    assert "2 h 00 min left" in progress.line()
    assert span_text(float("inf")) == "no end"


def test_disputed_fields_of_typed_tasks_are_forecast_as_short_paid_answers() -> None:
    """The same disputes cost less when the prompt is mostly schema, which a part of the fields does not need."""
    paid = Candidate("claude", "claude", "paid", "claude", Price(Decimal(3), Decimal(15)))
    free = tuple(Candidate(name, name, "free", name) for name in ("gemini", "llama"))
    task = Sketch("simple", "json", False, (*free, paid), 600, 60, "schema", 6)
    whole, cut = (
        forecast([replace(task, schema_tokens=tokens)] * 200, Policy(), paid, Known()) for tokens in (0, 500)
    )
    assert whole.paid_tasks == cut.paid_tasks > 40
    assert cut.expected < Decimal("0.8") * whole.expected < whole.baseline
