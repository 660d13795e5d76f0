"""A month's report from the ledger's rows: by provider, model, role, use case and day; what runs cost; JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from tta_dev_primitives.blocks.ledger.core import LedgerCore
from tta_dev_primitives.blocks.ledger.database.protocol import Tx, in_parts, reads
from tta_dev_primitives.blocks.ledger.money import from_pico
from tta_dev_primitives.blocks.ledger.months import checked_month, day_of
from tta_dev_primitives.blocks.ledger.proof import MONEY
from tta_dev_primitives.blocks.ledger.types import MonthBalance, Quarantine, ReportRow

PLANS = "plans (no use case yet)"
"""The name of calls that were made before the use case of their task was known."""


@dataclass(frozen=True, slots=True)
class Line:
    """Calls of one group, summed. Amounts in USD."""

    name: str
    calls: int
    failed: int
    input_tokens: int
    cache_read_tokens: int
    """Those of `input_tokens` that were read from prompt caches."""
    output_tokens: int
    charged: Decimal
    saved: Decimal
    """List price of what free models did."""
    held: Decimal
    """Set aside for calls in flight."""
    presumed: Decimal
    """The part of `charged` that is not certain."""

    def to_json(self) -> dict[str, Any]:
        """The line as JSON values; money is a string, its name ends in `_usd`."""
        return dict(_json_item(field.name, getattr(self, field.name)) for field in fields(self))


def _json_item(name: str, value: Any) -> tuple[str, Any]:
    return (f"{name}_usd", f"{value:f}") if isinstance(value, Decimal) else (name, value)


@dataclass(frozen=True, slots=True)
class MonthReport:
    """What one month cost, and what it would have cost."""

    balance: MonthBalance
    limit: Decimal | None
    """The limit in force, approvals included; None: no limit."""
    total: Line
    by_provider: tuple[Line, ...]
    by_model: tuple[Line, ...]
    by_role: tuple[Line, ...]
    by_use_case: tuple[Line, ...]
    rows: tuple[ReportRow, ...]
    closed: tuple[Quarantine, ...] = ()
    problems: tuple[str, ...] = ()
    """What `verify` found."""

    @property
    def left(self) -> Decimal | None:
        """USD neither spent nor held; None without a limit. Below 0 when the limit was lowered."""
        return None if self.limit is None else self.limit - self.balance.spent - self.balance.held

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; money is a string."""
        money = {"limit": self.limit, "left": self.left}
        groups = ("by_provider", "by_model", "by_role", "by_use_case")
        return {
            **dict(
                _json_item(field.name, getattr(self.balance, field.name)) for field in fields(self.balance)
            ),
            **{f"{name}_usd": None if usd is None else f"{usd:f}" for name, usd in money.items()},
            "total": self.total.to_json(),
            **{group: [line.to_json() for line in getattr(self, group)] for group in groups},
            "closed": [{"key": one.key, "reason": one.reason, "call_id": one.call_id} for one in self.closed],
            "problems": list(self.problems),
        }

    def to_csv(self) -> str:
        """Every row as CSV with a header; money in USD."""
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        columns = [field.name for field in fields(ReportRow)]
        table.writerow(["month", *(f"{name}_usd" if name in MONEY else name for name in columns)])
        for row in self.rows:
            table.writerow([self.balance.month, *(_cell(getattr(row, name)) for name in columns)])
        return out.getvalue()


def month_report(
    balance: MonthBalance,
    rows: Iterable[ReportRow],
    *,
    limit: Decimal | None,
    closed: Sequence[Quarantine] = (),
    problems: Sequence[str] = (),
) -> MonthReport:
    """Shape a month's report; `limit` is the configured one, without approvals."""
    ordered = tuple(
        sorted(
            rows, key=lambda r: (r.provider, r.model, r.role, r.use_case or "", r.billing, r.state, r.outcome)
        )
    )
    return MonthReport(
        balance,
        balance.limit(limit),
        _line("total", ordered),
        _lines(ordered, lambda row: row.provider),
        _lines(ordered, lambda row: row.model),
        _lines(ordered, lambda row: row.role),
        _lines(ordered, lambda row: row.use_case or PLANS),
        ordered,
        tuple(closed),
        tuple(problems),
    )


def _lines(rows: Sequence[ReportRow], group: Callable[[ReportRow], str]) -> tuple[Line, ...]:
    """One line a group, the dearest first."""
    groups: dict[str, list[ReportRow]] = {}
    for row in rows:
        groups.setdefault(group(row), []).append(row)
    lines = [_line(name, members) for name, members in groups.items()]
    return tuple(sorted(lines, key=lambda line: (-line.charged, -line.calls, line.name)))


def _line(name: str, rows: Sequence[ReportRow]) -> Line:
    return Line(
        name,
        sum(row.calls for row in rows),
        sum(row.calls for row in rows if row.outcome not in ("ok", "in_flight")),
        sum(row.input_tokens for row in rows),
        sum(row.cache_read_tokens for row in rows),
        sum(row.output_tokens for row in rows),
        sum((row.charged for row in rows), Decimal(0)),
        sum((row.list_value for row in rows if row.billing == "free"), Decimal(0)),
        sum((row.held for row in rows), Decimal(0)),
        sum((row.charged for row in rows if row.state == "presumed"), Decimal(0)),
    )


def _cell(value: Any) -> Any:
    """A name from a configuration may not become a formula in a spreadsheet."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if formula else value


_NOT_IN_A_BATCH = (
    " AND NOT EXISTS (SELECT 1 FROM ledger_batch_line line "
    "WHERE line.call_id = ledger_call.id AND line.state = 'open')"
)


@reads
async def cost_of_runs(
    ledger: LedgerCore, tx: Tx, flow_run_ids: Sequence[str], *, with_open_batches: bool = True
) -> Decimal:
    """USD that the calls of these flow runs were charged, with calls still open at their bound.

    Args:
        with_open_batches: Whether what is held for batches that are not collected yet counts.
    """
    total, unless = 0, "" if with_open_batches else _NOT_IN_A_BATCH
    for marks, ids in in_parts(flow_run_ids):
        (row,) = await tx.fetch(
            "SELECT coalesce(sum(CASE WHEN state = 'held' THEN bound ELSE charged END), 0) AS cost "  # noqa: S608
            f"FROM ledger_call WHERE scope = ? AND billing = 'paid' AND flow_run_id IN ({marks}){unless}",
            *(ledger.scope, *ids),
        )
        total += int(row["cost"])
    return from_pico(total)


@reads
async def spend_by_day(ledger: LedgerCore, tx: Tx, month: str) -> dict[str, Decimal]:
    """What the paid calls of a month were charged, by the day of their start in the ledger's time zone.

    Returns:
        `YYYY-MM-DD` -> USD, in order; days without a charge are left out.
    """
    # A quarter of an hour is the finest step in which time zones differ.
    quarters = "floor(created_at / 900)" if ledger.database.dialect == "postgresql" else "created_at / 900"
    of = (ledger.scope, checked_month(month))
    summed = await tx.fetch(
        "SELECT day, CAST(sum(charged) AS BIGINT) AS charged FROM ledger_call_sum "
        "WHERE scope = ? AND month = ? GROUP BY day",
        *of,
    )
    rows = await tx.fetch(
        f"SELECT CAST({quarters} AS BIGINT) AS quarter, CAST(sum(charged) AS BIGINT) AS charged "  # noqa: S608
        "FROM ledger_call WHERE scope = ? AND month = ? AND summed = 0 AND charged > 0 GROUP BY 1",
        *of,
    )
    days: dict[str, int] = defaultdict(int)
    for row in summed:
        days[row["day"]] += int(row["charged"])
    for row in rows:
        days[day_of(int(row["quarter"]) * 900, ledger.timezone)] += int(row["charged"])
    return {day: from_pico(pico) for day, pico in sorted(days.items()) if pico > 0}
