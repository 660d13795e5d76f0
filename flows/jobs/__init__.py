"""Three ready jobs as flows: review of a diff, documentation of a module, tests for a module.

Each is a thin layer over the same plan, execute and validate that `orchestrate` uses, with a local check of its own,
and doubles as the example of how to write one (docs/jobs.md). Loaded on first use: they bring Prefect.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tta_dev_primitives.flows.jobs.document import document_module
    from tta_dev_primitives.flows.jobs.job import JobResult
    from tta_dev_primitives.flows.jobs.review import review_diff
    from tta_dev_primitives.flows.jobs.unit_tests import generate_tests

__all__ = ["JobResult", "document_module", "generate_tests", "review_diff"]

_HOMES = {
    "JobResult": "job",
    "document_module": "document",
    "generate_tests": "unit_tests",
    "review_diff": "review",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
