"""The spend report as one HTML file and as Markdown. Pure but for reading the template."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from importlib.resources import files
from typing import NamedTuple
from zoneinfo import ZoneInfo

from jinja2 import Environment, StrictUndefined

from tta_dev_primitives.blocks.ledger.report import Line
from tta_dev_primitives.flows.reporting.chart import spend_chart
from tta_dev_primitives.flows.reporting.spend import SpendReport

_BAR = 30


def shown_usd(amount: Decimal, places: int | None = None) -> str:
    """Dollars for people: cents, or as many places as a small amount needs; rounded only here."""
    if places is None:
        places = places_of([amount])
    rounded = abs(amount).quantize(Decimal(1).scaleb(-places))
    return f"{'-' if amount < 0 and rounded else ''}${rounded:,f}"


def places_of(amounts: Iterable[Decimal]) -> int:
    """Decimal places that all of these amounts are shown with: what the smallest of them needs, at most 6."""
    needed = (
        2 if amount == 0 or abs(amount) >= 1 else 4 if abs(amount) >= Decimal("0.01") else 6
        for amount in amounts
    )
    return max(needed, default=2)


def report_places(report: SpendReport) -> int:
    """The one precision of a whole report: what its tables show can be added up and compared."""
    money, saved = report.money, [report.saved, *report.saved_by_use_case]
    lines = [*money.by_model, *money.by_role, *money.by_use_case]
    return places_of(
        [
            *(money.balance.spent, money.balance.held, money.balance.presumed),
            *(amount for line in lines for amount in (line.charged, line.saved)),
            *(amount for one in saved for amount in (one.cost, one.baseline)),
        ]
    )


def chart_of(report: SpendReport) -> str:
    """The month's chart; of a running month up to today."""
    today = report.made_at.astimezone(ZoneInfo(report.timezone)).strftime("%Y-%m-%d")
    return spend_chart(report.month, report.days, report.money.limit, until=today)


def html_page(report: SpendReport) -> str:
    """One self-contained page: no script, no address, light and dark."""
    template = files("tta_dev_primitives.flows.reporting").joinpath("templates", "spend_report.html.j2")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    places = report_places(report)
    environment.filters["usd"] = lambda amount, own=places: shown_usd(amount, own)
    made_at = report.made_at.astimezone(ZoneInfo(report.timezone))
    page = environment.from_string(template.read_text(encoding="utf-8"))
    return page.render(
        r=report,
        chart=chart_of(report),
        share=float(_share(report.money.balance.spent, report.money.limit)),
        made_at=f"{made_at:%Y-%m-%d %H:%M} {report.timezone}",
    )


def _share(spent: Decimal, limit: Decimal | None) -> Decimal:
    if limit is None:
        return Decimal(0)
    return spent / limit if limit else Decimal(1)


def money_bar(spent: Decimal, limit: Decimal) -> str:
    """A bar of block characters with the spent share, in Markdown."""
    share = _share(spent, limit)
    filled = min(_BAR, int(share * _BAR))
    return f"`{'█' * filled}{'░' * (_BAR - filled)}` {share:.1%}"


def markdown_page(report: SpendReport, *, day: date | None = None) -> str:
    """The report for the Prefect UI; with `day`, that day's spending stands first."""
    money, saved, places = report.money, report.saved, report_places(report)
    lines = [f"## {report.month}", ""]
    if day is not None:
        spent = report.days.get(day.isoformat(), Decimal(0))
        lines += [f"**{day.isoformat()}**: {shown_usd(spent, places)} spent", ""]
    if money.limit is not None:
        lines += [money_bar(money.balance.spent, money.limit), ""]
    limit = "none" if money.limit is None else shown_usd(money.limit, 2)
    left = "-" if money.left is None else shown_usd(money.left, places)
    lines += [
        "| spent | of it presumed | held | left | limit | saved |",
        "|--:|--:|--:|--:|--:|--:|",
        f"| {shown_usd(money.balance.spent, places)} | {shown_usd(money.balance.presumed, places)} "
        f"| {shown_usd(money.balance.held, places)} | {left} | {limit} | {saved.ratio:.1%} |",
        "",
        f"{saved.tasks:,} tasks, {saved.accepted:,} accepted, {saved.failed:,} failed, {saved.reused:,} from the "
        f"store. The paid model alone: {shown_usd(saved.baseline, places)}; we paid {shown_usd(saved.cost, places)}.",
    ]
    for table in report_tables(report):
        if table.rows:
            marks = ("--" if n < table.words else "--:" for n in range(len(table.columns)))
            lines += ["", f"**{table.title}**", "", _row(table.columns), _row(marks)]
            lines += [_row(map(_cell, row)) for row in table.rows]
    lines += [f"\n> {line}" for line in report.beyond.lines]
    lines += [f"\n> {q.on_agreed}" for q in report.quality if q.on_agreed]
    lines += [f"\n> Ledger: {problem}" for problem in money.problems]
    lines += [f"\n> `{closed.key}` is closed: {closed.reason}" for closed in money.closed]
    return "\n".join(lines) + "\n"


class ReportTable(NamedTuple):
    """A table of the report, for a terminal or a page; its cells are as they are shown."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    """So many columns at the left hold words; the others hold figures."""


def report_tables(report: SpendReport) -> Iterator[ReportTable]:
    """Every table of the report, also those without rows."""
    money, places = report.money, report_places(report)
    for title, group in (
        ("By model", money.by_model), ("By provider", money.by_provider), ("By role", money.by_role),
        ("By use case", money.by_use_case),
    ):  # fmt: skip
        yield _cost_table(title, group, money.total, places)
    yield ReportTable(
        "Saving by use case",
        ("use case", "ended", "accepted", "cost", "paid model alone", "saved"),
        [
            (s.name, f"{s.tasks:,}", f"{s.accepted:,}", shown_usd(s.cost, places), shown_usd(s.baseline, places),
             f"{s.ratio:.1%}")
            for s in report.saved_by_use_case
        ],
    )  # fmt: skip
    yield ReportTable(
        "Quality of free answers",
        ("use case", "verdicts", "accepted", "95 % interval", "delivered on trust"),
        [
            (q.use_case, f"{q.labels}", f"{q.rate:.1%}", f"{q.interval[0]:.0%}-{q.interval[1]:.0%}", f"{q.unjudged}")
            for q in report.quality
        ],
    )  # fmt: skip
    yield ReportTable(
        "Risk budget: answers that would be rejected",
        ("use case", "deliveries", "labels", "allowed", "expected", "in the window", "alarms"),
        [
            (a.use_case, f"{a.deliveries:,}", f"{a.labels:,}", f"{a.budget:.0%}", f"{a.share:.1%}",
             f"{a.window_share:.1%} of {a.window}", f"{a.alarms}")
            for a in report.accounts
        ],
    )  # fmt: skip
    yield ReportTable(
        "Fallbacks: calls that failed, and why",
        ("model", "cause", "calls"),
        [(c.model, c.outcome.replace("_", " "), f"{c.calls:,}") for c in report.causes[:20]],
        words=2,
    )
    yield ReportTable(
        "Learned order of the executors",
        ("use case", "model", "why", "asked as", "in the file"),
        [(o.use_case, o.model, o.reason, f"{o.number}", f"{o.in_file}") for o in report.order],
        words=3,
    )
    kinds = {"rpd": "requests", "tpd": "tokens"}
    yield ReportTable(
        "Free quota today",
        ("model", "limit a day", "used", "of"),
        [(q.model, kinds[q.kind], f"{q.used:,}", f"{q.limit:,}") for q in report.quotas],
        words=2,
    )


def _cost_table(title: str, group: Sequence[Line], total: Line, places: int) -> ReportTable:
    # Most months have nothing in flight and nothing unknown: those columns are shown when they say something.
    unsure, cached = any(line.held or line.presumed for line in group), total.cache_read_tokens > 0
    columns: dict[str, Callable[[Line], str]] = {
        title.removeprefix("By "): lambda line: line.name,
        "calls": lambda line: f"{line.calls:,}",
        "failed": lambda line: f"{line.failed:,}",
        "in": lambda line: f"{line.input_tokens:,}",
        **({"from cache": lambda line: f"{line.cache_read_tokens:,}"} if cached else {}),
        "out": lambda line: f"{line.output_tokens:,}",
        "cost": lambda line: shown_usd(line.charged, places),
        **({"presumed": lambda line: shown_usd(line.presumed, places)} if unsure else {}),
        **({"held": lambda line: shown_usd(line.held, places)} if unsure else {}),
        "free, at list price": lambda line: shown_usd(line.saved, places),
    }
    lines = [*group, *([replace(total, name="all")] if len(group) > 1 else [])]
    return ReportTable(title, tuple(columns), [[cell(line) for cell in columns.values()] for line in lines])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
