"""RouteLLM's axes: which share of calls must go to the strong model for which part of the quality gap. Pure.

PGR is the part of the accuracy gap between the weak and the strong model that a router recovers at a share of strong
calls; APGR is its mean over all shares; CPT(x) is the least share of strong calls that recovers x of the gap
(Ong et al., "RouteLLM: Learning to Route LLMs with Preference Data", arXiv 2406.18665).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tta_dev_primitives.deployments.replay.recorded import Record
from tta_dev_primitives.flows.answers.closed_answers import agree, final_answer
from tta_dev_primitives.flows.answers.hedging import hedged
from tta_dev_primitives.flows.planning.local_classifier import answer_format

PUBLISHED: Mapping[str, tuple[float, float, float]] = {
    "gsm": (0.3364, 0.6326, 0.622),
    "mmlu": (0.3540, 0.7031, 0.603),
    "mt_bench": (0.1340, 0.3131, 0.802),
}
"""Best published CPT(50 %), CPT(80 %) and APGR of RouteLLM, by data set."""

_WEAK, _STRONG = "routellm:mistralai/Mixtral-8x7B-Instruct-v0.1", "routellm:gpt-4-1106-preview"
_OTHERS = ("Mixtral-8x7B-Instruct-v0.1", "command-r", "Meta-Llama-3.1-8B-Instruct")
"""Other cheap models whose agreement with the weak model's answer is the routing signal."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy at each share of strong calls, from none to all."""

    accuracy: tuple[float, ...]
    weak: float
    strong: float

    def pgr(self) -> list[float]:
        """Recovered part of the gap at each share."""
        gap = self.strong - self.weak
        return [(a - self.weak) / gap for a in self.accuracy]

    @property
    def apgr(self) -> float:
        """Mean recovered part over all shares."""
        recovered = self.pgr()
        return sum(recovered) / len(recovered)

    def cpt(self, part: float) -> float:
        """Least share of strong calls that recovers `part` of the gap."""
        recovered = self.pgr()
        return next(n for n, value in enumerate(recovered) if value >= part) / (len(recovered) - 1)


@dataclass(frozen=True, slots=True)
class Axes:
    """Our curve, the best possible one, and RouteLLM's best published figures for the data set."""

    ours: Curve
    oracle: Curve
    published: tuple[float, float, float] | None


def axes_of(records: Sequence[Record]) -> Axes | None:
    """The curves of the records; None where they do not hold RouteLLM's models."""
    ours, oracle = agreement_curve(records), oracle_curve(records)
    if ours is None or oracle is None:
        return None
    return Axes(ours, oracle, PUBLISHED.get(records[0].dataset or ""))


def agreement_curve(records: Sequence[Record]) -> Curve | None:
    """Route to the strong model first where other cheap models agree least with the weak one's answer.

    Where as many agree with it, those go first on which the others agree with each other against it, then those whose
    weak answer doubts itself. Records that RouteLLM drops for contamination are left out; None when the records hold
    no such answers.
    """
    rows = []
    for record in records:
        models = record.models
        if not {_WEAK, _STRONG, *_OTHERS} <= set(models) or record.routellm_contaminated:
            continue
        fmt = answer_format(record.prompt)
        text = models[_WEAK].answer or ""
        weak = final_answer(text, fmt)
        others = [final_answer(models[n].answer or "", fmt) for n in _OTHERS]
        votes = sum(agree(weak, other) for other in others)
        rivals = max((sum(agree(a, b) for b in others) for a in others if not agree(a, weak)), default=0)
        order = (votes, -rivals, not hedged(text, weak))
        rows.append((order, bool(models[_WEAK].correct), bool(models[_STRONG].correct)))
    return _curve(sorted(rows, key=lambda row: row[0])) if rows else None


def oracle_curve(records: Sequence[Record]) -> Curve | None:
    """The best possible order: first where only the strong model is right, last where only the weak one is."""
    rows = [
        ((), bool(r.models[_WEAK].correct), bool(r.models[_STRONG].correct))
        for r in records
        if {_WEAK, _STRONG} <= set(r.models) and not r.routellm_contaminated
    ]
    return _curve(sorted(rows, key=lambda row: row[1] - row[2])) if rows else None


def _curve(rows: Sequence[tuple[tuple[int, ...], bool, bool]]) -> Curve | None:
    """The curve of one order; None where the strong model is not the better one, so that there is no gap."""
    right = sum(weak for _, weak, _ in rows)
    strong = sum(s for _, _, s in rows)
    if strong <= right:
        return None
    accuracy, first = [right / len(rows)], right
    for _, w, s in rows:
        right += s - w
        accuracy.append(right / len(rows))
    return Curve(tuple(accuracy), first / len(rows), strong / len(rows))
