"""The flow `generate_tests`: unittest tests for one Python module, handed out only after they ran.

Each answer is tried on this machine: the tests must pass on the module as it is, and must fail when its functions do
nothing. Else the next model is asked; when nobody's tests hold, the run fails and says what each of them got wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from tta_dev_primitives.flows.jobs.job import JobPart, JobResult, answer_parts, finish, instructions
from tta_dev_primitives.flows.jobs.modules import Module, code_in, read_module
from tta_dev_primitives.flows.jobs.trial import trial
from tta_dev_primitives.flows.prefect_support.result_storage import RESULTS
from tta_dev_primitives.flows.tasks.request import UseCase

__all__ = ["generate_tests"]

_CRITERIA = (
    "Each public function and class is tested on usual values, edges and errors",
    "Each test states one promise of the module",
)


@flow(
    name="generate-tests",
    flow_run_name="tests for {module_path}",
    persist_result=True,
    result_storage=RESULTS,
    result_serializer="json",
)
async def generate_tests(
    module_path: str,
    seconds: Annotated[float, Field(ge=1, le=600)] = 60.0,
    use_case: UseCase = "expert",
    config_path: str | None = None,
) -> JobResult:
    """Write tests for one Python module and run them, in a process of their own without network.

    Args:
        module_path: The Python file to test.
        seconds: Time limit of one run of the tests, 1 to 600.
        use_case: Which executors do it.
        config_path: Configuration file; empty searches the usual places.

    Raises:
        ConfigError: No such file, or it is not Python.
        OrchestrationError: Nobody's tests held.
    """
    module = read_module(Path(module_path))
    tried = _Trials(module, seconds)
    part = JobPart(
        name=module.name,
        task=f"Write tests for the module {module.name} (import it by this name):\n\n"
        f"```python\n{module.source}\n```",
        use_case=use_case,
        instructions=instructions("unit_tests"),
        criteria=_CRITERIA,
        check=tried.check,
    )
    done = await answer_parts(config_path, [part])
    content = code_in(done[0].result.content) if done[0].result is not None else ""
    note = f"{tried.ran.get(content, 0)} tests ran and passed on {module.name}; with its functions emptied they fail"
    return await finish(f"Tests for {module.name}", content, done, [note])


class _Trials:
    """Tries each answer and remembers how many of its tests ran."""

    def __init__(self, module: Module, seconds: float) -> None:
        self.ran: dict[str, int] = {}
        self._module, self._seconds = module, seconds

    async def check(self, answer: str) -> Sequence[str]:
        """The failures of one answer's tests; empty when they hold."""
        code = code_in(answer)
        outcome = await trial(self._module, code, seconds=self._seconds)
        self.ran[code] = outcome.run
        return outcome.failures
