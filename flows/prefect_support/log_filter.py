"""What Prefect's run loggers say of errors that we expect: one line, once.

A missing key, a spent budget, models that all failed: the message says what to fix. Prefect would log each with a
traceback through its own engine, again for the flow run around the task run, and again as the state that follows.
Errors of no class of ours keep all of that.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from weakref import WeakSet

from prefect.context import FlowRunContext

from tta_dev_primitives.blocks.redaction import redact
from tta_dev_primitives.config.errors import MissingKeyError, OrchestrationError

_STATE = re.compile(r"Finished in state .*?run encountered an exception:? (\w+):", re.DOTALL)
_RETRIED = re.compile(r"Task run failed with exception: (\w+)\(")
"""Why a task run goes on is in its log already, in our own words."""
_CUT_OFF = re.compile(
    r"(Crash detected! |Finished in state Crashed\(')Execution was cancelled by the runtime"
    r"|Finished in state Cancelled\("
)
"""Of runs that were stopped; who waits for the run gets one line."""
_said: WeakSet[OrchestrationError] = WeakSet()
_unsaid: set[str] = set()
_AGAIN_S = 600.0
_LONGEST_REASON = 200
_failed_services: dict[str, float] = {}
"""When each service's failure was said, epoch seconds."""


def never_said(kind: type[OrchestrationError]) -> type[OrchestrationError]:
    """Keep an error out of the log: it ends a task run, and what follows from that is logged where it is decided."""
    _unsaid.add(kind.__name__)
    return kind


def say_expected_errors_in_one_line(record: logging.LogRecord) -> bool:
    """A logging filter: shorten the record of one of our errors, drop its repetitions."""
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if isinstance(error, OrchestrationError):
        if error in _said or type(error).__name__ in _unsaid or _reaches_a_caller(error):
            return False
        _said.add(error)
        record.msg, record.args = redact(f"{type(error).__name__}: {error}"), ()
        record.exc_info = record.exc_text = None
        return True
    retried = _RETRIED.match(record.getMessage())
    if _CUT_OFF.match(str(record.msg)) or (retried is not None and retried[1] in _unsaid):
        return False
    state = _STATE.match(str(record.msg))
    return state is None or not _ours(state[1])


def _reaches_a_caller(error: OrchestrationError) -> bool:
    """Whether a missing key is raised to the program that called the flow: that says it, the log need not."""
    run = FlowRunContext.get()
    deployed = run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None
    return isinstance(error, MissingKeyError) and not deployed


def _ours(name: str) -> bool:
    return name in _unsaid or any(kind.__name__ == name for kind in _kinds(OrchestrationError))


def _kinds(kind: type[OrchestrationError]) -> Iterator[type[OrchestrationError]]:
    """All our errors that are loaded, wherever they are defined."""
    yield kind
    for narrower in kind.__subclasses__():
        yield from _kinds(narrower)


def drop_late_event_errors(record: logging.LogRecord) -> bool:
    """A logging filter for events that Prefect cannot send any more while the interpreter ends.

    It would log a traceback below the output of every short script; the artifacts themselves are written.
    """
    problem = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    late = ("after shutdown", "stopped service")
    return not (isinstance(problem, RuntimeError) and any(words in str(problem) for words in late))


def shorten_failed_services(record: logging.LogRecord) -> bool:
    """A logging filter for Prefect's services that send in the background: one line each in ten minutes.

    Prefect would say it for each batch, with all that was not sent. The service that asks for a tag's concurrency slots
    is not said: the run itself says what is refused.
    """
    if "failed to process" not in str(record.msg):
        return True
    named = record.args[0] if isinstance(record.args, tuple) and record.args else ""
    service = named if isinstance(named, str) else type(named).__name__
    last = _failed_services.get(service)
    if (last is not None and record.created < last + _AGAIN_S) or "ConcurrencySlotAcquisition" in service:
        return False
    _failed_services[service] = record.created
    problem = sys.exc_info()[1]
    reason = " ".join(redact(str(problem) or type(problem).__name__).split())[:_LONGEST_REASON]
    record.msg, record.args = "Prefect's API did not take what %s sends: %s", (service, reason)
    return True
