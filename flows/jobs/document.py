"""The flow `document_module`: a reference page for one Python module.

A page that leaves out a public class or function is refused on this machine, and the next model is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from prefect import flow

from tta_dev_primitives.flows.jobs.job import JobPart, JobResult, answer_parts, finish, instructions
from tta_dev_primitives.flows.jobs.modules import Module, read_module, unmentioned
from tta_dev_primitives.flows.prefect_support.result_storage import RESULTS
from tta_dev_primitives.flows.tasks.request import UseCase

__all__ = ["document_module"]

_CRITERIA = (
    "Every statement is true of the source",
    "Someone can use the module from this page alone",
)


@flow(
    name="document-module",
    flow_run_name="document {module_path}",
    persist_result=True,
    result_storage=RESULTS,
    result_serializer="json",
)
async def document_module(
    module_path: str,
    use_case: UseCase = "moderate",
    config_path: str | None = None,
) -> JobResult:
    """Write the reference page of one Python module, in Markdown.

    Args:
        module_path: The Python file.
        use_case: Which executors do it.
        config_path: Configuration file; empty searches the usual places.

    Raises:
        ConfigError: No such file, or it is not Python.
        OrchestrationError: No model wrote a page that names all public parts.
    """
    module = read_module(Path(module_path))
    part = JobPart(
        name=module.name,
        task=f"Document the module {module.name}:\n\n```python\n{module.source}\n```",
        use_case=use_case,
        instructions=instructions("document"),
        criteria=_CRITERIA,
        check=partial(_check, module),
    )
    done = await answer_parts(config_path, [part])
    content = done[0].result.content if done[0].result is not None else ""
    note = f"names all {len(module.public)} public classes and functions"
    return await finish(f"Reference of {module.name}", content, done, [note])


async def _check(module: Module, page: str) -> Sequence[str]:
    missing = unmentioned(page, module)
    return [f"leaves out {', '.join(missing)}"] if missing else []
