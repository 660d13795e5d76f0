"""One connection to the Prefect API for each event loop, and the work that the loop does behind an answer.

Deferred work is artifacts for the Prefect UI, never money or evidence. When the loop ends (`asyncio.run` cancels what
is left, then closes the open generators), what is not done yet is done there, so that a script of one call loses
nothing. A few pieces run at once; with too many waiting, `defer` waits for room.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import Context, ContextVar
from uuid import UUID
from weakref import WeakKeyDictionary

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.config.errors import PrefectServerError

_LOG = logging.getLogger("tta_dev_primitives.background")
_AT_ONCE = 4
_ROOM = 64
"""Pieces of work that may wait on one loop."""
Work = Callable[[], Awaitable[None]]
_DEFERRED: ContextVar[list[Work] | None] = ContextVar("tta_deferred", default=None)


def api_gone(problem: BaseException | None) -> PrefectServerError:
    """The error of a run whose API cannot be reached any more, from what Prefect's client raised."""
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    if isinstance(problem, PrefectServerError):
        return problem
    why = f" ({redact(str(problem))})" if problem is not None else ""
    return PrefectServerError(
        f"Prefect's API cannot be reached any more{why}. To fix: when it is back, run the same again; what was "
        "answered is stored."
    )


@contextmanager
def needing_api() -> Iterator[None]:
    """Around work that the API must be there for.

    Raises:
        PrefectServerError: It went away, and did not come back within the time that Prefect's client waits.
    """
    try:
        yield
    except ConcurrencySlotAcquisitionError as refused:
        if isinstance(refused.__cause__, httpx.HTTPStatusError):
            raise
        raise api_gone(refused.__cause__) from None
    except httpx.TransportError as problem:
        raise api_gone(problem) from None
    except ExceptionGroup as problem:
        if problem.subgroup(PrefectServerError) is None:
            raise
        raise api_gone(problem) from None


class Connection:
    """An open client of one Prefect API, with the ids of the flows that it has registered."""

    def __init__(self, client: PrefectClient) -> None:
        self.client = client
        self.flow_ids: dict[str, UUID] = {}


class _Loop:
    """The connections of one event loop, and its deferred work."""

    def __init__(self) -> None:
        self.connections: dict[object, Connection] = {}
        self.opening = asyncio.Lock()
        self.open = AsyncExitStack()
        self.pending: dict[int, Work] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.number = 0
        self.turn = asyncio.Semaphore(_AT_ONCE)
        self.room = asyncio.Semaphore(_ROOM)
        self.keeper: AsyncGenerator[None] = self._until_the_loop_ends()

    async def _until_the_loop_ends(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            with warnings.catch_warnings():
                # The loop warns of generators that begin now, as httpx has them; these end before it does.
                warnings.simplefilter("ignore", ResourceWarning)
                await asyncio.gather(*self.tasks, return_exceptions=True)
                await asyncio.gather(*(self.do(number) for number in tuple(self.pending)))
                await self.open.aclose()

    async def do(self, number: int) -> None:
        """Do one piece of work; it stays pending when it is cancelled."""
        async with self.turn:
            try:
                with needing_api():
                    await self.pending[number]()
            except Exception as problem:
                # The answer is delivered and paid for; only its artifacts are missing.
                _LOG.warning("artifacts of a run were not written: %s", redact(str(problem)))
        del self.pending[number]
        self.room.release()


_LOOPS: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()


async def _this_loop() -> _Loop:
    loop = asyncio.get_running_loop()
    if loop not in _LOOPS:
        made = _LOOPS[loop] = _Loop()
        await anext(made.keeper)
    return _LOOPS[loop]


async def api_connection() -> Connection:
    """The running loop's connection to the Prefect API of the settings, opened once."""
    here = await _this_loop()
    # A server that was started again on its port has another password.
    api = (PREFECT_API_URL.value(), PREFECT_API_AUTH_STRING.value())
    async with here.opening:
        if api not in here.connections:
            here.connections[api] = Connection(await here.open.enter_async_context(get_client()))
    return here.connections[api]


@asynccontextmanager
async def defer_until_end() -> AsyncGenerator[None]:
    """Work deferred inside begins when the block has ended: it would compete with the run that it follows."""
    deferred: list[Work] = []
    token = _DEFERRED.set(deferred)
    try:
        yield
    finally:
        _DEFERRED.reset(token)
        for work in deferred:
            await defer(work)


async def defer(work: Work) -> None:
    """Do `work` on the running loop after the caller goes on; a failure is a warning in the log."""
    deferred = _DEFERRED.get()
    if deferred is not None:
        deferred.append(work)
        return
    here = await _this_loop()
    await here.room.acquire()
    here.number += 1
    here.pending[here.number] = work
    # A context of its own: the flow run that asked for it will have ended.
    task = asyncio.get_running_loop().create_task(here.do(here.number), context=Context())
    here.tasks.add(task)
    task.add_done_callback(here.tasks.discard)


async def background_done() -> None:
    """Wait until all deferred work of the running loop is done."""
    here = await _this_loop()
    while here.tasks:
        await asyncio.gather(*here.tasks, return_exceptions=True)
