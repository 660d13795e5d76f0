"""What every command prints with: a console on stderr for people, one JSON document on stdout for programs."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from tta_dev_primitives.blocks.redaction import STEERING, visible

_WIDE = 250
_GAPS = (3, 2)
"""Between two columns of a table: the wider one where it fits."""


def console(*, stderr: bool = False) -> Console:
    """A rich console; without a terminal it prints plain text, with NO_COLOR neither colours nor bold.

    What it prints is never read as markup or emoji codes: model names hold `:free:`, answers hold `[/]`.
    A pipe or a file has no width of its own: there lines are not broken and tables take what they need.
    """
    stream = sys.stderr if stderr else sys.stdout
    piped = not stream.isatty()
    width = _WIDE if piped and not os.environ.get("COLUMNS") else None
    return _Console(stderr=stderr, highlight=False, emoji=False, markup=False, soft_wrap=piped, width=width)


class _Console(Console):
    """Shows control characters of names, answers and messages as symbols; NO_COLOR takes away every style."""

    def print(self, *objects: Any, style: Any = None, **options: Any) -> None:
        """Print as rich does; NO_COLOR drops the style."""
        super().print(*objects, style=None if self.no_color else style, **options)

    def on_broken_pipe(self) -> None:
        """The reader has left: the command goes on unread, and its exit code still says how it ended."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, with visible text."""
        for segment in super().render(renderable, options):
            style = None if self.no_color else segment.style
            yield segment if segment.control else Segment(visible(segment.text), style)


def print_text(text: str, *, raw: bool = False) -> None:
    """Print an answer on stdout.

    Args:
        text: What a model wrote.
        raw: Write control characters as they are, into a file or pipe; a terminal never gets them.
    """
    shown = text if raw and not sys.stdout.isatty() else visible(text)
    print(shown, flush=True)
    if shown != text:
        hint = "" if sys.stdout.isatty() else " --raw writes them as they are."
        console(stderr=True).print(f"note: control characters of the answer are shown as symbols.{hint}")


def print_json(document: Any) -> None:
    """One JSON document on stdout; what its encoding lacks is escaped."""
    text = json_text(document)
    if (sys.stdout.encoding or "").lower().replace("-", "") not in ("utf8", "utf16", "utf32"):
        text = _NOT_ASCII.sub(_escaped, text)
    sys.stdout.write(text + "\n")


def say(document: Any, *lines: RenderableType, json: bool) -> int:
    """Print the document with `--json`, otherwise the lines and tables; returns 0, the exit code."""
    if json:
        print_json(document)
    else:
        for line in lines:
            console().print(line)
    return 0


_NOT_ASCII = re.compile(r"[^\x00-\x7e]")


def json_text(document: Any) -> str:
    """A document as JSON for people and programs; money as plain text, what steers a terminal escaped."""
    return STEERING.sub(_escaped, json.dumps(document, ensure_ascii=False, indent=2, default=_plain))


def _escaped(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    raise TypeError(f"{type(value).__name__} is no JSON value")


def usd(value: Decimal, places: int = 6) -> str:
    """Dollars for people: rounded only here, where they are shown."""
    rounded = value.quantize(Decimal(1).scaleb(-places))
    return f"${rounded:f}"


def moment(at: float) -> str:
    """A moment in UTC, of seconds since the epoch."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 task`, `2,000 tasks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()
) -> RenderableType:
    """A plain table; the columns named in `right` hold figures, which are right-aligned and never broken."""
    return _Fitting(title, columns, [[visible(cell) for cell in row] for row in rows], right)


@dataclass(frozen=True, slots=True)
class _Fitting:
    """A table where it fits; on a narrower terminal its rows one below the other, each with its labels."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(f"\n{self.title}", "bold")
        for gap in _GAPS:
            widths = self._widths(options.max_width, gap)
            if widths is not None:
                yield self._table(widths, gap)
                return
        yield from self._records(console, options.max_width)

    def _widths(self, available: int, gap: int) -> list[int] | None:
        """Each column as wide as it wants, from the left, as long as the others keep what they need; or None."""
        widths, wanted = [], []
        for number, column in enumerate(self.columns):
            cells = [row[number] for row in self.rows]
            words = cells if column in self.right else [word for cell in cells for word in cell.split()]
            widths.append(max(map(cell_len, [*column.split(), *words]), default=0))
            wanted.append(max(map(cell_len, [column, *cells])))
        left = available - sum(widths) - gap * (len(widths) - 1)
        if left < 0:
            return None
        for number, want in enumerate(wanted):
            more = min(left, want - widths[number])
            widths[number] += more
            left -= more
        return widths

    def _table(self, widths: Sequence[int], gap: int) -> Table:
        made = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, gap - 2),
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

    Call it before Prefect is imported. The lines of a run are Prefect's: they show from INFO down, through a handler
    of ours, as a flow hangs in Prefect's own when the reader of stderr is gone. Above INFO they would repeat errors.
    """
    console = "PREFECT_LOGGING_HANDLERS_CONSOLE"
    os.environ.setdefault(f"{console}_LEVEL", "CRITICAL")
    if level <= logging.INFO:
        os.environ[f"{console}_LEVEL"] = "INFO"
        os.environ[f"{console}_CLASS"] = f"{__name__}.{RunLogHandler.__name__}"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_VisibleFormatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("tta_dev_primitives")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
    # What is wrong with a person's own settings is said by each command.
    logging.getLogger("tta_dev_primitives.config").setLevel(min(level, logging.WARNING))
    if level <= logging.WARNING and sys.stderr.isatty():  # it takes some seconds
        logging.getLogger("tta_dev_primitives.server").setLevel(logging.INFO)
    # Prefect writes past the loggers of a process when its API is gone; the command says why it failed.
    logging.raiseExceptions = False
    # The command line says both itself.
    logging.getLogger("dotenv").setLevel(logging.ERROR)
    logging.getLogger("tta_dev_primitives.interrupted").setLevel(logging.CRITICAL)


class RunLogHandler(logging.StreamHandler[TextIO]):
    """Writes Prefect's lines with visible text. Prefect configures it as its own handler, which has styles."""

    def __init__(self, stream: TextIO | None = None, styles: object = None) -> None:
        super().__init__(stream)

    def format(self, record: logging.LogRecord) -> str:
        """Format as usual, with visible text."""
        return visible(super().format(record))


class _VisibleFormatter(logging.Formatter):
    """Messages may quote what a provider answered."""

    def format(self, record: logging.LogRecord) -> str:
        """The level in small letters, then the message with visible text."""
        level, _, text = super().format(record).partition(":")
        return f"{level.lower()}:{visible(text)}"
