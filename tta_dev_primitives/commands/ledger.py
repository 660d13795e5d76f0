"""`tta ledger`: look at the spend ledger, verify it, settle what a crash left open."""

from __future__ import annotations

import asyncio
import getpass
import os
import re
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from tta_dev_primitives.blocks.credentials.config_trust import refuse_untrusted_ledger
from tta_dev_primitives.blocks.ledger.database.protocol import default_ledger_url
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.months import month_before
from tta_dev_primitives.blocks.ledger.types import JournalEntry, OpenCall
from tta_dev_primitives.commands._options import Config, Flag, Json
from tta_dev_primitives.commands._output import console, moment, print_json, say, table, usd
from tta_dev_primitives.config import OrchestrationConfig, load_orchestration_config
from tta_dev_primitives.config.errors import ConfigError

_MOST_SHOWN = 20
_LEAST_AGE_S = 86_400
"""A process that slept may end its call a day late: younger rows are never deleted."""


def show(*, month: str | None = None, config: Config = None, json: Json = False) -> int:
    """Print a month's balance, its open and presumed calls, what people decided, and models that are closed.

    Args:
        month: YYYY-MM; the current month when not given.
    """
    return asyncio.run(_show(month, config, json))


async def _show(month: str | None, config_path: Path | None, json: bool) -> int:
    config, ledger = open_ledger(config_path)
    wanted = await checked_month(month, ledger)
    await ledger.sweep()
    balance = await ledger.balance(wanted)
    limit = balance.limit(config.cost_tracking.limit)
    left = balance.left(config.cost_tracking.limit)
    calls, closed = await ledger.open_calls(wanted), await ledger.quarantines()
    held, presumed = ([c for c in calls if c.state == state] for state in ("held", "presumed"))
    await ledger.sum_up()
    entries, decisions = await ledger.entry_count(wanted), await ledger.journal(wanted, decisions=True)
    if json:
        print_json(
            {
                "month": wanted, "limit_usd": limit, "spent_usd": balance.spent, "held_usd": balance.held,
                "presumed_usd": balance.presumed, "approved_usd": balance.approved,
                "held_calls": [c.id for c in held], "presumed_calls": [c.id for c in presumed],
                "calls": [_document(c) for c in calls],
                "journal_entries": entries,
                "decisions": [
                    {
                        "at": moment(e.at), "what": e.what, "amount_usd": _amount_of(e), "who": e.who, "why": e.note,
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
        ["limit", "none" if limit is None else usd(limit)],
        ["approved on top", usd(balance.approved)],
        ["spent", usd(balance.spent)],
        ["of it presumed", usd(balance.presumed)],
        ["held by calls in flight", usd(balance.held)],
        ["left", "-" if left is None else usd(left)],
    ]
    out.print(table(f"Ledger {wanted}", ["", "USD"], rows, right=["USD"]))
    out.print(f"{entries} journal entries, {len(held)} open calls, {len(presumed)} presumed calls")
    for call in calls[:_MOST_SHOWN]:
        out.print(_line_of(call))
    if len(calls) > _MOST_SHOWN:
        out.print(f"... and {len(calls) - _MOST_SHOWN} more (--json has all of them)")
    if presumed:
        out.print("compare presumed calls with the bill: `tta ledger reconcile ID AMOUNT --evidence TEXT`")
    for entry in decisions:
        out.print(f"{moment(entry.at)}: {_said(entry)}: {entry.note}")
    for one in closed:
        out.print(f"closed: {one.key}: {one.reason}  (`tta ledger resolve '{one.key}' --reason TEXT`)")
    return 0


def _document(call: OpenCall) -> dict[str, Any]:
    fields = asdict(call)
    amount = fields.pop("amount")
    return {**fields, "at": moment(call.at), "amount_usd": amount}


def _line_of(call: OpenCall) -> str:
    words = [f"{call.state}: {call.id}", moment(call.at), f"{call.provider} {call.model} ({call.role})"]
    words += [usd(call.amount), *([f"request {call.request_id}"] if call.request_id else [])]
    return ", ".join(words) + (f": {call.note}" if call.note else "")


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


def verify(*, full: Flag = False, config: Config = None, json: Json = False) -> int:
    """Check that the journal's sums equal the months; exit 1 when they do not.

    Args:
        full: Also read again what was proved before, and every stored answer; a small ledger is always read in full.
    """
    _, ledger = open_ledger(config)
    problems = asyncio.run(_verify(ledger, full))
    verdict = "the journal adds up" if not problems else f"{len(problems)} problems"
    say({"ok": not problems, "problems": problems}, *problems, verdict, json=json)
    return 1 if problems else 0


async def _verify(ledger: Ledger, full: bool) -> list[str]:
    await ledger.sum_up()
    return await ledger.verify(full=full)


def prune(
    *,
    answers_older_than: str | None = None,
    runs_older_than: str | None = None,
    config: Config = None,
    json: Json = False,
) -> int:
    """Delete stored answers, and the rows of calls and tasks, that are older than an age.

    What every month cost stays, in sums that `tta ledger verify` still proves; so do open and presumed calls, and
    what people decided. Calls whose answer is stored go with their answer.

    Args:
        answers_older_than: Delete stored answers of this age: `12h`, `90d` or `8w`. The same task is paid again.
        runs_older_than: Delete calls, journal entries, task records and result files of this age, at least `1d`.
    """
    if answers_older_than is None and runs_older_than is None:
        raise ConfigError(
            "tta ledger prune: give --answers-older-than, --runs-older-than or both, such as 90d."
        )
    answers_age = (
        None if answers_older_than is None else seconds_of(answers_older_than, "--answers-older-than")
    )
    runs_age = None if runs_older_than is None else seconds_of(runs_older_than, "--runs-older-than")
    if runs_age is not None and runs_age < _LEAST_AGE_S:
        raise ConfigError(f"--runs-older-than {runs_older_than!r}: at least 1d; younger calls may still end.")
    _, ledger = open_ledger(config)
    deleted = asyncio.run(_prune(ledger, answers_age, runs_age))
    names = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in deleted.items())
    return say(deleted, f"deleted: {names}; what they cost stays in the ledger", json=json)


async def _prune(ledger: Ledger, answers_age: float | None, runs_age: float | None) -> dict[str, int]:
    now = await ledger.database.now()
    deleted: dict[str, int] = {}
    if answers_age is not None:
        deleted["answers"] = await ledger.forget_answers(now - answers_age)
    if runs_age is not None:
        deleted |= await ledger.prune(now - runs_age)
        # Imported here: Prefect takes seconds, which no other command of this group needs.
        from tta_dev_primitives.flows.prefect_support.result_storage import delete_old_results

        deleted["result_files"] = delete_old_results(now - runs_age)
    await ledger.database.compact()
    return deleted


def reconcile(
    call_id: str, amount: str, /, *, evidence: str, config: Config = None, json: Json = False
) -> int:
    """Replace what was presumed for a call by what the provider really billed.

    Args:
        call_id: A presumed call (`tta ledger show` lists them).
        amount: What was billed, in USD; `0` or `unbilled` when the provider billed nothing.
        evidence: Where that is known from: an invoice line, a usage page, a request id.
    """
    _, ledger = open_ledger(config)
    actual = None if amount == "unbilled" else _amount(amount)
    change = asyncio.run(ledger.reconcile(call_id, actual, evidence=evidence, who=_user()))
    line = f"{call_id}: the month changed by {change:+f} USD"
    return say({"call": call_id, "changed_by_usd": change}, line, json=json)


def set_month(month: str, /, *, reason: str, config: Config = None, json: Json = False) -> int:
    """Put the ledger into the month that it is, after a wrong clock began another or kept one from beginning.

    Spending and calls of later months move into it; approvals of theirs do not.

    Args:
        month: YYYY-MM; it must be the month of the clock.
        reason: Why; kept in the ledger.
    """
    _, ledger = open_ledger(config)
    moved = asyncio.run(ledger.set_month(month, who=_user(), reason=reason))
    line = f"the ledger is in {month}; {usd(moved)} came from later months"
    return say({"month": month, "moved_usd": moved}, line, json=json)


def resolve(key: str, /, *, reason: str, config: Config = None, json: Json = False) -> int:
    """Reopen a model or provider that was closed over a wrong bill.

    Args:
        key: As `tta ledger show` names it.
        reason: Why it may be used again; kept in the ledger.
    """
    _, ledger = open_ledger(config)
    count = asyncio.run(ledger.resolve(key, who=_user(), reason=reason))
    line = f"{key}: reopened ({count} entries resolved)"
    return say({"key": key, "resolved": count}, line, json=json)


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


def open_ledger(config_path: Path | None) -> tuple[OrchestrationConfig, Ledger]:
    """The configuration and its ledger.

    Raises:
        UntrustedConfigError: A configuration that came with the working folder names a ledger on another host.
    """
    config = load_orchestration_config(config_path)
    refuse_untrusted_ledger(config)
    tracking = config.cost_tracking
    return config, Ledger.open(default_ledger_url(tracking.ledger_url), timezone=tracking.timezone)


async def checked_month(month: str | None, ledger: Ledger) -> str:
    """`month`; `last` is the month before the ledger's, None the ledger's: it never goes back, whatever a clock says.

    Raises:
        ConfigError: It is not written YYYY-MM.
    """
    if month in (None, "last"):
        now = (await ledger.balance()).month
        return now if month is None else month_before(now)
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month):
        raise ConfigError(f"--month {month!r}: expected YYYY-MM, for example 2026-11, or last.")
    return month


_AGE = re.compile(r"(\d{1,6})\s*([hdw])")
_SECONDS = {"h": 3_600, "d": 86_400, "w": 604_800}


def seconds_of(text: str, option: str) -> int:
    """The seconds of an age that was given as `option`.

    Raises:
        ConfigError: It is not a number with h, d or w.
    """
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"{option} {text!r}: expected a number with h, d or w, such as 30d.")
    return int(found[1]) * _SECONDS[found[2]]
