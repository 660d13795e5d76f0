"""What the design saves on recorded answers; a change of a rule that costs money or accuracy fails here."""

from __future__ import annotations

import random
import statistics
from pathlib import Path

import pytest
from offline_replay import DEEPSEEK, GEMINI, LLAMA, Recorded, Scenario, Score, load, mix, replay, shuffled
from replay_data import replay_folder

CONFIG = Path(__file__).resolve().parents[2] / "config"
RUNS = 4


@pytest.fixture(scope="module")
def corpora() -> dict[str, list[Recorded]]:
    """The recorded answers, read once."""
    folder = replay_folder()
    return {name: load(folder, name) for name in ("gsm8k", "crux", "math_l5", "numersense")}


def point(name: str, *extra: str) -> Scenario:
    return Scenario.of(CONFIG / f"{name}.yaml", *extra)


def runs(scenario: Scenario, corpora: dict[str, list[Recorded]], corpus: str) -> list[Score]:
    scores = []
    for rng in map(random.Random, range(RUNS)):
        records = mix(corpora, 1200, rng) if corpus == "mix" else shuffled(corpora[corpus], rng)
        scores.append(replay(scenario, records, rng))
    return scores


@pytest.mark.server
@pytest.mark.parametrize(
    ("scenario", "corpus", "saving", "accuracy"),
    [
        (("scenarios/balanced",), "gsm8k", 0.85, 0.99),
        (("scenarios/cost-optimized",), "gsm8k", 0.87, 0.99),
        (("scenarios/balanced",), "mix", 0.63, 0.985),
        (("default-config",), "mix", 0.64, 0.985),
        (("scenarios/balanced", DEEPSEEK), "mix", 0.66, 0.985),
        (("scenarios/quality-optimized",), "mix", 0.28, 0.99),
        (("scenarios/quality-optimized", LLAMA, DEEPSEEK), "mix", 0.40, 1.0),
    ],
)
def test_saving_and_accuracy_of_the_operating_points(
    corpora: dict[str, list[Recorded]], scenario: tuple[str, ...], corpus: str, saving: float, accuracy: float
) -> None:
    """Means of four random orders, all costs included, against the paid model on the same tasks; no violation."""
    scores = runs(point(*scenario), corpora, corpus)
    assert statistics.mean(t.saving for t in scores) >= saving
    assert statistics.mean(t.relative_accuracy for t in scores) >= accuracy
    assert not any(t.violated for t in scores)


def test_where_the_paid_model_is_the_worse_one_the_free_ones_are_not_lost(
    corpora: dict[str, list[Recorded]],
) -> None:
    """NumerSense: about as many right answers as the better free model alone, and more than the paid one."""
    records = corpora["numersense"]
    best_free = max(
        statistics.mean(bool(r.row(r.named(model))["correct"]) for r in records) for model in (GEMINI, LLAMA)
    )
    scores = runs(point("scenarios/balanced"), corpora, "numersense")
    assert statistics.mean(t.right / t.tasks for t in scores) >= best_free - 0.01
    assert statistics.mean(t.relative_accuracy for t in scores) >= 1.0


def test_a_free_model_that_gets_much_worse_is_noticed_within_25_tasks(
    corpora: dict[str, list[Recorded]],
) -> None:
    """From task 300 on a small model answers in place of the first: the median delay of the first alarm."""
    delays = []
    for rng in map(random.Random, range(9)):
        records = [rng.choice(corpora["gsm8k"]) for _ in range(400)]
        score = replay(
            point("scenarios/balanced"), records, rng, swaps={GEMINI: "gemma-2-2b-it"}, swap_from=300
        )
        delays.append(next((n - 299 for n in score.alarms if n >= 300), 999))
    assert statistics.median(delays) <= 25
