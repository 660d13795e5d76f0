"""Runs that end when they are asked to: by a state that is set in Prefect from outside, or by a signal.

Prefect's own engine learns of a cancelled run only where a worker or `serve` runs it, which ends the process. A run of
the caller's own process asks Prefect every two seconds whether somebody has ended it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FrameType, FunctionType
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID
from weakref import WeakKeyDictionary

import httpx
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext

from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.config.errors import RunCancelledError
from tta_dev_primitives.flows.calling.sync_loop import SIGNALS, Interrupted
from tta_dev_primitives.flows.prefect_support.install import install
from tta_dev_primitives.flows.prefect_support.loop_connection import api_connection

_LOG = logging.getLogger("tta_dev_primitives.runs")
_EVERY_S = 2.0
_AWAY = (
    "Prefect's API does not answer (%s). The run waits for it some minutes, then ends; a third Ctrl-C ends it at "
    "once. What was answered is stored."
)
_ENDS = (StateType.CANCELLING, StateType.CANCELLED, StateType.FAILED, StateType.CRASHED)

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(slots=True)
class Stop:
    """The wish that a run ends: who has it, and how the run takes it."""

    task: asyncio.Task[Any]
    gently: Callable[[], None] | None = None
    """What the run does instead of being cut off; called once a wish."""
    state: State[Any] | None = None
    """Set in Prefect by somebody else."""
    signum: int | None = None

    @property
    def asked(self) -> bool:
        """Whether somebody wants the run to end."""
        return self.state is not None or self.signum is not None

    def now(self) -> None:
        """End the run."""
        if self.gently is not None:
            self.gently()
        else:
            self.task.cancel()

    def hear(self, state: State[Any]) -> None:
        """Take a state from outside, once."""
        if not self.asked:
            self.state = state
            self.now()

    def signal(self, signum: int) -> None:
        """Take a signal; a second one is passed on to a run that ends gently."""
        self.signum = self.signum or signum
        self.now()


@dataclass(slots=True)
class RunEnd:
    """What a stopped run leaves to the code that started it."""

    stop: Stop | None = None
    result: Any = None
    cancelled: asyncio.CancelledError | None = None

    def raise_for(self, run: str) -> None:
        """Raise why the run was stopped, if it was.

        Raises:
            RunCancelledError: Somebody ended it in Prefect.
            Interrupted: A signal did.
            CancelledError: The caller's own task was cancelled.
        """
        if self.stop is not None and self.stop.state is not None:
            raise RunCancelledError(
                f"The flow run {run!r} was set to {self.stop.state.name} in Prefect: it stopped. "
                "What was answered is stored; the same task goes on from there."
            )
        if self.stop is not None and self.stop.signum is not None:
            raise Interrupted(self.stop.signum)
        if self.cancelled is not None:
            raise self.cancelled


_STOP: ContextVar[Stop | None] = ContextVar("tta_stop", default=None)
_ENDING: ContextVar[RunEnd | None] = ContextVar("tta_run_end", default=None)
_AROUND: ContextVar[tuple[UUID, ...]] = ContextVar("tta_runs_around", default=())
"""Flow runs of this process around the one that is starting."""


def current_stop() -> Stop | None:
    """Of the run that this code is part of, when that can be stopped."""
    return _STOP.get()


@contextmanager
def ending() -> Iterator[RunEnd]:
    """What the flow run that is started inside leaves when it is stopped."""
    end = RunEnd()
    around = FlowRunContext.get()
    outer = around.flow_run if around is not None else None
    with ExitStack() as stack:
        stack.callback(_ENDING.reset, _ENDING.set(end))
        if outer is not None and outer.deployment_id is None:
            stack.callback(_AROUND.reset, _AROUND.set((*_AROUND.get(), outer.id)))
        yield end


def stoppable(body: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Let a flow's function end early, and its run read Cancelled, when it is asked to.

    Runs of a deployment are left to the process that supervises them.
    """
    run_stoppable = _run

    async def run(*args: Any, **options: Any) -> Any:
        return await run_stoppable(body, args, options)

    # Prefect resolves the names of annotations in the globals of the function that it is given.
    there = FunctionType(run.__code__, body.__globals__, body.__name__, closure=run.__closure__)
    return cast("Callable[P, Coroutine[Any, Any, R]]", functools.update_wrapper(there, body))


async def _run(body: Any, args: Any, options: Any) -> Any:
    install()
    context, task = FlowRunContext.get(), asyncio.current_task()
    flow_run = context.flow_run if context is not None else None
    if flow_run is None or task is None or flow_run.deployment_id is not None:
        with _hangup_is_termination():
            return await body(*args, **options)
    stop, end = Stop(task), _ENDING.get() or RunEnd()
    alone = flow_run.parent_task_run_id is None
    with ExitStack() as stack:
        stack.callback(_STOP.reset, _STOP.set(stop))
        stack.enter_context(_watched((flow_run.id, *_AROUND.get()), stop))
        stack.enter_context(_signals(stop) if alone else _hangup_is_termination())
        try:
            end.result = await body(*args, **options)
        except asyncio.CancelledError as cancelled:
            if not stop.asked and not alone:
                raise
            # The engine is not cancelled: it records how the run ended.
            task.uncancel()
            end.cancelled = cancelled
    if not stop.asked and end.cancelled is None:
        return end.result
    end.stop = stop
    return _last_state(stop)


def _last_state(stop: Stop) -> State[Any]:
    given = stop.state
    if given is not None and given.type is not StateType.CANCELLING:
        return State(type=given.type, name=given.name, message=given.message)
    why = "cancelled in Prefect" if given is not None else "interrupted"
    if given is None and stop.signum is not None:
        why = f"interrupted by {signal.Signals(stop.signum).name}"
    return State(type=StateType.CANCELLED, message=f"{why}; what was answered is stored")


@dataclass(slots=True)
class _Watch:
    """Asks Prefect about all open runs of one event loop, in one request."""

    stops: dict[UUID, list[Stop]] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    away: bool = False
    """Whether Prefect did not answer when it was asked last."""

    async def run(self) -> None:
        """Ask until no run is open."""
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self.ask()
                self.away = False
            except Exception as problem:
                # Prefect is away: the run goes on, and is asked about again.
                _LOG.debug("the states of the open runs were not read: %s", redact(str(problem)))
                if isinstance(problem, httpx.TransportError) and not self.away:
                    self.away = True
                    _LOG.error(_AWAY, redact(str(problem) or type(problem).__name__))

    async def ask(self) -> None:
        """Look once."""
        client = (await api_connection()).client
        wanted = FlowRunFilter.model_validate(
            {"id": {"any_": list(self.stops)}, "state": {"type": {"any_": list(_ENDS)}}}
        )
        for run in await client.read_flow_runs(flow_run_filter=wanted):
            if run.state is not None:
                for stop in tuple(self.stops.get(run.id, ())):
                    stop.hear(run.state)


_WATCHES: WeakKeyDictionary[asyncio.AbstractEventLoop, _Watch] = WeakKeyDictionary()


@contextmanager
def _watched(run_ids: tuple[UUID, ...], stop: Stop) -> Iterator[None]:
    watch = _WATCHES.setdefault(asyncio.get_running_loop(), _Watch())
    for run_id in run_ids:
        watch.stops.setdefault(run_id, []).append(stop)
    if watch.task is None or watch.task.done():
        watch.task = asyncio.get_running_loop().create_task(watch.run())
    try:
        yield
    finally:
        for run_id in run_ids:
            watch.stops[run_id].remove(stop)
            if not watch.stops[run_id]:
                del watch.stops[run_id]
        if not watch.stops:
            watch.task.cancel()


_OPEN: list[Stop] = []
"""Runs of the main thread that a signal ends."""
_BEFORE: dict[int, Any] = {}


@contextmanager
def _signals(stop: Stop) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the run. Runs that are open together share the handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _OPEN:
        for signum in SIGNALS:
            handler = signal.getsignal(signum)
            if handler not in (signal.SIG_IGN, None):
                _BEFORE[signum] = signal.signal(signum, _on_signal)
    _OPEN.append(stop)
    try:
        yield
    finally:
        _OPEN.remove(stop)
        if not _OPEN:
            while _BEFORE:
                signum, handler = _BEFORE.popitem()
                signal.signal(signum, handler)


def _on_signal(signum: int, frame: FrameType | None) -> None:
    for stop in tuple(_OPEN):
        stop.task.get_loop().call_soon_threadsafe(stop.signal, signum)


@contextmanager
def _hangup_is_termination() -> Iterator[None]:
    """A closed terminal ends the run as SIGTERM does, which Prefect handles."""
    hangup = getattr(signal, "SIGHUP", None)
    mine = threading.current_thread() is threading.main_thread()
    if hangup is None or not mine or signal.getsignal(hangup) is not signal.SIG_DFL:
        yield
        return
    signal.signal(hangup, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(hangup, signal.SIG_DFL)
