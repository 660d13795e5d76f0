"""The matrix itself: 50 rows at 5 call sites on 2 databases, each cell run or said not to be."""

from __future__ import annotations

import importlib
from itertools import product

from matrix import DATABASES, ROWS, SITES


def test_every_cell_is_run_or_says_why_not() -> None:
    """500 cells: none is missing, none is left out without a reason."""
    assert [row.number for row in ROWS] == list(range(1, 51))
    cells = list(product(ROWS, SITES, DATABASES))
    assert len(cells) == 500
    reasons = [row.why_not(site, database) for row, site, database in cells]
    assert all(reason is None or len(reason) > 20 for reason in reasons)
    assert sum(reason is None for reason in reasons) > 400


def test_every_row_has_its_test() -> None:
    """A row is a set of faults, or names a test that exists."""
    for row in ROWS:
        assert bool(row.faults) != bool(row.event), row.number
        for event in row.event.split(", ") if row.event else ():
            module, _, function = event.partition("::")
            assert callable(getattr(importlib.import_module(module), function)), event
    names = [(row.number, fault.name) for row in ROWS for fault in row.faults]
    assert len(set(names)) == len(names)
