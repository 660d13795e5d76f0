"""The spend report as one HTML file and as Markdown. Pure but for reading the template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from importlib.resources import files
from zoneinfo import ZoneInfo

from jinja2 import Environment, StrictUndefined

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
    for columns, rows in _tables(report):
        if rows:
            lines += ["", _row(columns), _row("--" if n == 0 else "--:" for n in range(len(columns)))]
            lines += [_row(map(_cell, row)) for row in rows]
    lines += [f"\n> {line}" for line in report.beyond.lines]
    lines += [f"\n> {q.on_agreed}" for q in report.quality if q.on_agreed]
    lines += [f"\n> Ledger: {problem}" for problem in money.problems]
    lines += [f"\n> `{closed.key}` is closed: {closed.reason}" for closed in money.closed]
    return "\n".join(lines) + "\n"


def _tables(report: SpendReport) -> Iterator[tuple[Sequence[str], Sequence[Sequence[str]]]]:
    """Header and rows of each table of the report, figures as they are shown."""
    places = report_places(report)
    figures = ("calls", "failed", "cost", "free, at list price")
    for name, group in (("model", report.money.by_model), ("use case", report.money.by_use_case)):
        yield (
            (name, *figures),
            [
                (
                    one.name,
                    f"{one.calls:,}",
                    f"{one.failed:,}",
                    shown_usd(one.charged, places),
                    shown_usd(one.saved, places),
                )
                for one in group
            ],
        )
    yield (
        ("tasks of", "ended", "accepted", "cost", "paid model alone", "saved"),
        [
            (
                s.name,
                f"{s.tasks:,}",
                f"{s.accepted:,}",
                shown_usd(s.cost, places),
                shown_usd(s.baseline, places),
                f"{s.ratio:.1%}",
            )
            for s in report.saved_by_use_case
        ],
    )
    yield (
        ("free answers of", "accepted", "95 % interval", "verdicts"),
        [
            (q.use_case, f"{q.rate:.1%}", f"{q.interval[0]:.0%}–{q.interval[1]:.0%}", f"{q.labels}")
            for q in report.quality
        ],
    )
    yield (
        ("failed calls of", "cause", "calls"),
        [(c.model, c.outcome.replace("_", " "), f"{c.calls:,}") for c in report.causes[:20]],
    )
    kinds = {"rpd": "requests", "tpd": "tokens"}
    yield (
        ("free quota today of", "limit a day", "used", "of"),
        [(q.model, kinds[q.kind], f"{q.used:,}", f"{q.limit:,}") for q in report.quotas],
    )
    yield (
        ("use case", "asked as", "model", "why"),
        [(o.use_case, f"{o.number}", o.model, o.reason) for o in report.order],
    )


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
