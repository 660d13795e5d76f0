"""How far a bulk job is, on stderr: a live view on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.text import Text

from tta_dev_primitives.commands._output import table, usd

if TYPE_CHECKING:
    from tta_dev_primitives.flows.bulk.progress import ModelLine, Progress

_EVERY_S = 10.0


def models_table(title: str, models: Mapping[str, ModelLine]) -> RenderableType:
    """What each model did for a job, one a row."""
    rows = [
        [name, *(f"{n:,}" for n in (m.calls, m.failed, m.answers, m.tokens)), usd(m.cost_usd)]
        for name, m in sorted(models.items())
    ]
    columns = ["model", "calls", "failed", "answers", "tokens", "cost"]
    return table(title, columns, rows, right=columns[1:])


@contextmanager
def progress_view(console: Console) -> Iterator[Callable[[Progress], None]]:
    """What shows a job's progress: on a terminal a bar, a line and the models, redrawn in place; else plain lines."""
    if not console.is_terminal:
        yield line_printer(console)
        return
    starting = Text("Starting …")
    with Live(starting, console=console, refresh_per_second=4, transient=True) as live:
        yield lambda progress: live.update(_renderable(progress))


def line_printer(console: Console) -> Callable[[Progress], None]:
    """Prints a line with the models at its end every ten seconds, the first one ten seconds after the job has begun."""
    last: float | None = None

    def update(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        last = now if last is None else last
        if now - last >= _EVERY_S:
            last = now
            models = [
                f"{name}: {m.answers} answers, {m.calls} calls, {m.failed} failed"
                for name, m in sorted(progress.models.items())
            ]
            console.print(" · ".join([progress.line(), *models]))

    return update


def _renderable(progress: Progress) -> RenderableType:
    # A bare bar does not end its line: what follows would stand beyond the terminal's edge.
    bar = Padding(ProgressBar(total=100, completed=progress.percent), 0)
    models = [models_table("", progress.models)] if progress.models else []
    return Group(bar, Text(progress.line()), *models)
