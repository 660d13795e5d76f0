"""Rows 1 to 30: what each fault of a call leads to, at every call site, on both databases."""

from __future__ import annotations

import asyncio
from itertools import product

import pytest
from drive import Bench, cell, recovery
from matrix import CALL_ROWS, SITES, Row


@pytest.mark.parametrize("row", CALL_ROWS, ids=lambda row: f"{row.number:02d}-{row.title.replace(' ', '-')}")
async def test_a_fault_has_its_action_its_entry_and_its_words(row: Row, bench: Bench) -> None:
    """Each fault of the row, at every call site at once: action, ledger rows, events' figures, message, no key."""
    database = "sqlite" if bench.url.startswith("sqlite") else "postgresql"
    sites = [site for site in SITES if row.why_not(site, database) is None]
    cells = list(product(row.faults, sites))
    found = await asyncio.gather(*(cell(bench, fault, site) for fault, site in cells))
    wrong = [
        f"{fault.name} at {site}: {problem}"
        for (fault, site), problems in zip(cells, found, strict=True)
        for problem in problems
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "row",
    [row for row in CALL_ROWS if any(fault.recovers for fault in row.faults)],
    ids=lambda row: f"{row.number:02d}-{row.title.replace(' ', '-')}",
)
async def test_a_fault_that_passes_is_repeated_at_the_same_model(row: Row, bench: Bench) -> None:
    """What is worth another try is tried again where it was: the second call serves."""
    cells = [(fault, site) for fault in row.faults if fault.recovers for site in SITES]
    found = await asyncio.gather(*(recovery(bench, fault, site) for fault, site in cells))
    wrong = [
        f"{fault.name} at {site}: {problem}"
        for (fault, site), problems in zip(cells, found, strict=True)
        for problem in problems
    ]
    assert not wrong, "\n".join(wrong)
