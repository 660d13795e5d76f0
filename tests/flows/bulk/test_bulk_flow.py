"""Bulk jobs as flow runs against a sandbox: in order, resumed, planned once, within their ceiling and quotas."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sandbox_runs import CLAUDE, GEMINI, LLAMA, At, BulkJob, executor, notes

from tta_dev_primitives.commands.bulk import _next_step
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.bulk.progress import Progress
from tta_dev_primitives.flows.bulk.runner import JobOptions
from tta_dev_primitives.flows.tasks.result import NO_PAID_CALL, OrchestrationResult

CHECKS = {"validation": {"mode": "never"}}
"""Local checks only: then calls are easy to count."""


async def test_results_come_in_the_order_given(at: At) -> None:
    """One flow run, one result an item, in order; what cannot be run has its error as a warning."""
    workflow = at("rules: [{match: {contains: note 3 in}, reply: {error: invalid_request}}]", **CHECKS)
    items: list[dict[str, Any]] = [*notes(6), {"id": "0", "task": "the id again"}, {"id": "x", "task": " "}]
    seen: list[OrchestrationResult] = []
    results = await workflow.execute_bulk(items, concurrency=4, on_result=seen.append, chunk_size=2)
    assert [r.id for r in results] == ["0", "1", "2", "3", "4", "5", "0", "x"]
    assert [r.accepted for r in results] == [True, True, True, False, True, True, False, False]
    assert results[3].content == ""
    assert "All models failed" in results[3].warnings[0]
    assert "given before" in results[6].warnings[0]
    assert "empty" in results[7].warnings[0]
    assert len(seen) == 8
    assert len({r.flow_run_id for r in results[:3]}) == 1


@pytest.mark.parametrize("quick", ["What is 6 * 7?", "Explain tea. Then compare it with coffee in a table."])
async def test_a_task_ends_before_a_slow_one_of_its_chunk(
    quick: str, at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its result is there while the first task of the chunk waits for its answer."""
    monkeypatch.setattr("tta_dev_primitives.flows.pipeline._GO_ON_S", 0.02)
    seen: asyncio.Queue[OrchestrationResult] = asyncio.Queue()
    items = [{"id": "slow", "task": "Slow", "use_case": "simple"}, {"id": "quick", "task": quick}]
    workflow = at("rules: [{match: {contains: Slow}, reply: {text: late, latency: 60}}]", **CHECKS)
    job = asyncio.create_task(workflow.execute_bulk(items, on_result=seen.put_nowait))
    first = asyncio.create_task(seen.get())
    await asyncio.wait([job, first], return_when=asyncio.FIRST_COMPLETED)
    assert (first.done() and first.result().id, job.done()) == ("quick", False)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            "tasks.jsonl",
            "got 'tasks.jsonl' (and there is no such file). A file of tasks is run with `tta bulk",
        ),
        (Path(__file__), "A file of tasks is run with"),
        ({"id": "1", "task": "One."}, "got one mapping. Put it into a list"),
        (["One.", "Two."], "item 1 is str, not a task"),
        (None, "got NoneType"),
        (7, "got int"),
    ],
)
async def test_what_is_no_list_of_tasks_is_refused_at_once(wrong: Any, says: str, at: At) -> None:
    """A path, a text, one task: an error that says what to give, and no call."""
    workflow = at(**CHECKS)
    with pytest.raises(ConfigError, match=re.escape(says)):
        await workflow.execute_bulk(wrong)
    assert workflow.sandbox.calls == []


@pytest.mark.parametrize("none", [[], iter(())])
async def test_no_tasks_have_no_results(none: Any, at: At) -> None:
    """A list that a filter has emptied is no mistake."""
    assert await at(**CHECKS).execute_bulk(none) == []


@pytest.mark.parametrize("wrong", [0, 1001, "five", 2.5, True, None])
async def test_a_concurrency_that_is_no_whole_number_is_refused(wrong: Any, at: At) -> None:
    """Whatever a program or a form hands in: a configuration error that names the option."""
    with pytest.raises(
        ConfigError, match=r"concurrency: .* is not accepted. Expected a whole number from 1 to 1,000"
    ):
        await at(**CHECKS).execute_bulk(notes(1), concurrency=wrong)


async def test_a_failed_task_s_result_names_its_use_case_and_the_month(at: At) -> None:
    """Whether no model answered, the item was wrong, or the job stopped first: both fields are filled."""
    workflow = at("rules: [{reply: {error: bad_key}}]", **CHECKS)
    wrong = [
        {"id": "e", "task": " ", "use_case": "simple"},
        {"id": "0", "task": "again", "use_case": "complex"},
    ]
    results = await workflow.execute_bulk([*notes(1), {"id": "u", "task": "What is 2 + 2?"}, *wrong])
    late = await workflow.execute_bulk(notes(1), until=datetime.now(UTC) - timedelta(hours=1))
    assert [r.use_case for r in [*results, *late]] == ["moderate", "simple", "simple", "complex", "moderate"]
    assert not any(r.accepted for r in [*results, *late])
    assert {r.budget.month for r in [*results, *late]} == {f"{datetime.now(UTC):%Y-%m}"}
    assert {r.budget.limit_usd for r in [*results, *late]} == {Decimal(100)}


async def test_items_may_come_from_an_async_source(at: At) -> None:
    """An async iterable is read as the job goes on."""

    async def source() -> AsyncIterator[dict[str, Any]]:
        for item in notes(5):
            yield item

    results = await at(**CHECKS).execute_bulk(source(), concurrency=2)
    assert [r.id for r in results] == ["0", "1", "2", "3", "4"]
    assert all(r.accepted for r in results)


async def test_identical_tasks_are_asked_once(at: At) -> None:
    """The same request at the same time waits for the first one's answer."""
    workflow = at(**CHECKS)
    items = [{"id": str(n), "task": "Summarize tea.", "use_case": "moderate"} for n in range(20)]
    results = await workflow.execute_bulk(items)
    assert all(r.accepted for r in results)
    assert len(workflow.sandbox.calls) == 1


async def test_running_again_does_only_what_is_missing(at: At, tmp_path: Path) -> None:
    """Failed tasks are tried again, answered ones are not; broken lines are reported each time."""
    workflow = at("rules: [{match: {contains: note 2 in}, reply: {error: invalid_request}}]", **CHECKS)
    job = BulkJob(workflow, tmp_path, 5, "{broken\n")
    first = await job.run()
    assert (first.state, first.done, first.failed, first.broken) == ("complete", 4, 1, 1)
    assert {line["id"]: line["error"] is None for line in job.lines()}["2"] is False
    workflow.sandbox.use(None)
    workflow.sandbox.calls.clear()
    second = await job.run(ordered=True)
    assert (second.done, second.done_before, second.failed, second.broken) == (5, 4, 0, 1)
    assert len(workflow.sandbox.calls) == 1
    assert [line["id"] for line in job.lines()] == ["0", "1", "2", "3", "4"]
    assert all(line["error"] is None for line in job.lines())


async def test_a_lost_output_costs_nothing_again(at: At, tmp_path: Path) -> None:
    """The answers are in the store: without the output the job runs from there, with no call."""
    workflow = at()
    job = BulkJob(workflow, tmp_path, 6)
    first = await job.run()
    job.target.unlink()
    calls = len(workflow.sandbox.calls)
    again = await job.run()
    assert again.done == 6
    assert again.cost_usd == 0
    assert first.cost_usd == workflow.sandbox.billed("anthropic")
    assert [c for c in workflow.sandbox.calls[calls:] if c.billed and c.provider == "anthropic"] == []


async def test_one_plan_serves_the_whole_job(at: At, tmp_path: Path) -> None:
    """The orchestrator plans once, whatever the number of tasks, and never again for the same job."""
    workflow = at(
        "rules: [{match: {contains: note 9 in}, reply: {error: invalid_request}}]",
        planning="always",
        **CHECKS,
    )
    job = BulkJob(workflow, tmp_path, 12)
    for _ in range(2):
        report = await job.run(chunk_size=3)
    assert report.failed == 1
    assert sum(call.prompt == "plan" for call in workflow.sandbox.calls) == 1


@pytest.mark.parametrize(("count", "planner"), [(12, "google-ai-studio"), (100, "anthropic")])
async def test_a_paid_plan_is_for_jobs_that_it_is_a_small_part_of(
    count: int, planner: str, at: At, tmp_path: Path
) -> None:
    """Tasks of no clear kind, and savings enough for any plan: once, a plan for one task cost three times the task."""
    workflow = at(saved="1", planning="auto", validation={"mode": "never"})
    items = [{"id": str(n), "task": f"The heron {n}, and its age."} for n in range(count)]
    report = await BulkJob(workflow, tmp_path, items).run()
    assert report.done == count
    plans = [call.provider for call in workflow.sandbox.calls if call.prompt == "plan"]
    assert plans == [planner]
    assert report.cost_usd <= report.baseline_cost_usd


async def test_the_job_stays_under_its_ceiling(at: At, tmp_path: Path) -> None:
    """`max_cost` holds under concurrency and over runs; what it refuses is a budget error and can be run later."""
    changes = {"executors": [], "fallback_strategy": {"models": [CLAUDE]}, **CHECKS}
    workflow = at(**changes)
    job = BulkJob(workflow, tmp_path, 20)
    ceiling = Decimal("0.036")
    for _ in range(2):
        report = await job.run(max_cost=ceiling)
        assert workflow.sandbox.billed() <= ceiling
    assert 0 < report.done < 20
    assert set(report.errors) == {"budget"}
    last = await job.run(max_cost=Decimal(5))
    assert (last.done, last.failed) == (20, 0)


async def test_a_report_says_why_answers_are_not_accepted(at: At, tmp_path: Path) -> None:
    """Where no money is left for the check, or for the paid answer after a rejection: the count and the way out."""
    refusing = "defaults: {verdict: reject}"
    for name, scenario, ceiling in (("none", "{}", "0"), ("little", refusing, "0.004")):
        (tmp_path / name).mkdir()
        job = BulkJob(at(scenario, executors=two_free()), tmp_path / name, 4)
        report = await job.run(max_cost=Decimal(ceiling))
        unpaid = [line for line in job.lines() if not line["accepted"] and NO_PAID_CALL in line["warnings"]]
        assert (len(unpaid), report.done - report.accepted) == (4, 4), name
        assert report.warnings[-1].startswith("4 answers are not accepted: the budget or --max-cost"), name
        assert sum(line.calls for line in report.models.values()) == len(job.workflow.sandbox.calls), name


def two_free(**limits: int) -> list[dict[str, Any]]:
    use_cases = ["simple", "moderate"]
    return [
        executor(GEMINI, "google-ai-studio", use_cases, limits=dict(limits)),
        executor(LLAMA, "groq", use_cases, limits=dict(limits)),
    ]


async def test_a_day_s_quota_that_is_gone_stops_the_job_until_it_is_back(at: At, tmp_path: Path) -> None:
    """With endless patience nothing is paid: the job stops, says when the quota is back, and loses nothing."""
    workflow = at(executors=two_free(rpd=5, rpm=100), **CHECKS)
    job = BulkJob(workflow, tmp_path, 30)
    report = await job.run(patience_s=None)
    assert report.state == "waiting"
    assert report.resume_at is not None
    assert report.resume_at > datetime.now(UTC)
    assert 0 < report.done <= 10
    assert report.done + report.left == 30
    assert len(job.lines()) == report.done
    assert report.paid_rest_usd > 0
    assert f"with --patience 0 it pays for about ${report.paid_rest_usd:.6f}." in _next_step(report)
    assert all(call.provider != "anthropic" for call in workflow.sandbox.calls)


async def test_a_job_goes_on_when_nobody_can_see_its_progress_any_more(at: At, tmp_path: Path) -> None:
    """The reader of a pipe has gone: the views stop, the work and its report do not."""
    looks: list[int] = []

    def gone(progress: Progress) -> None:
        looks.append(progress.done)
        raise BrokenPipeError

    job = BulkJob(at(**CHECKS), tmp_path, 5)
    report = await job.run(JobOptions(observer=gone))
    assert (report.state, report.done, len(job.lines())) == ("complete", 5, 5)
    assert looks == [0]


async def test_a_job_sleeps_over_the_reset_and_completes(at: At, tmp_path: Path) -> None:
    """Told to wait however long it takes, the job goes on by itself each time a day's quota is back."""
    workflow = at(executors=two_free(rpd=8, rpm=100), **CHECKS)
    began = now = datetime(2026, 11, 25, 18, tzinfo=UTC).timestamp()

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        await asyncio.sleep(0)

    local = JobOptions(in_process_s=math.inf, clock=lambda: now, sleep=sleep)
    report = await BulkJob(workflow, tmp_path, 20).run(local, patience_s=None)
    assert (report.state, report.done) == ("complete", 20)
    assert 5 * 3600 < now - began < 86_400
    assert all(call.provider != "anthropic" for call in workflow.sandbox.calls)
    assert len(workflow.sandbox.calls) == 20


async def test_without_patience_the_rest_is_paid_for(at: At, tmp_path: Path) -> None:
    """Patience 0 spends at once what the free quota does not cover."""
    workflow = at(executors=two_free(rpd=5, rpm=100), **CHECKS)
    report = await BulkJob(workflow, tmp_path, 15).run(patience_s=0)
    assert (report.state, report.done, report.failed) == ("complete", 15, 0)
    assert report.models[CLAUDE].answers >= 5


async def test_a_deadline_that_has_passed_starts_nothing(at: At, tmp_path: Path) -> None:
    """`until` in the past: nothing is sent, everything is left."""
    workflow = at(**CHECKS)
    job = BulkJob(workflow, tmp_path, 4)
    past = datetime.now(UTC) - timedelta(minutes=1)
    report = await job.run(until=past)
    assert (report.state, report.done, report.left) == ("incomplete", 0, 4)
    assert "deadline" in report.reason
    assert workflow.sandbox.calls == []


async def test_the_job_is_seen_in_prefect(at: At, tmp_path: Path) -> None:
    """A progress artifact for the run, a table for its tasks, a few task runs a chunk and not one an item."""
    report = await BulkJob(at(**CHECKS), tmp_path, 40).run(chunk_size=20)
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter
    from prefect.client.schemas.filters import FlowRunFilterId as Id

    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[report.flow_run_id]))
        )
        by_key: dict[str, list[Any]] = {}
        for artifact in (one for one in found if one.key):
            by_key.setdefault(str(artifact.key), []).append(artifact)
        month = next(key for key in by_key if key.startswith("tta-spend-"))
        assert set(by_key) == {"tta-bulk-progress", "tta-bulk-chunk", month}
        assert by_key["tta-bulk-progress"][0].data == 100
        rows = [row for table in by_key["tta-bulk-chunk"] for row in json.loads(table.data)]
        assert sorted(int(row["id"]) for row in rows) == list(range(40))
        runs = await client.read_task_runs(flow_run_filter=FlowRunFilter(id=Id(any_=[report.flow_run_id])))
    assert len(runs) <= 2 * 5


async def test_a_deployed_job_puts_itself_back_on_the_schedule(at: At, tmp_path: Path) -> None:
    """A flow run of a deployment that must wait for hours ends as scheduled for the moment the quota is back."""
    workflow = at(executors=two_free(rpd=3, rpm=100), **CHECKS)
    job = BulkJob(workflow, tmp_path, 20)
    runtime = await workflow.ready()
    from prefect.client.orchestration import get_client
    from prefect.exceptions import Pause
    from prefect.flow_engine import run_flow_async

    from tta_dev_primitives.flows.bulk.bulk_flow import orchestrate_bulk
    from tta_dev_primitives.flows.calling.runtime import active

    parameters = {
        "input_path": str(job.source),
        "output_path": str(job.target),
        "patience_s": None,
        "config_path": str(workflow.config.source),
    }
    async with get_client() as client:
        flow_id = await client.create_flow(orchestrate_bulk)
        deployment = await client.create_deployment(flow_id, "nightly-test", parameters=parameters)
        flow_run = await client.create_flow_run_from_deployment(deployment)
        with active(runtime), pytest.raises(Pause):
            await run_flow_async(orchestrate_bulk, flow_run=flow_run, parameters=parameters)
        after = await client.read_flow_run(flow_run.id)
    assert after.state is not None
    assert (after.state.type.value, after.state.name) == ("SCHEDULED", "AwaitingRetry")
    assert after.state.state_details.scheduled_time > datetime.now(UTC)


async def test_the_report_says_why_tasks_failed(
    at: At, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Line, id and reason of the first failures, on the terminal too; and how many answers were not accepted."""
    from tta_dev_primitives.commands.bulk import _print_report

    workflow = at("rules: [{match: {contains: note 3 in}, reply: {error: invalid_request}}]", **CHECKS)
    job = BulkJob(workflow, tmp_path, 5)
    report = await job.run()
    assert [(line.line, line.id) for line in report.failures] == [(4, "3")]
    assert report.failures[0].reason.startswith("All models failed: gemini-2.5-pro: ")
    _print_report(report.model_copy(update={"accepted": report.accepted - 1, "failed": 9}), Path("in.jsonl"))
    said = capsys.readouterr().err
    assert "in.jsonl: line 4: 3 failed: All models failed: gemini-2.5-pro: " in said
    assert f"... 9 failed tasks in all; {job.target} holds the reason of each" in said
    assert "4 done · 1 not accepted · 9 failed · 0 left" in said


LETTERS = [
    "The board asks you to answer yes or no.",
    "Is it true/false? Please return it as JSON.",
    "How many of the 20 boats and 3 rafts sank?",
    "Reply with one word.",
]


@pytest.mark.parametrize("said", LETTERS)
async def test_an_inferred_format_costs_no_answer(said: str, at: At) -> None:
    """Words of a pasted document, or of the task itself, that speak of a form refuse no answer in prose."""
    workflow = at("rules: [{reply: {text: The letter is about a bridge and its cost.}}]", **CHECKS)
    texts = [f"What is the gist?\n\nDear all,\n{said}", f"{said}\n\nSummarize this.", said]
    items = [{"id": str(n), "task": text, "use_case": "moderate"} for n, text in enumerate(texts)]
    results = await workflow.execute_bulk(items)
    assert [(r.accepted, len(r.attempts)) for r in results] == [(True, 1)] * 3


async def test_the_plan_s_answer_format_reaches_every_task(tmp_path: Path, at: At) -> None:
    """A planner that reads numbers out of vague tasks lets two free answers be compared."""
    plan = {
        "use_case": "moderate", "instructions": "Answer with the number.", "answer_format": "number",
        "acceptance_criteria": [], "subtasks": [],
    }  # fmt: skip
    workflow = at(
        f"rules: [{{match: {{contains: one plan for a whole job}}, reply: {{text: {json.dumps(json.dumps(plan))}}}}}, "
        "{reply: {text: '42'}}]",
        planning="always",
    )
    items = [{"id": str(n), "task": f"The heron {n}, and its age."} for n in range(2)]
    await BulkJob(workflow, tmp_path, items).run()
    kept = json.loads((tmp_path / "out.jsonl.job.json").read_text())["plan"]
    assert kept["answer_format"] == "number"
    asked = [
        call
        for call in workflow.sandbox.calls
        if "heron 0" in json.dumps(call.body) and "whole job" not in json.dumps(call.body)
    ]
    assert {GEMINI, LLAMA} <= {call.model for call in asked}


async def test_a_new_kind_of_task_learns_before_it_is_paid_for(at: At) -> None:
    """Fifty calls at once, in a ledger that has saved: all but the first few answers are spared by what these show."""
    workflow = at()
    await workflow.execute_bulk(notes(120), concurrency=50)
    kinds = [{"id": str(n), "task": f"Write a slogan for shop {n}.", "use_case": "simple"} for n in range(60)]
    results = await workflow.execute_bulk(kinds, concurrency=50)
    assert all(result.accepted for result in results)
    assert sum(r.cost_usd for r in results) < sum(r.baseline_cost_usd for r in results) / 2


@pytest.mark.parametrize("broken", ["prompt: verdict, model: claude-*", "model: claude-*"])
async def test_who_waits_for_checks_goes_on_when_they_fail(broken: str, at: At) -> None:
    """A paid model that fails leaves no task waiting."""
    workflow = at(f"rules: [{{match: {{{broken}}}, reply: {{error: invalid_request}}}}]")
    results = await asyncio.wait_for(workflow.execute_bulk(notes(30), concurrency=30, chunk_size=30), 110)
    assert len(results) == 30
