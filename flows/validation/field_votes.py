"""Typed answers to one task, field by field: what the models agree on, and what is left open. Pure.

An answer that was asked for some fields only holds the other models' values in the rest: it has no vote there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tta_dev_primitives.flows.answers.fields import FieldStatus, Form
from tta_dev_primitives.flows.validation.case import Answer, Case

_ABSENT = "null"
"""The form of an optional field that is not there."""


@dataclass(frozen=True, slots=True)
class FieldVotes:
    """What some answers say of each closed field."""

    voted: Mapping[str, Form]
    """Path -> the form that enough families gave."""
    best: int
    """The answer with the voted form in most fields; the earliest of several."""
    left: tuple[str, ...]
    """Paths without a voted form, or where the best answer does not have it."""
    compared: int
    """Closed fields."""


def free_votes(case: Case, answers: Sequence[int]) -> FieldVotes:
    """The votes of the answers that are not the orchestrator's."""
    given = [i for i in answers if case.answers[i].by.model != case.orchestrator.model]
    closed = [path for path in _paths(case, given) if None not in _given(case, given, path).values()]
    voted: dict[str, Form] = {}
    for path in closed:
        families: dict[Form, set[str]] = {}
        for i, form in _given(case, given, path).items():
            families.setdefault(form, set()).add(case.answers[i].by.family)
        most = max(families, key=lambda form: len(families[form]))
        if len(families[most]) >= case.policy.agreement:
            voted[path] = most

    def right(i: int) -> int:
        return sum(_form(case.answers[i], path) == form for path, form in voted.items())

    best = max(given, key=lambda i: (right(i), -i))
    left = [p for p in closed if p not in voted or _form(case.answers[best], p) != voted[p]]
    return FieldVotes(voted, best, tuple(left), len(closed))


def same_fields(case: Case, asked: int, own: int, *, whole: bool = False) -> bool | None:
    """Whether the orchestrator's own answer has the same values as another; None: it was asked for some fields only.

    Args:
        whole: Compare every closed field; else those where the other answer has the form that was voted for.
    """
    if case.answers[own].fields is not None:
        return None
    paths = _paths(case, [asked, own])
    if not whole:
        votes = free_votes(case, case.usable)
        withheld = () if case.ruling is None else case.ruling.withheld
        paths = [p for p in paths if p in votes.voted and p not in votes.left] or paths
        paths = [p for p in paths if p not in withheld] or paths
    forms = [(_form(case.answers[asked], path), _form(case.answers[own], path)) for path in paths]
    return all(a == b for a, b in forms if a is not None and b is not None)


def confirmed_fields(case: Case, own: int) -> dict[str, bool]:
    """Each field with a voted value that the orchestrator gave as well: whether its value is the same."""
    voted = free_votes(case, case.usable).voted
    given = {path: _given(case, [own], path) for path in voted}
    return {path: forms[own] == voted[path] for path, forms in given.items() if forms}


def status_of(case: Case) -> dict[str, FieldStatus]:
    """What the usable answers say of each field.

    `agreed`: enough families gave the value. `disputed`: they did not, or the orchestrator gave another one.
    `unchecked`: open text, or one model's word.
    """
    usable = case.usable
    voted = free_votes(case, usable).voted if _free(case) else {}
    return {path: _status(case, path, voted.get(path)) for path in _paths(case, usable)}


def _status(case: Case, path: str, voted: Form) -> FieldStatus:
    given = _given(case, case.usable, path)
    if len(given) < 2 or None in given.values():
        return "unchecked"
    own = [form for i, form in given.items() if case.answers[i].by.model == case.orchestrator.model]
    free = {form for i, form in given.items() if case.answers[i].by.model != case.orchestrator.model}
    if voted is not None:
        return "agreed" if own in ([], [voted]) else "disputed"
    return "agreed" if len(free) == 1 and own == [*free] else "disputed"


def _free(case: Case) -> list[int]:
    return [i for i in case.usable if case.answers[i].by.model != case.orchestrator.model]


def _paths(case: Case, answers: Sequence[int]) -> list[str]:
    return list(dict.fromkeys(path for i in answers for path in _forms(case.answers[i].final)))


def _given(case: Case, answers: Sequence[int], path: str) -> dict[int, Form]:
    """Answer -> its form of one field, for the answers that were asked for it."""
    asked = {i: case.answers[i] for i in answers}
    return {
        i: _form(answer, path)
        for i, answer in asked.items()
        if answer.fields is None or path in answer.fields
    }


def _form(answer: Answer, path: str) -> Form:
    return _forms(answer.final).get(path, _ABSENT)


@lru_cache(maxsize=4096)
def _forms(final: str | None) -> Mapping[str, Form]:
    found: dict[str, Form] = {} if final is None else json.loads(final)
    return found
