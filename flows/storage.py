"""Where Prefect keeps the results of our flows: a folder of our home, which spares a request a run."""

from __future__ import annotations

from pathlib import Path

from tta_dev_primitives.config.home import tta_home

__all__ = ["RESULTS"]


def _private_folder() -> Path:
    """The folder, readable by its owner only; without one Prefect says so when it writes the first result."""
    folder = tta_home() / "results"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return folder
    return folder


RESULTS = _private_folder()
