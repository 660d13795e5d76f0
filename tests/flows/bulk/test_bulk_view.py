"""What a terminal shows while a job runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tta_dev_primitives.commands import bulk as bulk_command
from tta_dev_primitives.commands.bulk import _next_step, line_printer, progress_view
from tta_dev_primitives.flows.bulk.job_report import BulkReport
from tta_dev_primitives.flows.bulk.progress import ModelLine, Progress


def test_the_live_view_shows_bar_figures_and_models_on_lines_of_their_own() -> None:
    """Whatever the width: how much is done, how fast, what it costs, how long it takes, and each model."""
    progress = Progress(total=40, done=10, failed=1, models={"some-model": ModelLine(calls=12, failed=1)})
    for width in (80, 200):
        screen = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
        with progress_view(screen) as update:
            update(progress)
        assert isinstance(screen.file, io.StringIO)
        shown = screen.file.getvalue()
        assert progress.line() in shown
        bar, figures = (next(n for n, line in enumerate(shown.splitlines()) if what in line) for what in "━·")
        assert bar < figures
        assert "some-model" in shown


def test_a_log_gets_a_line_after_ten_seconds_with_each_model_and_none_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job in a pipe: how far it is and what each model does, in one line."""
    log = io.StringIO()
    progress = Progress(
        total=40, models={"a": ModelLine(calls=12, failed=1, answers=9), "b": ModelLine(calls=1)}
    )
    update = line_printer(Console(file=log, width=250))
    for now in (100.0, 109.0, 111.0, 112.0):
        monkeypatch.setattr(bulk_command.time, "monotonic", lambda now=now: now)
        update(progress)
    models = "a: 9 answers, 12 calls, 1 failed · b: 0 answers, 1 calls, 0 failed"
    assert log.getvalue() == f"0/40 done · 0 failed · cost $0.0000 · {models}\n"


def test_an_interrupted_job_with_nothing_left_is_whole() -> None:
    """Ctrl-C during the last calls, which were let end: there is nothing to go on with."""
    said = [
        _next_step(
            BulkReport(
                state="interrupted", output="o", done=3, done_before=0, accepted=3, failed=0, left=left
            )
        )
        for left in (0, 1)
    ]
    assert said[0] == "Results: o"
    assert said[1].startswith("Interrupted; the same command goes on")
