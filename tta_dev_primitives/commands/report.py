"""`tta report`: what a month cost, what it saved, and how good the answers were."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from rich.text import Text

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.commands._options import Config, Flag, Json
from tta_dev_primitives.commands._output import console, counted, print_json, table
from tta_dev_primitives.commands.ledger import checked_month, open_ledger
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.reporting.page import html_page, report_places, report_tables, shown_usd
from tta_dev_primitives.flows.reporting.spend import SpendReport, gather


def report(
    *,
    month: str | None = None,
    config: Config = None,
    json: Json = False,
    csv: Flag = False,
    html: Path | None = None,
) -> int:
    """Print a month by model, provider, role and use case, with savings, quality and free quota.

    Args:
        month: YYYY-MM, or last for the month that ended; the current month when not given.
        csv: Print every line of the ledger's summary as CSV.
        html: Write one self-contained page to this file.
    """
    if json and csv:
        raise ConfigError("--json and --csv: give one of them.")
    loaded, ledger = open_ledger(config)
    found = asyncio.run(_gather(loaded, ledger, month))
    if html is not None:
        _write(html, html_page(found))
    if json:
        print_json(found.to_json())
    elif csv:
        sys.stdout.write(found.money.to_csv())
    elif html is None:
        _show(found)
    else:
        console(stderr=True).print(f"written: {html}")
    return 0


async def _gather(config: OrchestrationConfig, ledger: Ledger, month: str | None) -> SpendReport:
    return await gather(config, ledger, await checked_month(month, ledger), limit=config.cost_tracking.limit)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--html {path}: cannot be written ({error.strerror}). Choose a file in a folder that exists."
        ) from None


def _show(found: SpendReport) -> None:
    money, saved, out, places = found.money, found.saved, console(), report_places(found)
    limit = "no limit" if money.limit is None else f"of {shown_usd(money.limit, 2)}"
    open_amounts = [
        f", {shown_usd(amount, places)} {what}"
        for amount, what in ((money.balance.held, "held"), (money.balance.presumed, "of it presumed"))
        if amount
    ]
    out.print(
        Text(f"{found.month}:", "bold"),
        f"{shown_usd(money.balance.spent, places)} spent {limit}{''.join(open_amounts)}",
    )
    for problem in money.problems:
        out.print(f"ledger: {problem}", style="red")
    for one in money.closed:
        out.print(f"closed: {one.key}: {one.reason} (`tta ledger resolve`)", style="red")
    if not money.rows and not saved.tasks:
        out.print("no call was made in this month")
        return
    out.print(
        f"{counted(saved.tasks, 'task')} ({saved.accepted:,} accepted, {saved.failed:,} failed, "
        f"{saved.reused:,} from the store); "
        f"paid model alone {shown_usd(saved.baseline, places)}, saved {saved.ratio:.1%}"
    )
    for line in found.beyond.lines:
        out.print(line)
    for shown in report_tables(found):
        if shown.rows:
            figures = shown.columns[shown.words :]
            out.print(table(shown.title, shown.columns, shown.rows, right=figures))
    for q in found.quality:
        if q.on_agreed:
            out.print(q.on_agreed, style="yellow" if q.doubtful else "")
    if found.certificate:
        out.print(found.certificate)
