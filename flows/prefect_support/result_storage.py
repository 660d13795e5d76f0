"""Where Prefect keeps the results of our flows: a folder of our home, which spares a request a run."""

from __future__ import annotations

from contextlib import suppress

from tta_dev_primitives.config.home import tta_home

__all__ = ["RESULTS", "delete_old_results", "make_results_folder"]

RESULTS = tta_home() / "results"


def make_results_folder() -> None:
    """Make the folder, readable by its owner only; without one Prefect reports it with the first result."""
    with suppress(OSError):
        RESULTS.mkdir(mode=0o700, parents=True, exist_ok=True)


def delete_old_results(before: float) -> int:
    """Delete the results that were written before a moment (seconds since 1970); returns how many."""
    deleted = 0
    for path in RESULTS.glob("*"):
        # Another process may delete it at the same time.
        with suppress(FileNotFoundError):
            if path.is_file() and path.stat().st_mtime < before:
                path.unlink()
                deleted += 1
    return deleted
