"""How far a bulk job is, on stderr: a live view on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.text import Text

from tta_dev_primitives.commands._output import table, usd

if TYPE_CHECKING:
    from tta_dev_primitives.flows.bulk.progress import ModelLine, Progress

_EVERY_S = 10.0


def view_for(console: Console) -> LineView | LiveView:
    """The live view on a terminal, else plain lines."""
    return LiveView(console) if console.is_terminal else LineView(console)


def models_table(title: str, models: Mapping[str, ModelLine]) -> RenderableType:
    """What each model did for a job, one a row."""
    rows = [
        [name, *(f"{n:,}" for n in (m.calls, m.failed, m.answers, m.tokens)), usd(m.cost_usd)]
        for name, m in sorted(models.items())
    ]
    columns = ["model", "calls", "failed", "answers", "tokens", "cost"]
    return table(title, columns, rows, right=columns[1:])


class LineView:
    """A plain line every ten seconds, with the models at its end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: float | None = None

    def update(self, progress: Progress) -> None:
        """Print a line when it is time: the first one ten seconds after the job has begun."""
        now = time.monotonic()
        self._last = now if self._last is None else self._last
        if now - self._last >= _EVERY_S:
            self._last = now
            models = [
                f"{name}: {m.answers} answers, {m.calls} calls, {m.failed} failed"
                for name, m in sorted(progress.models.items())
            ]
            self._console.print(" · ".join([progress.line(), *models]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class LiveView:
    """A bar, the line, and a table of models, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(Text("Starting …"), console=console, refresh_per_second=4, transient=True)

    def update(self, progress: Progress) -> None:
        """Redraw."""
        self._live.update(self._renderable(progress))

    def _renderable(self, progress: Progress) -> RenderableType:
        # A bare bar does not end its line: what follows would stand beyond the terminal's edge.
        bar = Padding(ProgressBar(total=100, completed=progress.percent), 0)
        models = [models_table("", progress.models)] if progress.models else []
        return Group(bar, Text(progress.line()), *models)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
