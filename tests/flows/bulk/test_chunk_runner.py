"""How many tasks of a job are under way at once, while evidence is still to earn its trust."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from tta_dev_primitives.flows.bulk import chunk_runner
from tta_dev_primitives.flows.bulk.call_order import BulkAdmission
from tta_dev_primitives.flows.bulk.chunk_runner import ChunkRunner
from tta_dev_primitives.flows.bulk.reader import Record


async def records(count: int) -> AsyncIterator[Record]:
    """So many tasks."""
    for number in range(count):
        yield Record(number, str(number), "2 + 2?", "simple", None)


async def test_an_alarm_makes_the_chunks_small_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole chunks until trust is lost; then few tasks at a time, until it can have been earned again."""
    sizes: list[int] = []
    runtime: Any = SimpleNamespace(drifts=0)

    async def chunk_ends(_: Any, items: Sequence[Any], *, done: Any) -> None:
        sizes.append(len(items))
        runtime.drifts += len(sizes) == 5
        for item in items:
            done(item)

    monkeypatch.setattr(chunk_runner, "run_items", chunk_ends)
    monkeypatch.setattr(ChunkRunner, "_item", lambda self, record: SimpleNamespace(id=record.id))
    monkeypatch.setattr(ChunkRunner, "_end", lambda self, record, item: None)
    pump = ChunkRunner(
        runtime, BulkAdmission(10), lambda record: None, ended=lambda *_: None, postponed=lambda _: None,
        size=20, most=1, budget=SimpleNamespace(),
    )  # type: ignore[arg-type, return-value]  # fmt: skip
    await pump.run(records(300))
    assert sizes[:5] == [20] * 5
    assert sizes[5:9] == [4, 4, 4, 6]
    assert sizes[-2] == 20
    assert sum(sizes) == 300
