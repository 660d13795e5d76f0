"""What a forked child must not inherit from a parent that has run flows.

Prefect's queue services (logs, events) ask the interpreter to drain them when it ends. After a fork Prefect resets the
services but not those requests: draining a service whose thread stayed in the parent fails, and a child of
`multiprocessing` whose work went well ends with exit code 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tta_dev_primitives.flows.prefect_support.compat import calls_at_interpreter_end


def forget_inherited_exits() -> None:
    """Drop Prefect's requests of the parent from what this process does when it ends."""
    waiting = calls_at_interpreter_end()
    waiting[:] = [call for call in waiting if not _of_prefect(call)]


def _of_prefect(call: Callable[[], Any]) -> bool:
    asked = call.func if isinstance(call, partial) else call
    owner = getattr(asked, "__self__", None)
    return owner is not None and type(owner).__module__.startswith("prefect.")
