"""What a process changes once, when its first run starts; importing the package changes nothing."""

from __future__ import annotations

import logging
import os
import threading

from tta_dev_primitives.flows.prefect_support.fork_safety import forget_inherited_exits
from tta_dev_primitives.flows.prefect_support.log_filter import (
    drop_late_event_errors,
    drop_refused_slots,
    say_expected_errors_in_one_line,
)
from tta_dev_primitives.flows.prefect_support.result_storage import make_results_folder

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
                logging.getLogger(name).addFilter(drop_refused_slots)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=forget_inherited_exits)
        make_results_folder()
