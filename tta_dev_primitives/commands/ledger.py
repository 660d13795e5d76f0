"""`tta ledger`: look at the spend ledger, verify it, settle what a crash left open."""

from __future__ import annotations

import asyncio
import getpass
import os
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tta_dev_primitives.blocks.ledger.types import JournalEntry, OpenCall
from tta_dev_primitives.commands._ledger import checked_month, limit_of, open_ledger
from tta_dev_primitives.commands._output import console, print_json, table, usd
from tta_dev_primitives.config.errors import ConfigError

__all__ = ["reconcile", "resolve", "set_month", "show", "verify"]

Config = Annotated[Path | None, Parameter(name=["--config", "-c"])]
Json = Annotated[bool, Parameter(negative="")]
_MOST_SHOWN = 20
_DECISIONS = ("ask", "approve", "decline", "unanswered", "reconcile", "set_month")


def show(*, month: str | None = None, config: Config = None, json: Json = False) -> int:
    """Print a month's balance, its open and presumed calls, what people decided, and models that are closed.

    Args:
        month: YYYY-MM; the current month when not given.
        config: The configuration file.
        json: Print one JSON document.
    """
    return asyncio.run(_show(month, config, json))


async def _show(month: str | None, config_path: Path | None, json: bool) -> int:
    config, ledger = open_ledger(config_path)
    wanted = await checked_month(month, ledger)
    await ledger.sweep()
    balance = await ledger.balance(wanted)
    limit = await ledger.effective_limit(limit_of(config), wanted)
    calls, closed = await ledger.open_calls(wanted), await ledger.quarantines()
    held, presumed = ([c for c in calls if c.state == state] for state in ("held", "presumed"))
    journal = await ledger.journal(wanted)
    decisions = [entry for entry in journal if entry.what in _DECISIONS]
    if json:
        print_json(
            {
                "month": wanted, "limit_usd": limit, "spent_usd": balance.spent, "held_usd": balance.held,
                "presumed_usd": balance.presumed, "approved_usd": balance.approved,
                "held_calls": [c.id for c in held], "presumed_calls": [c.id for c in presumed],
                "calls": [_document(c) for c in calls],
                "journal_entries": len(journal),
                "decisions": [
                    {
                        "at": _moment(e.at), "what": e.what, "amount_usd": _amount_of(e), "who": e.who, "why": e.note,
                        "call_id": e.call_id,
                    }
                    for e in decisions
                ],
                "closed": [{"key": q.key, "reason": q.reason, "call_id": q.call_id} for q in closed],
            }
        )  # fmt: skip
        return 0
    out = console()
    rows = [
        ["limit", "none" if limit is None else usd(limit, 2)],
        ["approved on top", usd(balance.approved, 2)],
        ["spent", usd(balance.spent)],
        ["of it presumed", usd(balance.presumed)],
        ["held by calls in flight", usd(balance.held)],
        ["left", "-" if limit is None else usd(limit - balance.spent - balance.held)],
    ]
    out.print(table(f"Ledger {wanted}", ["", "USD"], rows, right=["USD"]))
    out.print(f"{len(journal)} journal entries, {len(held)} open calls, {len(presumed)} presumed calls")
    for call in calls[:_MOST_SHOWN]:
        out.print(_line_of(call))
    if len(calls) > _MOST_SHOWN:
        out.print(f"... and {len(calls) - _MOST_SHOWN} more (--json has all of them)")
    if presumed:
        out.print("compare presumed calls with the bill: `tta ledger reconcile ID AMOUNT --evidence TEXT`")
    for entry in decisions:
        out.print(f"{_moment(entry.at)}: {_said(entry)}: {entry.note}")
    for one in closed:
        out.print(f"closed: {one.key}: {one.reason}  (`tta ledger resolve '{one.key}' --reason TEXT`)")
    return 0


def _document(call: OpenCall) -> dict[str, Any]:
    fields = asdict(call)
    amount = fields.pop("amount")
    return {**fields, "at": _moment(call.at), "amount_usd": amount}


def _line_of(call: OpenCall) -> str:
    words = [f"{call.state}: {call.id}", _moment(call.at), f"{call.provider} {call.model} ({call.role})"]
    words += [usd(call.amount), *([f"request {call.request_id}"] if call.request_id else [])]
    return ", ".join(words) + (f": {call.note}" if call.note else "")


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _said(entry: JournalEntry) -> str:
    match entry.what:
        case "ask":
            return "a person is asked for more"
        case "unanswered":
            return "no answer"
        case _:
            return f"{entry.who or 'somebody'}: {entry.what} {_amount_of(entry):+f} USD"


def _amount_of(entry: JournalEntry) -> Decimal:
    return entry.approved if entry.what == "approve" else entry.spent


def verify(*, config: Config = None, json: Json = False) -> int:
    """Check that the journal's sums equal the months; exit 1 when they do not.

    Args:
        config: The configuration file.
        json: Print one JSON document.
    """
    _, ledger = open_ledger(config)
    problems = [str(problem) for problem in asyncio.run(ledger.verify())]
    if json:
        print_json({"ok": not problems, "problems": problems})
    else:
        for problem in problems:
            console().print(problem)
        console().print("the journal adds up" if not problems else f"{len(problems)} problems")
    return 1 if problems else 0


def reconcile(
    call_id: str, amount: str, /, *, evidence: str, config: Config = None, json: Json = False
) -> int:
    """Replace what was presumed for a call by what the provider really billed.

    Args:
        call_id: A presumed call (`tta ledger show` lists them).
        amount: What was billed, in USD; `0` or `unbilled` when the provider billed nothing.
        evidence: Where that is known from: an invoice line, a usage page, a request id.
        config: The configuration file.
        json: Print one JSON document.
    """
    _, ledger = open_ledger(config)
    actual = None if amount == "unbilled" else _amount(amount)
    change = asyncio.run(ledger.reconcile(call_id, actual, evidence=evidence, who=_user()))
    if json:
        print_json({"call": call_id, "changed_by_usd": change})
    else:
        console().print(f"{call_id}: the month changed by {change:+f} USD")
    return 0


def set_month(month: str, /, *, reason: str, config: Config = None, json: Json = False) -> int:
    """Put the ledger into the month that it is, after a wrong clock began another or kept one from beginning.

    Spending and calls of later months move into it; approvals of theirs do not.

    Args:
        month: YYYY-MM; it must be the month of the clock.
        reason: Why; kept in the ledger.
        config: The configuration file.
        json: Print one JSON document.
    """
    _, ledger = open_ledger(config)
    moved = asyncio.run(ledger.set_month(month, who=_user(), reason=reason))
    if json:
        print_json({"month": month, "moved_usd": moved})
    else:
        console().print(f"the ledger is in {month}; {usd(moved)} came from later months")
    return 0


def resolve(key: str, /, *, reason: str, config: Config = None, json: Json = False) -> int:
    """Reopen a model or provider that was closed over a wrong bill.

    Args:
        key: As `tta ledger show` names it.
        reason: Why it may be used again; kept in the ledger.
        config: The configuration file.
        json: Print one JSON document.
    """
    _, ledger = open_ledger(config)
    count = asyncio.run(ledger.resolve(key, who=_user(), reason=reason))
    if json:
        print_json({"key": key, "resolved": count})
    else:
        console().print(f"{key}: reopened ({count} entries resolved)")
    return 0


def _user() -> str:
    """Who types this; in a container, the number of a user without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _amount(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ConfigError(f"amount {text!r}: expected USD such as 0.0123, or `unbilled`.") from None
    if not amount.is_finite() or amount < 0:
        raise ConfigError(f"amount {text!r}: expected USD of at least 0.")
    return amount
