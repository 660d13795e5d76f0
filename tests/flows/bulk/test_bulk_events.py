"""Events of a bulk job: sent many at a time, each its own, and none of them in the way of the work."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from sandbox_runs import GEMINI, At

from tta_dev_primitives.flows.prefect_support import events
from tta_dev_primitives.flows.prefect_support.event_batch import current_batch, in_batches

_TRIES = 1100


async def events_of(flow_run_id: str, name: str, count: int) -> list[dict[str, Any]]:
    """The job's events of one name as Prefect's server has kept them, once `count` have arrived."""
    wanted = {
        "event": {"name": [name]},
        "related": {"id": [f"prefect.flow-run.{flow_run_id}"]},
        "occurred": {"since": "2020-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z"},
    }
    found: list[dict[str, Any]] = []
    async with get_client() as client:
        for _ in range(_TRIES):
            reply = await client.request("POST", "/events/filter", json={"filter": wanted, "limit": 50})
            found = reply.json()["events"]
            if len(found) >= count:
                break
            await asyncio.sleep(0.1)
    return found


async def test_each_item_that_fails_over_has_its_events(at: At) -> None:
    """Three of six items fail over: three events of each kind, related to run, task run, flow and use case."""
    workflow = at(
        f"rules: [{{match: {{model: {GEMINI}, contains: odd}}, reply: {{error: invalid_request}}}}]",
        validation={"mode": "never"},
    )
    texts = ["Summarize an odd note.", "Summarize an even note."] * 3
    tasks = [{"id": str(n), "task": f"{text} {n}", "use_case": "moderate"} for n, text in enumerate(texts)]
    results = await workflow.execute_bulk(tasks, concurrency=3)
    assert all(result.accepted for result in results)
    run = str(results[0].flow_run_id)
    fallbacks = await events_of(run, "tta.fallback", 3)
    assert sorted(event["payload"]["item"] for event in fallbacks) == ["0", "2", "4"]
    roles = {related["prefect.resource.role"] for related in fallbacks[0]["related"]}
    assert {"flow-run", "flow", "task-run", "tag"} <= roles
    assert len({event["id"] for event in fallbacks}) == 3
    assert len(await events_of(run, "tta.attempt.failed", 3)) >= 3


async def test_events_that_prefect_does_not_take_are_counted_in_one_warning(
    prefect_server: object, caplog: pytest.LogCaptureFixture
) -> None:
    """The API is gone: the job goes on, and one line says how many of its events are lost."""
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), caplog.at_level(logging.WARNING):
        async with in_batches():
            for number in range(3):
                events.emit("tta.fallback", {"item": str(number)}, resource="tta.model.a/b")
    assert [r.getMessage() for r in caplog.records if r.name == "tta_dev_primitives.events"] == [
        "3 events were not sent: Prefect's API did not take them"
    ]


async def test_a_sending_that_is_cut_off_is_done_again(prefect_server: object) -> None:
    """A job that ends while its events are on their way sends them once more, under the same ids."""
    async with in_batches():
        batch = current_batch()
        assert batch is not None
        events.emit("tta.fallback", {"item": "cut-off"}, resource="tta.model.a/b")
        sending = asyncio.create_task(batch.send())
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
        assert len(batch) == 1
    assert len(batch) == 0
