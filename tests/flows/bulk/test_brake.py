"""The brake of a bulk job: what only fails stops by itself, before it has been paid for again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_runs import At, BulkJob, notes

from tta_dev_primitives.flows.bulk.brake import Brake
from tta_dev_primitives.flows.validation.case import Answer, Candidate

FREE = Candidate("free", "a", "free")
OTHER = Candidate("other", "b", "free")
PAID = Candidate("paid", "c", "paid")
REFUSES = "rules: [{reply: {text: \"I'm sorry, but I can't help with that.\"}}]"


def answer(by: Candidate, *failures: str) -> Answer:
    return Answer(by, "text", failures)


def run(tasks: list[list[Answer]]) -> tuple[int, str | None]:
    """How many tasks end before the brake acts, and why it does."""
    stops: list[str] = []
    brake = Brake(stops.append)
    for number, answers in enumerate(tasks, start=1):
        for one in answers:
            brake.answered(one)
        brake.ended(answers, failed=all(one.failures for one in answers))
        if brake.reason is not None:
            assert stops == [brake.reason]
            return number, brake.reason
    return len(tasks), None


BAD = [answer(FREE, "wrong_format: total: missing"), answer(OTHER, "wrong_format: no JSON")]
GOOD = [answer(FREE)]


@pytest.mark.parametrize(
    ("tasks", "ends", "says"),
    [
        ([BAD] * 30, 10, "10 tasks in a row failed with wrong_format from every model"),
        ([GOOD] * 90 + [BAD] * 30, 100, "10 tasks in a row"),
        (([BAD] + [GOOD] * 3) * 20, 37, "10 of the first 37 tasks failed with wrong_format"),
        (([BAD] + [GOOD] * 5) * 20, 120, None),
        ([[answer(FREE, "refusal"), answer(OTHER, "wrong_format")]] * 30, 30, None),
        ([[]] * 30, 30, None),
        ([[answer(FREE, "empty"), answer(PAID)]] * 30, 30, None),
        ([[answer(FREE), answer(PAID, "truncated")]] * 9, 4, "4 paid answers in a row were refused"),
        ([[answer(PAID, "truncated")], [answer(PAID)]] * 9, 18, None),
    ],
)
def test_what_stops_a_job(tasks: list[list[Answer]], ends: int, says: str | None) -> None:
    """One check on every model for ten tasks in a row or a fifth of the first fifty, or four paid answers in a row."""
    number, reason = run(tasks)
    assert number == ends
    assert (reason is None) == (says is None)
    assert says is None or says in str(reason)


@given(st.lists(st.booleans(), max_size=80))
def test_paid_answers_are_refused_at_most_four_times_in_a_row(passes: list[bool]) -> None:
    """Whatever the order: the brake acts at the fourth refusal in a row, and never before."""
    text = "".join("+" if ok else "-" for ok in passes)
    _, reason = run([[answer(FREE), answer(PAID, *([] if ok else ["empty"]))] for ok in passes])
    assert (reason is not None) == ("----" in text)


async def job(workflow: Any, folder: Path, **parameters: Any) -> tuple[Any, Any]:
    """The end state of a bulk flow run of 80 tasks, and its report."""
    from tta_dev_primitives.flows.bulk.job_report import JobFailedError

    state = await BulkJob(workflow, folder, 80).run(return_state=True, **parameters)
    data = await state.result(raise_on_failure=False)
    return state, data.report if isinstance(data, JobFailedError) else data


async def test_a_job_that_only_fails_stops_early_and_its_flow_run_ends_failed(tmp_path: Path, at: At) -> None:
    """Few paid answers are bought, the reason names check and cost, and an automation on Failed fires."""
    workflow = at(REFUSES)
    state, report = await job(workflow, tmp_path, concurrency=4)
    assert state.is_failed()
    assert "4 paid answers in a row were refused" in state.message
    assert (report.state, report.done) == ("incomplete", 0)
    assert report.failed < 40
    assert report.left == 80 - report.failed
    assert f"has cost {report.cost_usd:f} USD" in report.reason
    assert "--keep-going" in report.reason
    paid = [call for call in workflow.sandbox.calls if call.provider == "anthropic"]
    assert 4 <= len(paid) <= 4 + 4 + 1


async def test_keep_going_asks_every_model_for_every_task(tmp_path: Path, at: At) -> None:
    """The user may insist; the flow run of a job without any answer is a failed one."""
    workflow = at(REFUSES, validation={"mode": "never"})
    state, report = await job(workflow, tmp_path, keep_going=True)
    assert (report.state, report.failed, report.left) == ("complete", 80, 0)
    assert state.is_failed()
    assert "0 tasks done, 80 failed (models 80)" in state.message


async def test_a_job_with_some_failures_says_so_in_its_state(tmp_path: Path, at: At) -> None:
    """Completed, but not in silence."""
    workflow = at(
        "rules: [{match: {contains: note 7 in}, reply: {error: invalid_request}}]",
        validation={"mode": "never"},
    )
    state, report = await job(workflow, tmp_path)
    assert state.is_completed()
    assert state.message == "79 tasks done, 1 failed (models 1)"
    assert report.done == 79


async def test_a_braked_job_in_memory_gives_every_task_a_result(at: At) -> None:
    """Tasks that were not asked carry the reason."""
    results = await at(REFUSES).execute_bulk(notes(60), concurrency=4)
    assert len(results) == 60
    assert not any(result.accepted for result in results)
    assert "paid answers in a row were refused" in results[-1].warnings[0]
