"""Work that can wait until the caller has its answer: pictures for the Prefect UI, never money or evidence.

It runs on the caller's event loop. When that loop ends (`asyncio.run` cancels what is left, then closes the open
generators) what has not been done yet is done there, so that a script of one call loses nothing.

A Prefect server writes fewer pictures a second than a hundred runs at a time ask for. So a few are written at once,
and who would put off more than there is room for waits: what is put off would else grow for as long as the load lasts.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import Context, ContextVar
from weakref import WeakKeyDictionary

from prefect.settings import PREFECT_API_URL

from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.flows.prefect_support.run_client import RunClient, open_client

__all__ = ["api_client", "held_back", "later", "settled"]

_LOG = logging.getLogger("tta_dev_primitives.later")
_AT_ONCE = 4
_ROOM = 64
"""Pieces of work that may wait on one loop."""
Work = Callable[[], Awaitable[None]]
_HELD: ContextVar[list[Work] | None] = ContextVar("tta_held_back", default=None)


class _Loop:
    """What one event loop still has to do, and its connection to the Prefect API."""

    def __init__(self) -> None:
        self.pending: dict[int, Work] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.clients: dict[str, RunClient] = {}
        self.number = 0
        self.opening = asyncio.Lock()
        self.turn = asyncio.Semaphore(_AT_ONCE)
        self.room = asyncio.Semaphore(_ROOM)
        self.keeper: AsyncGenerator[None] = self._until_the_loop_ends()
        logging.getLogger("prefect.events.utilities").addFilter(_not_at_exit)

    async def _until_the_loop_ends(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            with warnings.catch_warnings():
                # The loop warns of generators that begin now, as httpx has them; these end before it does.
                warnings.simplefilter("ignore", ResourceWarning)
                await self._finish()

    async def _finish(self) -> None:
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.gather(*(self.do(number) for number in tuple(self.pending)))
        for client in self.clients.values():
            await client.__aexit__(None, None, None)

    async def do(self, number: int) -> None:
        """Do one piece of work; it stays pending when it is cancelled."""
        async with self.turn:
            try:
                await self.pending[number]()
            except Exception as problem:
                # The answer is delivered and paid for; what is missing is its picture.
                _LOG.warning("what follows a run was not done: %s", redact(str(problem)))
        del self.pending[number]
        self.room.release()


def _not_at_exit(record: logging.LogRecord) -> bool:
    """While the interpreter ends Prefect cannot send the events of artifacts, which are written all the same.

    It would say so with a traceback below the output of every short script.
    """
    problem = record.exc_info[1] if record.exc_info else None
    late = ("after shutdown", "stopped service")
    return not (isinstance(problem, RuntimeError) and any(words in str(problem) for words in late))


_LOOPS: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()


async def _here() -> _Loop:
    loop = asyncio.get_running_loop()
    if loop not in _LOOPS:
        made = _LOOPS[loop] = _Loop()
        await anext(made.keeper)
    return _LOOPS[loop]


async def api_client(made: Callable[[], RunClient] = open_client) -> RunClient:
    """The running loop's connection to the Prefect API of the settings, `made` and opened once."""
    here = await _here()
    api = PREFECT_API_URL.value()
    async with here.opening:
        if api not in here.clients:
            here.clients[api] = await made().__aenter__()
    return here.clients[api]


@asynccontextmanager
async def held_back() -> AsyncGenerator[None]:
    """What is put off inside begins when the block has ended: it would compete with the run that it follows."""
    held: list[Work] = []
    token = _HELD.set(held)
    try:
        yield
    finally:
        _HELD.reset(token)
        for work in held:
            await later(work)


async def later(work: Work) -> None:
    """Do `work` on the running loop after the caller goes on; a failure is a warning in the log.

    With too much put off already, it waits for room first.
    """
    held = _HELD.get()
    if held is not None:
        held.append(work)
        return
    here = await _here()
    await here.room.acquire()
    here.number += 1
    here.pending[here.number] = work
    # A context of its own: the flow run that asked for it will have ended.
    task = asyncio.get_running_loop().create_task(here.do(here.number), context=Context())
    here.tasks.add(task)
    task.add_done_callback(here.tasks.discard)


async def settled() -> None:
    """Wait until everything that was put off on the running loop is done, and every run's end is told."""
    here = await _here()
    for client in here.clients.values():
        await client.all_ended()
    while here.tasks:
        await asyncio.gather(*here.tasks, return_exceptions=True)
