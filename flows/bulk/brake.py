"""Stops a job that only fails: the same local check refuses answer after answer. Pure.

brake = Brake()
brake.answered(answer)                 # each answer as it comes: paid ones must not be bought and refused for ever
brake.ended(answers, failed=True)      # each task that has ended, with every answer it got
brake.reason                           # why the job stops; None: it goes on
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from tta_dev_primitives.flows.validation.case import Answer

_FIRST = 50
"""Tasks at the start of a run that are looked at together."""
_MOST_FAILED = 10
"""So many failed tasks, in a row or among the first ones, with one check in common stop the job."""
_MOST_REFUSED = 3
"""So many paid answers in a row may be refused."""


class Brake:
    """Counts what is refused.

    Args:
        stop: Called once, with the reason, when the job should start nothing new.
    """

    def __init__(self, stop: Callable[[str], None]) -> None:
        self._stop = stop
        self._seen = self._refused = 0
        self._first: Counter[str] = Counter()
        self._row: Counter[str] = Counter()
        self.reason: str | None = None

    def answered(self, answer: Answer) -> None:
        """Count one answer of a model."""
        if answer.by.billing != "paid":
            return
        self._refused = self._refused + 1 if answer.failures else 0
        if self._refused > _MOST_REFUSED:
            self._brake(
                f"{self._refused} paid answers in a row were refused by local checks, "
                f"the last one of {answer.by.model}: {', '.join(answer.failures)[:300]}"
            )

    def ended(self, answers: Sequence[Answer], *, failed: bool) -> None:
        """Count one task that has ended."""
        self._seen += 1
        words = _common(answers) if failed else frozenset()
        self._row = Counter({word: self._row[word] + 1 for word in words})
        if self._seen <= _FIRST:
            self._first.update(words)
        for word in sorted(words):
            if self._row[word] >= _MOST_FAILED:
                self._brake(f"{self._row[word]} tasks in a row failed with {word} from every model")
            elif self._first[word] >= _MOST_FAILED:
                self._brake(
                    f"{self._first[word]} of the first {self._seen} tasks failed with {word} from every model"
                )

    def _brake(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason
            self._stop(reason)


def _common(answers: Sequence[Answer]) -> frozenset[str]:
    """The checks that refused every answer of a task; a check may add details after a colon."""
    found = [frozenset(failure.split(":", 1)[0].strip() for failure in answer.failures) for answer in answers]
    return frozenset.intersection(*found) if found else frozenset()
