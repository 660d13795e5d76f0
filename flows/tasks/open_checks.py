"""The tasks of a run whose check is under way: others of their stratum may wait for what the checks show."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping

from tta_dev_primitives.flows.tasks.item import Item


class OpenChecks:
    """Which tasks are being checked, by stratum, and when the next of them has ended."""

    def __init__(self) -> None:
        self._strata: dict[Item, str] = {}
        self._one_ended = asyncio.Event()

    @property
    def by_stratum(self) -> Mapping[str, int]:
        """How many checks of each stratum are open."""
        return Counter(self._strata.values())

    def open(self, item: Item, stratum: str) -> None:
        """A check of an item's answer begins; it ends with `ended`."""
        self._strata[item] = stratum

    def ended(self, items: Iterable[Item]) -> None:
        """Items have ended, whichever way: who waits looks again."""
        if [item for item in items if self._strata.pop(item, None) is not None]:
            self._one_ended.set()
            self._one_ended = asyncio.Event()

    def next_end(self) -> asyncio.Event:
        """Set as soon as one more check has ended; taken before the look that may show what to wait for."""
        return self._one_ended
