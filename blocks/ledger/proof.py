"""What a month's calls sum up to, and the proof of the ledger: from the sums of ended rows and the rows after them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from tta_dev_primitives.blocks.ledger.core import LedgerCore
from tta_dev_primitives.blocks.ledger.database.protocol import Tx, reads
from tta_dev_primitives.blocks.ledger.money import from_pico, in_usd
from tta_dev_primitives.blocks.ledger.months import checked_month
from tta_dev_primitives.blocks.ledger.types import ReportRow

_FULL_UP_TO = 100_000
"""A ledger with fewer kept entries is always proved in full: that takes less than a second."""
_GROUP = ("provider", "model", "role", "use_case", "billing", "state", "outcome")
_AMOUNTS = tuple(field.name for field in fields(ReportRow) if field.name not in _GROUP)
MONEY = ("charged", "held", "list_value", "baseline")
_EXTRA = "extra IN ('savings', 'credit')"
_HELD = "CASE WHEN state = 'held' THEN bound ELSE 0 END"
_Rows = list[dict[str, Any]]


class Proof(LedgerCore):
    """Sums of a ledger's calls, and whether all of its tables agree."""

    async def report_rows(self, month: str) -> list[ReportRow]:
        """The calls of a month, summed by provider, model, role, use case, billing, state and outcome."""
        of = (self.scope, checked_month(month))

        names, sums = ", ".join(_GROUP), ", ".join(f"{_sum(name)} AS {name}" for name in _AMOUNTS)
        rows = await self.database.fetch(
            f"SELECT {names}, {sums} FROM ("  # noqa: S608 - fixed text
            "SELECT provider, model, role, use_case, billing, state, outcome, calls, input_tokens, "
            "cache_read_tokens, output_tokens, charged, 0 AS held, list_value, baseline "
            "FROM ledger_call_sum WHERE scope = ? AND month = ? UNION ALL "
            "SELECT provider, model, role, coalesce(use_case, ''), billing, state, coalesce(outcome, 'in_flight'), "
            f"1, input_tokens, cache_read_tokens, output_tokens, charged, {_HELD}, list_value, baseline "
            "FROM ledger_call WHERE scope = ? AND month = ? AND summed = 0) AS called "
            f"GROUP BY {names} HAVING sum(calls) > 0 ORDER BY {names}",
            *(*of, *of),
        )
        return [ReportRow(**{**in_usd(row, *MONEY), "use_case": row["use_case"] or None}) for row in rows]

    async def mean_seconds(self, month: str) -> float | None:
        """Mean seconds from the reservation of an answered call to its settlement; None without any."""
        (row,) = await self.database.fetch(
            "SELECT avg(closed_at - created_at) AS seconds FROM ledger_call WHERE scope = ? AND month = ? "
            "AND role = 'execute' AND state = 'settled' AND outcome = 'ok' AND closed_at IS NOT NULL",
            *(self.scope, checked_month(month)),
        )
        return None if row["seconds"] is None else float(row["seconds"])

    async def entry_count(self, month: str) -> int:
        """How many entries of a month's journal are kept."""
        of = (self.scope, checked_month(month))
        (row,) = await self.database.fetch(
            f"SELECT {_sum('n')} AS n FROM ("  # noqa: S608 - fixed text
            "SELECT entries AS n FROM ledger_event_sum WHERE scope = ? AND month = ? AND kept = 1 UNION ALL "
            f"SELECT count(*) FROM ledger_event WHERE scope = ? AND month = ? AND seq > {_UPTO}) AS kept",
            *(*of, *of, self.scope),
        )
        return int(row["n"])

    @reads
    async def verify(self, tx: Tx, *, full: bool = False) -> list[str]:
        """Prove the ledger: recompute every month from its journal and from its calls, check answers and clock.

        A large ledger is proved from its sums and what came after them. `full` reads every row that is kept.

        Args:
            full: Also recompute the sums from their rows, and check every stored answer. An answer is checked at
                each use in any case.

        Returns:
            What does not agree, one line each; empty when all is well.
        """
        savings = await tx.fetch(
            "SELECT month, extra AS spent, held FROM ledger_savings WHERE scope = ?", self.scope
        )
        months = await tx.fetch(
            "SELECT month, spent, held, approved FROM ledger_month WHERE scope = ?", self.scope
        )
        problems = await self._prove(tx, months, savings, summed=True)
        if full or await self._is_small(tx):
            problems += await self._prove(tx, months, savings, summed=False)
            problems += await _damaged_answers(tx, self.scope)
        return [*dict.fromkeys(problems), *await self._clock_problems(tx)]

    async def _is_small(self, tx: Tx) -> bool:
        rows = await tx.fetch(
            f"SELECT {_sum('n')} AS n FROM (SELECT entries AS n FROM ledger_event_sum WHERE scope = ? AND kept = 1 "  # noqa: S608
            "UNION ALL SELECT calls FROM ledger_call_sum WHERE scope = ? AND kept = 1) AS kept",
            *(self.scope, self.scope),
        )
        return int(rows[0]["n"]) < _FULL_UP_TO

    async def _prove(self, tx: Tx, months: _Rows, savings: _Rows, *, summed: bool) -> list[str]:
        """Compare the months with their entries and calls: from all sums, or from all rows and what was deleted."""
        sums, rows = ("", " AND summed = 0") if summed else (" AND kept = 0", "")
        after = f"AND seq > {_UPTO}" if summed else ""
        scopes = (self.scope, self.scope, *([self.scope] if summed else []))
        amounts = ", ".join(f"{_sum(f'd_{name}')} AS {name}" for name in ("spent", "held", "approved"))
        journal = await tx.fetch(
            f"SELECT month, {amounts} FROM ("  # noqa: S608 - fixed text
            f"SELECT month, d_spent, d_held, d_approved FROM ledger_event_sum WHERE scope = ?{sums} UNION ALL "
            f"SELECT month, d_spent, d_held, d_approved FROM ledger_event WHERE scope = ? {after}) AS entered "
            "GROUP BY month",
            *scopes,
        )

        async def calls(which: str) -> _Rows:
            return await tx.fetch(
                f"SELECT month, {_sum('charged')} AS spent, {_sum('held')} AS held FROM ("  # noqa: S608 - fixed text
                f"SELECT month, charged, 0 AS held FROM ledger_call_sum WHERE scope = ? AND {which}{sums} UNION ALL "
                f"SELECT month, charged, {_HELD} FROM ledger_call WHERE scope = ? AND {which}{rows}) AS called "
                "GROUP BY month",
                *(self.scope, self.scope),
            )

        return [
            *_differences(savings, await calls(_EXTRA), "calls", {"extra": "spent", "held": "held"}),
            *_differences(months, journal, "journal", {name: name for name in ("spent", "held", "approved")}),
            *_differences(
                months, await calls("billing = 'paid'"), "calls", {name: name for name in ("spent", "held")}
            ),
        ]


_UPTO = "coalesce((SELECT upto FROM ledger_proof WHERE scope = ?), 0)"


def _sum(column: str) -> str:
    return f"CAST(coalesce(sum({column}), 0) AS BIGINT)"


async def _damaged_answers(tx: Tx, scope: str) -> list[str]:
    problems: list[str] = []
    last = ""
    while True:
        rows = await tx.fetch(
            "SELECT step_key, body, sha256 FROM ledger_answer WHERE scope = ? AND step_key > ? "
            "ORDER BY step_key LIMIT 200",
            *(scope, last),
        )
        if not rows:
            return problems
        last = rows[-1]["step_key"]
        problems += [
            f"answer {row['step_key']}: its text does not match its checksum"
            for row in rows
            if hashlib.sha256(bytes(row["body"])).hexdigest() != row["sha256"]
        ]


def _differences(
    months: Iterable[dict[str, Any]], sums: Iterable[dict[str, Any]], source: str, names: dict[str, str]
) -> list[str]:
    by_month = {row["month"]: row for row in sums}
    rows = {row["month"]: row for row in months}
    problems = []
    for month in sorted({*by_month, *rows}):
        for shown, name in names.items():
            stands = rows.get(month, {}).get(name, 0)
            summed = by_month.get(month, {}).get(name, 0)
            if stands != summed:
                problems.append(
                    f"month {month}: {shown} is {from_pico(stands):f} USD, "
                    f"by its {source} it is {from_pico(summed):f} USD"
                )
    return problems
