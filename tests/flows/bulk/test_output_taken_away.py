"""The output of a job is its memory: when another program changes it, the job stops and says so."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tta_dev_primitives.flows.bulk.output import Output, OutputError
from tta_dev_primitives.flows.bulk.reader import Record
from tta_dev_primitives.flows.tasks.result import BudgetView, OrchestrationResult

MONTH = BudgetView(month="2026-11", limit_usd=None, spent_usd=0, held_usd=0)
RESULT: OrchestrationResult = OrchestrationResult(
    content="yes", model="m", provider="p", use_case="simple", accepted=True, budget=MONTH
)


def replaced(path: Path) -> None:
    """Another file of the same name, as an editor or `mv` leaves it."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.replace(other, path)


def written_to(path: Path) -> None:
    """A line that is not ours."""
    with path.open("ab") as file:
        file.write(b"{}\n")


CHANGES: list[tuple[Callable[[Path], object], str]] = [
    (Path.unlink, "was removed"),
    (replaced, "was replaced"),
    (lambda path: os.truncate(path, 10), "was cut"),
    (lambda path: path.write_text(""), "was cut"),
    (written_to, "was written to"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_a_changed_output_is_noticed_at_the_next_line_and_at_the_end(
    change: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    """Neither a further line nor the end of the job passes over it; the remedy costs nothing."""
    path = tmp_path / "out.jsonl"
    with Output(path) as output:
        output.write(Record(1, "a", "hi"), RESULT, None)
        change(path)
        with pytest.raises(OutputError, match=f"{said} .* 1 answers stood in it.*not paid twice"):
            output.write(Record(2, "b", "hi"), RESULT, None)
        with pytest.raises(OutputError, match=said):
            output.finish()


def test_an_output_that_is_left_alone_is_finished(tmp_path: Path) -> None:
    """Also when lines were superseded and the file is written anew."""
    path = tmp_path / "out.jsonl"
    with Output(path) as output:
        output.write(Record(1, "a", "hi"), RESULT, {"type": "X", "message": "no"})
        output.write(Record(1, "a", "hi"), RESULT, None)
        output.finish()
    assert len(path.read_text().splitlines()) == 1


def test_the_same_task_under_other_ids_is_counted(tmp_path: Path) -> None:
    """Copies have the same text, use case, system text and schema."""
    with Output(tmp_path / "out.jsonl") as output:
        for number, (name, task) in enumerate([("a", "x"), ("b", "x"), ("c", "x"), ("d", "y")], start=1):
            output.is_new(Record(number, name, task))
        assert output.copies == 2
