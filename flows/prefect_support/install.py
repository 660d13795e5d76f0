"""What a process changes once, when its first run starts; importing the package changes nothing."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from tta_dev_primitives.flows.prefect_support.compat import calls_at_interpreter_end
from tta_dev_primitives.flows.prefect_support.log_filter import (
    drop_late_event_errors,
    say_expected_errors_in_one_line,
    shorten_failed_services,
)
from tta_dev_primitives.flows.prefect_support.result_storage import make_results_folder


def forget_inherited_exits() -> None:
    """Drop Prefect's requests of the parent from what this process does when it ends."""
    waiting = calls_at_interpreter_end()
    waiting[:] = [call for call in waiting if not _of_prefect(call)]


def _of_prefect(call: Callable[[], Any]) -> bool:
    asked = call.func if isinstance(call, partial) else call
    owner = getattr(asked, "__self__", None)
    return owner is not None and type(owner).__module__.startswith("prefect.")


_lock = threading.Lock()
_installed: list[bool] = []


def install() -> None:
    """Prepare this process for runs: log filters, the folder of results, what a forked child forgets."""
    with _lock:
        if _installed:
            return
        _installed.append(True)
        for runs in ("prefect.flow_runs", "prefect.task_runs"):
            logging.getLogger(runs).addFilter(say_expected_errors_in_one_line)
        logging.getLogger("prefect.events.utilities").addFilter(drop_late_event_errors)
        for name in tuple(logging.root.manager.loggerDict):
            if name.startswith("prefect.") and name.endswith(".concurrency"):
                logging.getLogger(name).addFilter(shorten_failed_services)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=forget_inherited_exits)
        make_results_folder()
