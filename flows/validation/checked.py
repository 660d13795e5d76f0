"""What the local checks found in one reply: a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Checked:
    """A reply after its local checks."""

    text: str
    """The answer; of a reply to a question for some fields the whole object."""
    failures: tuple[str, ...] = ()
    final: str | None = None
    """Its canonical closed answer, if it has one."""
    fields: tuple[str, ...] | None = None
    """The fields that were asked for; None: all."""
