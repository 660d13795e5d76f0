"""Sums of rows that no longer change, so that reports and proofs read the sums and the few rows after them.

A row is summed once it has ended: it is marked, and its amounts move into the row of its group. A summed row that is
changed after all leaves its group first (`unsum`). A row that is deleted moves its amounts from the sums of kept rows
(`kept` 1) to those of deleted ones (`kept` 0). So sums and unsummed rows together always equal all rows ever written.
Amounts are integer pico-USD.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tta_dev_primitives.blocks.ledger.database.migrations import register_schema
from tta_dev_primitives.blocks.ledger.database.protocol import Tx, writes
from tta_dev_primitives.blocks.ledger.months import day_of

if TYPE_CHECKING:
    from tta_dev_primitives.blocks.ledger.core import LedgerCore

register_schema(
    "sums",
    1,
    [
        "ALTER TABLE ledger_call ADD COLUMN summed INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX ledger_call_unsummed ON ledger_call (scope, month) WHERE summed = 0",
        """CREATE TABLE ledger_call_sum (
            scope TEXT NOT NULL, month TEXT NOT NULL, day TEXT NOT NULL, provider TEXT NOT NULL,
            model TEXT NOT NULL, role TEXT NOT NULL, use_case TEXT NOT NULL, billing TEXT NOT NULL,
            state TEXT NOT NULL, outcome TEXT NOT NULL, extra TEXT NOT NULL, kept INTEGER NOT NULL,
            calls INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
            charged INTEGER NOT NULL, list_value INTEGER NOT NULL, baseline INTEGER NOT NULL,
            PRIMARY KEY (scope, month, day, provider, model, role, use_case, billing, state, outcome, extra, kept))
            STRICT""",
        """CREATE TABLE ledger_event_sum (
            scope TEXT NOT NULL, month TEXT NOT NULL, kept INTEGER NOT NULL, entries INTEGER NOT NULL,
            d_spent INTEGER NOT NULL, d_held INTEGER NOT NULL, d_approved INTEGER NOT NULL,
            PRIMARY KEY (scope, month, kept)) STRICT""",
        # Entries of the journal up to this number are in the sums.
        "CREATE TABLE ledger_proof (scope TEXT PRIMARY KEY, upto INTEGER NOT NULL) STRICT",
    ],
)
register_schema(
    "sums",
    2,
    [
        "ALTER TABLE ledger_call ADD COLUMN cache_read_tokens INTEGER",
        "ALTER TABLE ledger_call_sum ADD COLUMN cache_read_tokens INTEGER NOT NULL DEFAULT 0",
    ],
)


@dataclass(frozen=True, slots=True)
class Summed:
    """A table whose ended rows are summed. Names are fixed text of this program."""

    table: str
    key: str
    """Its primary key, as written in SQL."""
    group: tuple[str, ...]
    """Columns that rows of one group agree in; NULL counts as the empty text."""
    amounts: tuple[str, ...]
    """Columns that are added up; NULL counts as 0."""
    count: str
    """The column of the sums with the number of rows."""
    ended: str
    """SQL: the row does not change any more, as a rule."""
    by_day: bool = False
    """Also by the calendar day of `created_at`."""
    mean: str | None = None
    """A column whose sum and count of values are kept, as `<name>_sum` and `<name>_count`."""

    @property
    def sums(self) -> str:
        """The table with the sums."""
        return f"{self.table}_sum"

    @property
    def groups(self) -> tuple[str, ...]:
        """The columns that name a row of the sums."""
        return ("scope", *self.group, *(("day",) if self.by_day else ()), "kept")

    @property
    def totals(self) -> tuple[str, ...]:
        """The columns that are added up in the sums."""
        more = () if self.mean is None else (f"{self.mean}_sum", f"{self.mean}_count")
        return (self.count, *self.amounts, *more)

    @property
    def read(self) -> str:
        """The columns of a row that its group and its amounts are made of."""
        more = (*(("created_at",) if self.by_day else ()), *(() if self.mean is None else (self.mean,)))
        return ", ".join((*self.group, *self.amounts, *more))


CALLS = Summed(
    "ledger_call",
    "id",
    ("month", "provider", "model", "role", "use_case", "billing", "state", "outcome", "extra"),
    ("input_tokens", "cache_read_tokens", "output_tokens", "charged", "list_value", "baseline"),
    "calls",
    "state IN ('settled', 'released')",
    by_day=True,
)


@writes("prune", idempotent=True)
async def delete_summed(ledger: LedgerCore, tx: Tx, what: Summed, where: str, *args: Any) -> int:
    """Delete summed rows, and move their amounts from the sums of kept rows to those of deleted ones."""
    scope, timezone = ledger.scope, ledger.timezone
    rows = await tx.fetch(
        # An expression: an index on the scope would be read from end to end for each part of the table.
        f"DELETE FROM {what.table} WHERE scope || '' = ? AND summed = 1 AND {where} RETURNING {what.read}",  # noqa: S608
        *(scope, *args),
    )
    await add_to_sums(tx, what, scope, timezone, rows, sign=-1)
    await add_to_sums(tx, what, scope, timezone, rows, kept=0)
    return len(rows)


@writes("sum", idempotent=True)
async def sum_ended(ledger: LedgerCore, tx: Tx, what: Summed, most: int) -> int:
    """Move up to `most` ended rows into the sums; returns how many."""
    still = f"summed = 0 AND {what.ended}"
    rows = await tx.fetch(
        f"UPDATE {what.table} SET summed = 1 WHERE ({what.key}) IN "  # noqa: S608 - fixed text
        f"(SELECT {what.key} FROM {what.table} WHERE scope = ? AND {still} LIMIT ?) AND {still} RETURNING {what.read}",
        *(ledger.scope, most),
    )
    await add_to_sums(tx, what, ledger.scope, ledger.timezone, rows)
    return len(rows)


async def unsum(tx: Tx, what: Summed, scope: str, timezone: str, where: str, *args: Any) -> None:
    """Take the rows that `where` names out of the sums again, before they are changed."""
    rows = await tx.fetch(
        f"UPDATE {what.table} SET summed = 0 WHERE scope = ? AND summed = 1 AND {where} "  # noqa: S608 - fixed text
        f"RETURNING {what.read}",
        *(scope, *args),
    )
    await add_to_sums(tx, what, scope, timezone, rows, sign=-1)


async def move_sums(tx: Tx, what: Summed, scope: str, month: str) -> None:
    """Move the sums of later months into `month`; only deleted rows have any there, the others are unsummed before."""
    columns = ", ".join((*(name for name in what.groups if name != "month"), *what.totals))
    await tx.execute(f"DELETE FROM {what.sums} WHERE scope = ? AND month > ? AND kept = 1", scope, month)  # noqa: S608
    rows = await tx.fetch(
        f"DELETE FROM {what.sums} WHERE scope = ? AND month > ? RETURNING {columns}",  # noqa: S608 - fixed text
        *(scope, month),
    )
    for row in rows:
        await _add(tx, what, {**row, "month": month})


async def add_to_sums(
    tx: Tx,
    what: Summed,
    scope: str,
    timezone: str,
    rows: Sequence[dict[str, Any]],
    *,
    sign: int = 1,
    kept: int = 1,
) -> None:
    """Add rows to the sums of their groups; take them away with `sign` -1."""
    # In order: two processes that sum at once then never wait for each other in a circle.
    for group, totals in sorted(_grouped(what, timezone, rows).items()):
        names = zip(what.groups, (scope, *group, kept), strict=True)
        await _add(tx, what, dict(names) | dict(zip(what.totals, (sign * n for n in totals), strict=True)))


async def _add(tx: Tx, what: Summed, values: dict[str, Any]) -> None:
    columns = (*what.groups, *what.totals)
    update = ", ".join(f"{name} = {what.sums}.{name} + excluded.{name}" for name in what.totals)
    await tx.execute(
        f"INSERT INTO {what.sums} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "  # noqa: S608
        f"ON CONFLICT ({', '.join(what.groups)}) DO UPDATE SET {update}",
        *(values[name] for name in columns),
    )


def _grouped(
    what: Summed, timezone: str, rows: Iterable[dict[str, Any]]
) -> dict[tuple[Any, ...], list[int | float]]:
    width, first_mean = len(what.totals), 1 + len(what.amounts)
    groups: dict[tuple[Any, ...], list[int | float]] = defaultdict(lambda: [0] * width)
    for row in rows:
        names = ["" if row[name] is None else row[name] for name in what.group]
        if what.by_day:
            names.append(_day(int(row["created_at"] // 900), timezone))
        totals = groups[tuple(names)]
        totals[0] += 1
        for at, name in enumerate(what.amounts, start=1):
            totals[at] += row[name] or 0
        if what.mean is not None and row[what.mean] is not None:
            totals[first_mean] += row[what.mean]
            totals[first_mean + 1] += 1
    return groups


@lru_cache(maxsize=4096)
def _day(quarter: int, timezone: str) -> str:
    # A quarter of an hour is the finest step in which time zones differ.
    return day_of(quarter * 900, timezone)
