"""What a terminal shows while a job runs."""

from __future__ import annotations

import io

from rich.console import Console

from tta_dev_primitives.commands._bulk_view import LiveView
from tta_dev_primitives.flows.bulk.progress import ModelLine, Progress


def test_the_live_view_shows_bar_figures_and_models_on_lines_of_their_own() -> None:
    """Whatever the width: how much is done, how fast, what it costs, how long it takes, and each model."""
    progress = Progress(total=40, done=10, failed=1, models={"some-model": ModelLine(calls=12, failed=1)})
    for width in (80, 200):
        screen = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
        with LiveView(screen) as view:
            view.update(progress)
        assert isinstance(screen.file, io.StringIO)
        shown = screen.file.getvalue()
        assert progress.line() in shown
        bar, figures = (next(n for n, line in enumerate(shown.splitlines()) if what in line) for what in "━·")
        assert bar < figures
        assert "some-model" in shown
