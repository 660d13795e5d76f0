"""Names of flow runs: what a person has named keeps its name."""

from __future__ import annotations

from functools import cache
from typing import Any

from coolname.data import config
from prefect.runtime import flow_run as this_run


@cache
def _words() -> frozenset[str]:
    """The words that Prefect names runs with: `agile-otter`."""
    parts: dict[str, Any] = dict(config)
    return frozenset(word for part in parts.values() for word in part.get("words", ()))


def name_or(made: str) -> str:
    """The running flow run's name when a person gave it one, else `made`."""
    name = str(this_run.name or "")
    parts = name.split("-")
    return made if not name or (len(parts) > 1 and _words().issuperset(parts)) else name
