"""What every command prints with: a console on stderr for people, one JSON document on stdout for programs."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

__all__ = ["console", "json_text", "print_json", "quiet_logs", "table", "usd"]

_WIDE = 250
_GAP = 3
"""Between two columns of a table."""


def console(*, stderr: bool = False) -> Console:
    """A rich console; without a terminal it prints plain text, and NO_COLOR is obeyed.

    What it prints is never read as markup or emoji codes: model names hold `:free:`, answers hold `[/]`.
    A pipe or a file has no width of its own: there lines are not broken and tables take what they need.
    """
    stream = sys.stderr if stderr else sys.stdout
    piped = not stream.isatty()
    width = _WIDE if piped and not os.environ.get("COLUMNS") else None
    return Console(stderr=stderr, highlight=False, emoji=False, markup=False, soft_wrap=piped, width=width)


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json_text(document) + "\n")


def json_text(document: Any) -> str:
    """A document as JSON for people and programs; money as plain text."""
    return json.dumps(document, ensure_ascii=False, indent=2, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    raise TypeError(f"{type(value).__name__} is no JSON value")


def usd(value: Decimal, places: int = 6) -> str:
    """Dollars for people: rounded only here, where they are shown."""
    rounded = value.quantize(Decimal(1).scaleb(-places))
    return f"${rounded:f}"


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()
) -> RenderableType:
    """A plain table; the columns named in `right` hold figures, which are right-aligned and never broken."""
    return _Fitting(title, columns, rows, right)


@dataclass(frozen=True, slots=True)
class _Fitting:
    """A table where it fits; on a narrower terminal its rows one below the other, each with its labels."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"\n{self.title}", "bold")
        widths = self._widths(options.max_width)
        if widths is None:
            yield from self._records(console, options.max_width)
        else:
            yield self._table(widths)

    def _widths(self, available: int) -> list[int] | None:
        """Each column as wide as it wants, from the left, as long as the others keep what they need; or None."""
        widths, wanted = [], []
        for number, column in enumerate(self.columns):
            cells = [row[number] for row in self.rows]
            words = cells if column in self.right else [word for cell in cells for word in cell.split()]
            widths.append(max(map(cell_len, [*column.split(), *words]), default=0))
            wanted.append(max(map(cell_len, [column, *cells])))
        left = available - sum(widths) - _GAP * (len(widths) - 1)
        if left < 0:
            return None
        for number, want in enumerate(wanted):
            more = min(left, want - widths[number])
            widths[number] += more
            left -= more
        return widths

    def _table(self, widths: Sequence[int]) -> Table:
        made = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            header_style="dim",
            show_header=any(self.columns),
        )
        for column, width in zip(self.columns, widths, strict=True):
            justify: Literal["left", "right"] = "right" if column in self.right else "left"
            made.add_column(column, justify=justify, overflow="fold", width=width)
        for row in self.rows:
            made.add_row(*row)
        return made

    def _records(self, console: Console, width: int) -> Iterator[RenderableType]:
        for name, *cells in self.rows:
            yield Text(name)
            pairs = zip(self.columns[1:], cells, strict=True)
            shown = " · ".join(f"{column} {cell}".strip() for column, cell in pairs if cell)
            for line in Text(shown, "dim").wrap(console, max(20, width - 2), no_wrap=False):
                yield Text.assemble("  ", line)


def quiet_logs(level: int = logging.WARNING) -> None:
    """Keep library logs off stdout: everything goes to stderr, ours from `level` up.

    Call it before Prefect is imported. Prefect's own console log would repeat a user's mistake as a traceback, and a
    flow hangs when whoever reads its stderr has gone (`tta run ... 2>&1 | head`); the UI has its records.
    """
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("tta_dev_primitives")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False


def lines(mapping: Mapping[str, Any]) -> list[list[str]]:
    """A mapping as table rows."""
    return [[key, str(value)] for key, value in mapping.items()]
