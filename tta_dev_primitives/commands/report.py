"""`tta report`: what a month cost, what it saved, and how good the answers were."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.report import Line
from tta_dev_primitives.commands._ledger import checked_month, limit_of, open_ledger
from tta_dev_primitives.commands._options import Config, Flag, Json
from tta_dev_primitives.commands._output import console, print_json, table
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.reporting.page import html_page, report_places, shown_usd
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
    return await gather(config, ledger, await checked_month(month, ledger), limit=limit_of(config))


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
    out.print(
        Text(f"{found.month}:", "bold"),
        f"{shown_usd(money.balance.spent, places)} spent {limit}, "
        f"{shown_usd(money.balance.held, places)} held, {shown_usd(money.balance.presumed, places)} presumed",
    )
    out.print(
        f"{saved.tasks:,} tasks ({saved.accepted:,} accepted, {saved.failed:,} failed, "
        f"{saved.reused:,} from the store); "
        f"paid model alone {shown_usd(saved.baseline, places)}, saved {saved.ratio:.1%}"
    )
    for line in found.beyond.lines:
        out.print(line)
    if not money.rows:
        out.print("no call was made in this month")
    for title, group in (
        ("By model", money.by_model),
        ("By provider", money.by_provider),
        ("By role", money.by_role),
        ("By use case", money.by_use_case),
    ):
        if group:
            out.print(_lines(title, group, money.total, places))
    if found.quality:
        rows = [
            [
                q.use_case,
                str(q.labels),
                f"{q.rate:.1%}",
                f"{q.interval[0]:.0%}-{q.interval[1]:.0%}",
                str(q.unjudged),
            ]
            for q in found.quality
        ]
        columns = ["use case", "verdicts", "accepted", "95 % interval", "delivered on trust"]
        out.print(table("Quality of free answers", columns, rows, right=columns[1:]))
        for q in found.quality:
            if q.on_agreed:
                out.print(q.on_agreed, style="yellow" if q.doubtful else "")
    if found.accounts:
        rows = [
            [
                a.use_case,
                f"{a.deliveries:,}",
                f"{a.labels:,}",
                f"{a.budget:.0%}",
                f"{a.share:.1%}",
                f"{a.window_share:.1%} of {a.window}",
                str(a.alarms),
            ]
            for a in found.accounts
        ]
        columns = ["use case", "deliveries", "labels", "allowed", "expected", "in the window", "alarms"]
        out.print(table("Risk budget: answers that would be rejected", columns, rows, right=columns[1:]))
    if found.certificate:
        out.print(found.certificate)
    if found.causes:
        rows = [[c.model, c.outcome.replace("_", " "), f"{c.calls:,}"] for c in found.causes[:20]]
        out.print(
            table("Fallbacks: calls that failed, and why", ["model", "cause", "calls"], rows, right=["calls"])
        )
    if found.order:
        rows = [[o.use_case, str(o.number), str(o.in_file), o.model, o.reason] for o in found.order]
        columns = ["use case", "asked as", "in the file", "model", "why"]
        out.print(table("Learned order of the executors", columns, rows, right=columns[1:3]))
    if found.quotas:
        kinds = {"rpd": "requests", "tpd": "tokens"}
        rows = [[q.model, kinds[q.kind], f"{q.used:,}", f"{q.limit:,}"] for q in found.quotas]
        out.print(
            table("Free quota today", ["model", "limit a day", "used", "of"], rows, right=["used", "of"])
        )
    for problem in money.problems:
        out.print(f"ledger: {problem}", style="red")
    for one in money.closed:
        out.print(f"closed: {one.key}: {one.reason} (`tta ledger resolve`)", style="red")


def _lines(title: str, group: tuple[Line, ...], total: Line, places: int) -> RenderableType:
    # Most months have nothing in flight and nothing unknown: those columns are shown when they say something.
    unsure, cached = any(line.held or line.presumed for line in group), total.cache_read_tokens > 0
    rows = [
        [
            line.name,
            f"{line.calls:,}",
            f"{line.failed:,}",
            f"{line.input_tokens:,}",
            *([f"{line.cache_read_tokens:,}"] if cached else []),
            f"{line.output_tokens:,}",
            shown_usd(line.charged, places),
            *([shown_usd(line.presumed, places), shown_usd(line.held, places)] if unsure else []),
            shown_usd(line.saved, places),
        ]
        for line in (*group, *([replace(total, name="all")] if len(group) > 1 else []))
    ]
    more = ["presumed", "held"] if unsure else []
    columns = [
        "",
        "calls",
        "failed",
        "in",
        *(["from cache"] if cached else []),
        "out",
        "cost",
        *more,
        "free, at list price",
    ]
    return table(title, columns, rows, right=columns[1:])
