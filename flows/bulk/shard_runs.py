"""A job over several machines: a deployment run for each shard, their answers joined as they come."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import AwaitingRetry, Cancelling, Running
from pydantic_core import to_jsonable_python

from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.config.errors import ConfigError, OrchestrationError
from tta_dev_primitives.flows.bulk.call_order import BulkAdmission
from tta_dev_primitives.flows.bulk.chunk_runner import Ended
from tta_dev_primitives.flows.bulk.file_job import FileJob
from tta_dev_primitives.flows.bulk.output import JobBusyError
from tta_dev_primitives.flows.bulk.reader import Record
from tta_dev_primitives.flows.bulk.shard_files import Shard, ShardFiles

_LOG = logging.getLogger("tta_dev_primitives.bulk")
DEPLOYMENT = "orchestrate-bulk/shard"
_LOOK_S = 1.0
_MOST_STARTS = 4
_STUCK_S = 120.0
"""A run that a worker took and did not start for so long is given to another one."""
_STOP_S = 15.0


class ShardError(OrchestrationError):
    """A shard cannot be brought to its end; what the others answered is in the output."""


@dataclass(slots=True)
class ShardRunner:
    """Splits the tasks, runs the shards on the work pool, starts one that dies again, and hands on what they answer."""

    job: FileJob
    """The whole job; its output is locked by this process."""
    count: int
    parameters: Mapping[str, Any]
    """Of the deployment runs, but for the files."""
    admission: BulkAdmission
    """Closed when the job shall stop."""
    ended: Ended | None = None
    problem: OrchestrationError | None = None
    run_ids: list[str] = field(default_factory=list)
    """Flow runs that this run has started."""
    _done: set[int] = field(default_factory=set)
    _suspected: dict[int, float] = field(default_factory=dict)

    async def run(self, _: AsyncIterator[Record]) -> None:
        """Bring the shards to their end; shards of an earlier run of the job that are still there go on."""
        files = await asyncio.to_thread(ShardFiles.open, self.job.output.path)
        known = {name for shard in files.shards for name in shard.places}
        async with get_client() as client:
            await self._take_over(client, files)
            new = (record for record in self.job.todo() if record.id not in known)
            await asyncio.to_thread(files.split, new, self.count, self.job.file)
            await self._watch(client, files)
        if self.problem is None and not self._stopped():
            await asyncio.to_thread(files.remove)

    async def _take_over(self, client: PrefectClient, files: ShardFiles) -> None:
        """See what an earlier run of the job left: answers are taken, runs that ended are started anew."""
        runs = await self._runs(client, files)
        for shard in files.shards:
            self._collect(shard, ended=False)
            state = runs[shard.run_id].state if shard.run_id in runs else None
            if all(self._is_done(shard, name) for name in shard.places):
                self._done.add(shard.number)
            elif state is None or (state.is_final() and not state.is_crashed()):
                shard.run_id = ""

    async def _watch(self, client: PrefectClient, files: ShardFiles) -> None:
        try:
            while len(self._done) < len(files.shards):
                try:
                    runs = await self._runs(client, files)
                    for shard in files.shards:
                        if shard.number not in self._done:
                            await self._look(client, files, shard, runs.get(shard.run_id))
                except httpx.HTTPError as problem:
                    # The shards go on; what they do is seen when the API is back.
                    _LOG.warning("the Prefect API does not answer: %s", redact(str(problem)))
                if self.problem is not None or self._stopped():
                    await self._stop(client, files)
                    return
                await asyncio.sleep(_LOOK_S)
        except asyncio.CancelledError:
            await asyncio.shield(self._cancel(client, files))
            raise

    def _stopped(self) -> bool:
        return self.admission.closed is not None

    async def _look(
        self, client: PrefectClient, files: ShardFiles, shard: Shard, run: FlowRun | None
    ) -> None:
        """See to one shard: start it, take what it answered, start it again when it died, or note its end."""
        if run is None or run.state is None:
            await self._start(files, shard)
            return
        state = run.state
        at_work = state.is_failed() and await asyncio.to_thread(shard.process) == "works"
        if at_work:
            state = Running()  # two workers took the run; the one that came late has failed it
        self._collect(shard, ended=state.is_final() and not state.is_crashed())
        if state.is_crashed() or await self._dead(shard, state) or _came_late(state):
            await self._start_again(client, shard, run)
        elif state.is_completed() or (state.is_failed() and len(shard.taken) == len(shard.places)):
            self._done.add(shard.number)
            left = len(shard.places) - len(shard.taken)
            if left and not self._stopped():
                self.admission.close(f"shard {shard.number}: {redact(state.message or 'it stopped early')}")
        elif state.is_final():
            self.problem = self.problem or ShardError(
                f"shard {shard.number} ended as {state.name}: {redact(state.message or '')}. Its flow run is {run.id}."
            )

    def _collect(self, shard: Shard, *, ended: bool) -> None:
        assert self.ended is not None
        for answer in shard.answers(ended=ended):
            # Not: a changed task, or one that an earlier run of this job has taken over already.
            record = shard.record(answer.id)
            if record is not None and record.digest == answer.digest and not self._is_done(shard, answer.id):
                self.ended(record, answer.result, answer.error)

    def _is_done(self, shard: Shard, name: str) -> bool:
        record = shard.record(name)
        return record is not None and self.job.output.done(record) == "done"

    async def _dead(self, shard: Shard, state: State[Any]) -> bool:
        """Whether no process works on a run that the API takes for pending or running."""
        seen = "works"
        if state.type is StateType.PENDING:
            seen = "unseen"
        elif state.is_running():
            seen = await asyncio.to_thread(shard.process)
        if seen == "works":
            self._suspected.pop(shard.number, None)
            return False
        since = self._suspected.setdefault(shard.number, time.monotonic())
        return time.monotonic() - since >= (2 * _LOOK_S if seen == "gone" else _STUCK_S)

    async def _start(self, files: ShardFiles, shard: Shard) -> None:
        parameters = {
            **to_jsonable_python(self.parameters),
            "input_path": str(shard.source),
            "output_path": str(shard.target),
        }
        starting = run_deployment(
            DEPLOYMENT,
            parameters=parameters,
            timeout=0,
            flow_run_name=f"shard {shard.number} of {Path(self.job.target).name}"[:60],
        )
        run = await cast("Awaitable[FlowRun]", starting)
        shard.run_id = str(run.id)
        self.run_ids.append(shard.run_id)
        await asyncio.to_thread(self.job.add_run, shard.run_id)
        await asyncio.to_thread(files.save)

    async def _start_again(self, client: PrefectClient, shard: Shard, run: FlowRun) -> None:
        if run.run_count >= _MOST_STARTS:
            self.problem = self.problem or ShardError(
                f"shard {shard.number} died {run.run_count} times. Look at the logs of its flow run {run.id}."
            )
            return
        _LOG.warning(
            "shard %d: its process is gone; start %d of at most %d",
            shard.number,
            run.run_count + 1,
            _MOST_STARTS,
        )
        shard.lock.unlink(missing_ok=True)  # or the next process looked dead before it has begun
        again: State[Any] = AwaitingRetry(scheduled_time=datetime.now(UTC), message="its process was gone")
        await client.set_flow_run_state(run.id, again, force=True)
        self._suspected.pop(shard.number, None)

    async def _stop(self, client: PrefectClient, files: ShardFiles) -> None:
        """Cancel what still runs, wait for it a while, and take what it answered."""
        await self._cancel(client, files)
        end = time.monotonic() + _STOP_S
        while time.monotonic() < end:
            runs = await self._runs(client, files)
            if all(run.state is not None and run.state.is_final() for run in runs.values()):
                break
            await asyncio.sleep(_LOOK_S)
        for shard in files.shards:
            if shard.number not in self._done:
                self._collect(shard, ended=False)

    async def _cancel(self, client: PrefectClient, files: ShardFiles) -> None:
        for run in (await self._runs(client, files)).values():
            if run.state is not None and not run.state.is_final():
                await client.set_flow_run_state(run.id, Cancelling(message="the job was stopped"))

    async def _runs(self, client: PrefectClient, files: ShardFiles) -> dict[str, FlowRun]:
        ids = [shard.run_id for shard in files.shards if shard.run_id]
        if not ids:
            return {}
        wanted = FlowRunFilter.model_validate({"id": {"any_": [UUID(one) for one in ids]}})
        found = await client.read_flow_runs(flow_run_filter=wanted, limit=len(ids))
        return {str(run.id): run for run in found}


async def require_deployment() -> None:
    """Refuse shards before anything is paid when nothing can run them.

    Raises:
        ConfigError: The deployment of shards is not on the server.
    """
    async with get_client() as client:
        try:
            await client.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound:
            raise ConfigError(
                f"shards: the deployment {DEPLOYMENT} is not on the server. To fix: run `tta deploy`."
            ) from None


def _came_late(state: State[Any]) -> bool:
    """Whether the run failed only because another process worked on the shard; that one is gone by now."""
    return state.is_failed() and JobBusyError.__name__ in (state.message or "")


def parameters_of_shards(
    given: Mapping[str, Any], count: int, *, config_path: str | None, left_usd: Decimal | None
) -> dict[str, Any]:
    """The flow's own parameters as each shard gets them: equal parts of the open calls and of the ceiling."""
    parameters = {name: value for name, value in given.items() if name not in _OWN}
    parameters["concurrency"] = math.ceil(given["concurrency"] / count)
    if left_usd is not None:
        parameters["max_cost"] = (max(left_usd, Decimal(0)) / count).quantize(_NANO, ROUND_DOWN)
    if config_path is not None:
        parameters["config_path"] = config_path
    return parameters


_NANO = Decimal("1e-9")
_OWN = ("input_path", "output_path", "shards", "ordered", "output_schema", "config_path")
