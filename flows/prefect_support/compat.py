"""Names that no public interface covers; each is looked for when it is used, and may be missing.

At most nine, here and in `blocks/prefect_server/compat.py` together. A test lists them and removes each in turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

PRIVATE_NAMES = ("threading._threading_atexits",)
"""Module and attribute of every private name below."""


def calls_at_interpreter_end() -> list[Callable[[], Any]]:
    """What the interpreter calls before it waits for threads; a new empty list where that cannot be seen."""
    found = getattr(threading, "_threading_atexits", None)
    return found if isinstance(found, list) else []
