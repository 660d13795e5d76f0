"""The flow `document_module`: reference pages for Python modules.

A page that leaves out a public class, function or method, or that presents one which the source does not hold, is
refused on this machine, and the next model is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run as this_run

from tta_dev_primitives.flows.jobs.job import JobPart, JobResult, answer_parts, finish, instructions
from tta_dev_primitives.flows.jobs.modules import Module, invented, page_in, read_modules, undocumented
from tta_dev_primitives.flows.prefect_support.result_storage import KEPT
from tta_dev_primitives.flows.tasks.request import UseCase

_CRITERIA = (
    "Every statement is true of the source",
    "Someone can use the module from this page alone",
)


def _run_name() -> str:
    path = this_run.parameters.get("module_path")
    return f"document {path if isinstance(path, str) else ', '.join(path or [])}"[:200]


@flow(name="document-module", flow_run_name=_run_name, **KEPT)
async def document_module(
    module_path: str | list[str],
    use_case: UseCase = "moderate",
    config_path: str | None = None,
) -> JobResult:
    """Write the reference pages of Python modules, in Markdown: one page a module, side by side.

    Args:
        module_path: A Python file, a folder (all its public modules), or a list of these.
        use_case: Use case, which selects the executors.
        config_path: Configuration file; empty searches the usual places.

    Raises:
        ConfigError: No such file, or it is not Python.
        OrchestrationError: No model wrote a page that names all public parts.
    """
    paths = [module_path] if isinstance(module_path, str) else module_path
    modules = read_modules([Path(path) for path in paths])
    parts = [
        JobPart(
            name=module.name,
            task=f"Document the module {module.name}:\n\n```python\n{module.source}\n```",
            use_case=use_case,
            instructions=instructions("document"),
            criteria=_CRITERIA,
            check=partial(_check, module),
        )
        for module in modules
    ]
    done = await answer_parts(config_path, parts)
    pages = [page_in(part.result.content) for part in done if part.result is not None]
    count = sum(len(m.public) for m, part in zip(modules, done, strict=True) if part.result is not None)
    title = modules[0].name if len(modules) == 1 else f"{len(modules)} modules"
    note = f"documents all {count} public classes, functions and methods"
    return await finish(f"Reference of {title}", "\n\n".join(pages), done, [note])


async def _check(module: Module, answer: str) -> Sequence[str]:
    page = page_in(answer)
    missing, foreign = undocumented(page, module), invented(page, module)
    problems = [f"leaves out {', '.join(missing)}"] if missing else []
    return [*problems, *([f"invents {', '.join(foreign)}"] if foreign else [])]
