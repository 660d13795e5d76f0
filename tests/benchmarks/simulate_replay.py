"""Prints what the design saves, and at which accuracy, on recorded answers: offline, seconds, no keys.

    python tests/benchmarks/simulate_replay.py [--runs 20] [--violations 300] [--shared ../shared]

It drives the flow's own decisions (support/offline_replay.py). "3 free" adds the third recorded free family to the
fallback list of a scenario file, which is otherwise used unmodified.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from offline_replay import (  # noqa: E402
    DEEPSEEK,
    GEMINI,
    LLAMA,
    MIX,
    MODELS,
    OPUS,
    PRICES,
    SONNET,
    STAND_INS,
    Recorded,
    Scenario,
    Score,
    load,
    mix,
    replay,
    shuffled,
)

from tta_dev_primitives.config.models.targets import Usage  # noqa: E402
from tta_dev_primitives.flows.answers.closed_answers import agree  # noqa: E402
from tta_dev_primitives.flows.answers.hedging import hedged  # noqa: E402

SCENARIOS = ROOT / "config" / "scenarios"
BALANCED = Scenario.of(SCENARIOS / "balanced.yaml")
COST = Scenario.of(SCENARIOS / "cost-optimized.yaml")
QUALITY = Scenario.of(SCENARIOS / "quality-optimized.yaml")
FULL = Scenario.of(ROOT / "config" / "default-config.yaml")
BALANCED3 = Scenario.of(SCENARIOS / "balanced.yaml", DEEPSEEK)
QUALITY3 = Scenario.of(SCENARIOS / "quality-optimized.yaml", LLAMA, DEEPSEEK)

Draw = Callable[[random.Random], list[Recorded]]


def runs(scenario: Scenario, draw: Draw, count: int) -> list[Score]:
    """Independent replays, each with its own order and coins."""
    return [replay(scenario, draw(rng), rng) for rng in map(random.Random, range(count))]


def show(title: str, scenario: Scenario, scores: Sequence[Score]) -> None:
    """One line of the table."""
    savings, accuracies = [t.saving for t in scores], [t.relative_accuracy for t in scores]
    alone = [float(1 - t.cost / t.paid_alone) for t in scores]
    calls = sum(sum(t.paid_calls.values()) for t in scores) / sum(t.tasks for t in scores)
    print(
        f"{title:16} {scenario.name:34} {scores[0].tasks:5} tasks"
        f"  saving {statistics.mean(savings):6.1%} (lowest {min(savings):6.1%})"
        f"  against the paid model's own tokens {statistics.mean(alone):6.1%} (lowest {min(alone):6.1%})"
        f"  accuracy/paid {statistics.mean(accuracies):7.2%} (lowest {min(accuracies):7.2%})"
        f"  right {statistics.mean(t.right / t.tasks for t in scores):6.2%}"
        f"  paid calls {calls:5.1%}  rejected {statistics.mean(t.rejected / t.tasks for t in scores):5.2%}"
        f"  violations {sum(t.violated for t in scores)}/{len(scores)}"
    )


def drift_delays(corpus: list[Recorded], other: str, count: int) -> tuple[float, int]:
    """Median tasks from a swap of the first free model to the first alarm, and false alarms before it."""
    delays, false = [], 0
    for rng in map(random.Random, range(count)):
        records = [rng.choice(corpus) for _ in range(600)]
        score = replay(BALANCED, records, rng, swaps={GEMINI: other}, swap_from=300)
        after = [n - 299 for n in score.alarms if n >= 300]
        false += sum(n < 300 for n in score.alarms)
        delays.append(after[0] if after else 300)
    return statistics.median(delays), false


def divided(corpora: dict[str, list[Recorded]]) -> float:
    """The share of the paid model's cost that lies in tasks of the mix on which the two free models disagree."""
    free, paid = [MODELS[name] for name in (GEMINI, LLAMA)], PRICES[SONNET]
    apart = total = 0.0
    for name, share in MIX:
        for record in corpora[name]:
            one, other = (record.answer(by, record.named(by.model)).final for by in free)
            own = record.row(record.named(SONNET))
            cost = float(paid.cost(Usage(own["input_tokens"], output_tokens=own["output_tokens"])))
            weight = share * cost / len(corpora[name])
            total += weight
            apart += weight * (not agree(one, other))
    return apart / total


def doubts(title: str, corpus: list[Recorded]) -> None:
    """How often answers that doubt themselves are wrong, and the others, for each model that stands in."""
    for model in (GEMINI, LLAMA, DEEPSEEK, SONNET):
        wrong: dict[bool, list[bool]] = {True: [], False: []}
        for record in corpus:
            name = record.named(model)
            answer = record.answer(MODELS[model], name)
            wrong[hedged(answer.text, answer.final)].append(not record.row(name)["correct"])
        shares = [f"{statistics.mean(w):.1%} of {len(w)}" if w else "none" for w in wrong.values()]
        print(f"doubts, {title:10} {model:26} wrong: {shares[0]} that waver, {shares[1]} others")


def contradictions(title: str, corpus: list[Recorded], paid: str) -> None:
    """How often `paid` answers otherwise than the two free models that agree, and who is right then."""
    free = [MODELS[name] for name in (GEMINI, LLAMA)]
    agreed, sides = 0, {"the free": 0, "the paid": 0, "neither": 0}
    for record in corpus:
        if not any(name in record for name in STAND_INS[paid]):
            continue
        one, other = (record.answer(by, record.named(by.model)).final for by in free)
        if not agree(one, other):
            continue
        agreed += 1
        own = record.named(paid)
        if not agree(one, record.answer(MODELS[paid], own).final):
            right = {
                "the free": record.row(record.named(GEMINI))["correct"],
                "the paid": record.row(own)["correct"],
            }
            sides[next((side for side, is_right in right.items() if is_right), "neither")] += 1
    print(f"contradictions, {title:10} {paid:18} {sum(sides.values())} of {agreed} agreed; right: {sides}")


def violations(corpora: dict[str, list[Recorded]], count: int) -> None:
    """Randomised runs under the balanced gate: lengths, orders, mixtures and scenario files are all drawn."""
    at_end = ever = 0
    for seed in range(count):
        rng = random.Random(10_000 + seed)
        scenario = rng.choice([COST, BALANCED, FULL, BALANCED3])
        tasks = rng.choice([200, 400, 800, 1200])
        names = rng.choice([("gsm8k",), ("crux",), ("math_l5",), ("gsm8k", "crux", "math_l5"), ("mix",)])
        records = mix(corpora, tasks, rng) if names == ("mix",) else [
            rng.choice(corpora[rng.choice(names)]) for _ in range(tasks)
        ]  # fmt: skip
        score = replay(scenario, records, rng)
        at_end, ever = at_end + score.violated, ever + score.ever_over
    print(
        f"threshold violations, balanced gate: {at_end} of {count} runs at the end, {ever} at any moment after 100"
    )


def write_mix(folder: Path, path: Path) -> None:
    """840 tasks of GSM8K, 240 of CRUX and 120 of MATH; what the folder has less of is repeated, as tasks of its own."""
    lines = []
    for name, count in (("gsm8k", 840), ("crux", 240), ("math_l5", 120)):
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for number in range(count):
            row = rows[number % len(rows)]
            again = f"(Task {number}) " if number >= len(rows) else ""
            lines.append(json.dumps({**row, "id": f"{name}-{number}", "prompt": f"{again}{row['prompt']}"}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = Path(os.environ.get("TTA_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--shared", type=Path, default=shared)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument(
        "--violations", type=int, default=0, metavar="N", help="also count violations in N runs"
    )
    parser.add_argument(
        "--write-mix",
        type=Path,
        metavar="FILE",
        help="only write 1,200 tasks of the mix, for `tta replay FILE`",
    )
    arguments = parser.parse_args()
    folder = arguments.shared / "data" / "replay"
    if arguments.write_mix:
        write_mix(folder, arguments.write_mix)
        return
    corpora = {name: load(folder, name) for name in ("gsm8k", "crux", "math_l5", "numersense")}

    def once(name: str) -> Draw:
        return lambda rng: shuffled(corpora[name], rng)

    for scenario in (COST, BALANCED, BALANCED3):
        show("GSM8K", scenario, runs(scenario, once("gsm8k"), arguments.runs))
    longer: Draw = lambda rng: [rng.choice(corpora["gsm8k"]) for _ in range(919)]  # noqa: E731
    for scenario in (COST, BALANCED):
        show("GSM8K x 919", scenario, runs(scenario, longer, arguments.runs))
    for scenario in (BALANCED, FULL, BALANCED3, QUALITY, QUALITY3):
        show("mix 70/20/10", scenario, runs(scenario, lambda rng: mix(corpora, 1200, rng), arguments.runs))
    for name in ("numersense", "crux", "math_l5"):
        for scenario in (BALANCED, BALANCED3):
            show(name, scenario, runs(scenario, once(name), arguments.runs))
    for other in ("gemma-2-2b-it", "command-r", "Mixtral-8x7B-Instruct-v0.1"):
        delay, false = drift_delays(corpora["gsm8k"], other, arguments.runs)
        print(
            f"drift to {other}: noticed after {delay:g} tasks (median), {false} false alarms in {arguments.runs} x 300"
        )
    print(
        f"mix 70/20/10: {divided(corpora):.1%} of the paid model's cost lies where the two free models disagree"
    )
    for name, corpus in corpora.items():
        doubts(name, corpus)
        for paid in (SONNET, OPUS):
            contradictions(name, corpus, paid)
    if arguments.violations:
        violations(corpora, arguments.violations)


if __name__ == "__main__":
    main()
