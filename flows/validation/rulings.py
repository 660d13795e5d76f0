"""One ruling and one label a task: what the risk ledger remembers of each task, by its content. Pure.

A task that is postponed, killed, restarted or repeated meets the ruling that it met before. Its delivery counts once,
and its label counts once for each incarnation of a stratum. A word that comes from the store teaches only a task that
was cut off before its first end was recorded.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import TypeAdapter

from tta_dev_primitives.flows.validation.evidence import Evidence
from tta_dev_primitives.flows.validation.risk import (
    compared,
    delivered,
    enrolled,
    fields_checked,
    judged,
    observe,
    rule,
    unlabelled,
)
from tta_dev_primitives.flows.validation.risk_state import Label, RiskPolicy, RiskState, Ruling
from tta_dev_primitives.flows.validation.statistics import coin


def task_key(task: str, system: str | None = None) -> str:
    """The content key of a task: white space, case and the form of its letters do not matter."""
    parts = [
        " ".join(unicodedata.normalize("NFKC", part or "").casefold().split()) for part in (system, task)
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Held:
    """One ruling, and what has come of it."""

    ruling: Ruling
    """Its evidence is not kept: it comes with the task."""
    labelled: bool = False
    compared: bool = False
    """Its comparison with the orchestrator's own answer has been counted."""
    closed: Literal["", "-", "1"] = ""
    """The task ended without a label, and as what it counts; one that comes later still counts."""


@dataclass(frozen=True, slots=True)
class TaskRow:
    """What is remembered of one task."""

    observed: bool = False
    counted: bool = False
    held: Mapping[int, Held] = field(default_factory=dict)
    """Order of a stratum -> its ruling."""

    def to_json(self) -> str:
        """One line of JSON."""
        return _JSON.dump_json(self, exclude_defaults=True).decode()

    @classmethod
    def from_json(cls, text: str | None) -> TaskRow:
        """The row that `to_json` wrote; an empty one for None."""
        return cls() if text is None else _JSON.validate_json(text)

    def keep(self, held: Held) -> TaskRow:
        """The row with one ruling replaced."""
        return replace(self, held={**self.held, held.ruling.order: held})


_JSON = TypeAdapter(TaskRow)
_NO_EVIDENCE = Evidence("", "")


def observe_once(
    state: RiskState, row: TaskRow, evidence: Evidence, policy: RiskPolicy
) -> tuple[bool, RiskState, TaskRow]:
    """Watch whether the first two answers of a task agree; True when that raised an alarm."""
    if row.observed or evidence.group is None:
        return False, state, row
    state, alarm = observe(state, evidence, policy)
    return alarm, state, replace(row, observed=True)


def rule_once(
    state: RiskState,
    row: TaskRow,
    task: str,
    evidence: Evidence,
    policy: RiskPolicy,
    *,
    secret: str,
    month: str,
    under_way: int | None = None,
) -> tuple[Ruling, RiskState, TaskRow]:
    """The ruling of a task: the one that it met before, or a new one.

    Args:
        row: What is known of the task.
        evidence: What speaks for its answer.
        secret: The ledger's secret, under which the coins are drawn.
        under_way: Checks of its stratum that the run has open; see `risk.rule`.
    """
    drifted, state, row = observe_once(state, row, evidence, policy)
    state = enrolled(state, evidence)
    order = state.strata[evidence.stratum].order
    held = row.held.get(order)
    if held is not None:
        again = replace(held.ruling, evidence=evidence, drifted=drifted, resumed=True, task=task)
        return again, state, row
    # The order of the stratum's incarnation is its epoch: an alarm makes a new one.
    audit, check = (
        coin(secret, purpose, task, evidence.stratum, f"{month}.{order}") for purpose in ("audit", "check")
    )
    ruling, state = rule(state, evidence, policy, audit, check=check, under_way=under_way)
    if not ruling.put_off:
        row = row.keep(Held(replace(ruling, evidence=_NO_EVIDENCE)))
    return replace(ruling, drifted=drifted, task=task), state, row


def learn_once(
    state: RiskState, row: TaskRow, label: Label, policy: RiskPolicy
) -> tuple[bool, RiskState, TaskRow]:
    """Record what a task showed, and its end, as far as both are new; True when rejections raised an alarm."""
    ruling, alarm = label.ruling, False
    new = not label.reused or (ruling is not None and ruling.resumed)
    held = row.held.get(ruling.order) if ruling is not None else None
    if ruling is not None and held is not None:
        ruling = replace(held.ruling, evidence=ruling.evidence)
        if label.passed is not None and new:
            state, held, alarm = _word(state, held, ruling, label, policy)
        if label.ended and not held.labelled and not held.closed:
            state, closed = unlabelled(state, label, ruling, policy)
            held = replace(held, closed=closed)
        if label.fields and label.ended and new and not row.counted:
            state = fields_checked(state, ruling, label, policy)
        row = row.keep(held)
    if label.ended and label.accepted and new and not row.counted:
        state, row = delivered(state, replace(label, ruling=ruling)), replace(row, counted=True)
    return alarm, state, row


def _word(
    state: RiskState, held: Held, ruling: Ruling, label: Label, policy: RiskPolicy
) -> tuple[RiskState, Held, bool]:
    """Record the orchestrator's word, or a comparison, once."""
    if held.labelled or (label.proxy and held.compared):
        return state, held, False
    failed = not label.passed
    if label.proxy:
        return compared(state, ruling, policy, failed=failed), replace(held, compared=True), False
    if held.closed == "-" and ruling.place < state.strata[ruling.evidence.stratum].base:
        ruling = replace(ruling, place=-1)
    state, alarm = judged(state, ruling, policy, failed=failed)
    return state, replace(held, labelled=True), alarm
