"""What every command prints with: a console on stderr for people, one JSON document on stdout for programs."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["console", "print_json", "quiet_logs", "table", "usd"]


def console(*, stderr: bool = False) -> Console:
    """A rich console; without a terminal it prints plain text, and NO_COLOR is obeyed.

    What it prints is never read as markup or emoji codes: model names hold `:free:`, answers hold `[/]`.
    """
    return Console(
        stderr=stderr, highlight=False, emoji=False, markup=False, soft_wrap=not sys.stdout.isatty()
    )


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    json.dump(document, sys.stdout, ensure_ascii=False, indent=2, default=_plain)
    sys.stdout.write("\n")


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
) -> Table:
    """A plain table; the columns named in `right` are right-aligned."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


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
