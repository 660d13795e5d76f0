"""How far a bulk job is, on stderr: a live view on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tta_dev_primitives.flows.bulk.progress import Progress

_EVERY_S = 10.0


def view_for(console: Console) -> LineView | LiveView:
    """The live view on a terminal, else plain lines."""
    return LiveView(console) if console.is_terminal else LineView(console)


class LineView:
    """A plain line every ten seconds."""

    def __init__(self, console: Console) -> None:
        self._console, self._last = console, time.monotonic()

    def update(self, progress: Progress) -> None:
        """Print a line when it is time."""
        if time.monotonic() - self._last >= _EVERY_S:
            self._last = time.monotonic()
            self._console.print(progress.line())

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
        models = Table("model", "calls", "failed", "answers", "cost", box=None, header_style="dim")
        for name, line in sorted(progress.models.items()):
            models.add_row(
                name, str(line.calls), str(line.failed), str(line.answers), f"${line.cost_usd:.4f}"
            )
        # A bare bar does not end its line: what follows would stand beyond the terminal's edge.
        bar = Padding(ProgressBar(total=100, completed=progress.percent), 0)
        return Group(bar, Text(progress.line()), models)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
