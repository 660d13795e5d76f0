"""A job with a task run for each item waits for Prefect to record them, and goes on when Prefect is down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from tta_dev_primitives.flows.bulk import recording
from tta_dev_primitives.flows.bulk.reader import Record
from tta_dev_primitives.flows.bulk.recording import close_dead_runs, paced


async def records(count: int) -> AsyncIterator[Record]:
    for number in range(count):
        yield Record(number, str(number), "task")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """The task runs that were shown; the last one is the mark."""
    ids = [uuid4()]
    monkeypatch.setattr(recording, "last_shown", lambda: ids[-1])
    monkeypatch.setattr(recording, "_POLL_S", 0.0)
    return ids


async def test_items_wait_until_those_before_are_recorded(shown: list[UUID]) -> None:
    """The 201st item waits for the mark that was set after the 100th; every item comes, in its order."""
    asked: list[tuple[UUID, int]] = []
    taken: list[str] = []

    async def recorded(mark: UUID) -> bool:
        asked.append((mark, len(taken)))
        return len(asked) % 3 == 0

    first = shown[0]
    async for record in paced(records(301), recorded):
        taken.append(record.id)
        if len(taken) == 150:
            shown.append(uuid4())
    assert taken == [str(number) for number in range(301)]
    assert asked == [(first, 200)] * 3 + [(shown[1], 300)] * 3


async def test_a_server_that_is_down_delays_a_job_once(
    shown: list[UUID], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recording, "_PATIENCE_S", 0.0)
    asked: list[UUID] = []

    async def recorded(mark: UUID) -> bool:
        asked.append(mark)
        return False

    assert len([record async for record in paced(records(1000), recorded)]) == 1000
    # Once until the patience is over, then never again.
    assert len(asked) <= 2
    assert caplog.text.count("has not recorded") == 1


async def test_the_own_run_is_never_closed() -> None:
    own = str(uuid4())
    assert await close_dead_runs([own], own) == 0
