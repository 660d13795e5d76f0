"""Derives `deployments/replay/outcomes.jsonl` from recorded answers: figures only, no texts.

python tests/benchmarks/derive_outcomes.py ../shared/data/replay > deployments/replay/outcomes.jsonl
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tta_dev_primitives.flows.answers.closed_answers import AnswerFormat, agree, final_answer
from tta_dev_primitives.flows.planning.local_classifier import answer_format, is_long
from tta_dev_primitives.flows.validation.local_checks import check_text

MODELS = (
    "claude-3-5-sonnet-20241022", "gemini-1.5-pro", "Meta-Llama-3.1-70B-Instruct", "deepseek-v2.5-0908",
    "claude-3-opus-20240229",
)  # fmt: skip
MIX = (("gsm8k", 280), ("crux", 80), ("math_l5", 40))
HEAD = {
    "about": "Recorded outcomes: per model right (0/1), which answers are the same (-1: not comparable, -2: refused by "
    "a local check), prompt tokens, output tokens. No texts.",
    "source": "WildEval/ZeroEval (Apache-2.0): GSM8K, CRUXEval, MATH level 5; tokens estimated with cl100k_base",
    "models": MODELS,
    "fields": ["dataset", "use_case", "answer_format", "long", *MODELS],
}


def derived(folder: Path) -> Iterator[str]:
    """The lines of the file."""
    rng, lines = random.Random(1), []
    for name, count in MIX:
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
        lines += [figures(name, row) for row in rng.sample(rows, count)]
    rng.shuffle(lines)
    yield json.dumps(HEAD)
    yield from (json.dumps(line, separators=(",", ":")) for line in lines)


def figures(dataset: str, row: Mapping[str, Any]) -> list[Any]:
    """One record."""
    form, groups = answer_format(row["prompt"]), list[str]()
    line: list[Any] = [dataset, row["use_case"], form, int(is_long(row["prompt"]))]
    for name in MODELS:
        known = row["models"][name]
        group = _group(row["prompt"], known, form, groups)
        line.append([int(known["correct"]), group, known["input_tokens"], known["output_tokens"]])
    return line


def _group(prompt: str, known: Mapping[str, Any], form: AnswerFormat, groups: list[str]) -> int:
    finish = "length" if known.get("truncated") else "stop"
    if check_text(known["answer"], answer_format=form, finish=finish, task=prompt):
        return -2
    final = final_answer(known["answer"], form)
    if final is None:
        return -1
    found = next((at for at, other in enumerate(groups) if agree(other, final)), None)
    if found is None:
        groups.append(final)
        return len(groups) - 1
    return found


if __name__ == "__main__":
    print("\n".join(derived(Path(sys.argv[1]))))
