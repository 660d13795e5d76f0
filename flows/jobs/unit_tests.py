"""The flow `generate_tests`: tests for one Python module, tried before they are handed out.

The module is imported before anything is paid. Each answer runs in a fence on this machine: the tests must pass on the
module as it is, must fail when its functions do nothing, and each must use the module. Else the same model is asked
once more with the failures, then the next one; when no tests hold, the run fails and says what was wrong with each.
Where there is no fence the tests are written and not run, which the result says; then they are no evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from prefect import flow
from prefect.runtime import deployment
from pydantic import Field

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.jobs.fence import Fence, find_fence, find_python, no_fence
from tta_dev_primitives.flows.jobs.job import JobPart, JobResult, answer_parts, finish, instructions
from tta_dev_primitives.flows.jobs.modules import Module, code_in, read_module
from tta_dev_primitives.flows.jobs.trial import NO_FENCE, import_fault, syntax_fault, trial
from tta_dev_primitives.flows.prefect_support.result_storage import KEPT
from tta_dev_primitives.flows.tasks.request import UseCase

_CRITERIA = (
    "Each public function and class is tested on usual values, edges and errors",
    "Each test states one promise of the module",
)


@flow(name="generate-tests", flow_run_name="tests for {module_path}", **KEPT)
async def generate_tests(
    module_path: str,
    seconds: Annotated[float, Field(ge=1, le=600)] = 60.0,
    use_case: UseCase = "expert",
    config_path: str | None = None,
    run_unfenced: bool = False,
    python: str | None = None,
) -> JobResult:
    """Write tests for one Python module and run them in a fence, without network, keys and files of yours.

    Args:
        module_path: The Python file to test.
        seconds: Time limit of one run of the tests, 1 to 600.
        use_case: Use case, which selects the executors.
        config_path: Configuration file; empty searches the usual places.
        run_unfenced: Run the tests with your own rights. Only inside a container that is made for it.
        python: The interpreter that runs the tests; empty: that of the active virtual environment.

    Raises:
        ConfigError: No such file or interpreter, the file is not Python or cannot be imported, or a deployment asks for
            `run_unfenced`.
        OrchestrationError: No model's tests held.
    """
    if run_unfenced and deployment.id:
        raise ConfigError(
            "run_unfenced: refused in a deployment; only `tta job tests --run-unfenced` may ask for it."
        )
    module = read_module(Path(module_path))
    interpreter = find_python(python)
    fence = await (no_fence if run_unfenced else find_fence)(module, interpreter)
    if fence is not None:
        fault = await import_fault(module, fence, seconds)
        if fault is not None:
            raise ConfigError(
                f"{module.path}: {fault}. Nothing was asked or paid. Give the project's interpreter with --python, "
                "or its folders in PYTHONPATH."
            )
    tried = _Trials(module, seconds, fence)
    style = "pytest or unittest" if fence is not None and fence.pytest else "unittest"
    part = JobPart(
        name=module.name,
        task=f"Write {style} tests for the module {module.name} (import it by this name):\n\n"
        f"```python\n{module.source}\n```",
        use_case=use_case,
        instructions=instructions("unit_tests"),
        criteria=_CRITERIA,
        check=tried.check,
        repairs="file",
    )
    done = await answer_parts(config_path, [part])
    content = code_in(done[0].result.content) if done[0].result is not None else ""
    note = NO_FENCE
    if fence is not None:
        ran = tried.ran.get(content, 0)
        note = f"{ran} tests ran and passed on {module.name} ({fence.name}); with its functions emptied they fail"
    return await finish(f"Tests for {module.name}", content, done, [note])


class _Trials:
    """Tries each answer and remembers how many of its tests ran. Without a fence none runs."""

    def __init__(self, module: Module, seconds: float, fence: Fence | None) -> None:
        self.ran: dict[str, int] = {}
        self._failures: dict[str, Sequence[str]] = {}
        self._module, self._seconds, self._fence = module, seconds, fence

    async def check(self, answer: str) -> Sequence[str]:
        """The failures of one answer's tests; empty when they hold."""
        code = code_in(answer)
        if code in self._failures:
            return self._failures[code]
        self._failures[code] = await self._failures_of(code)
        return self._failures[code]

    async def _failures_of(self, code: str) -> Sequence[str]:
        if self._fence is None:
            fault = syntax_fault(code)
            return [] if fault is None else [fault]
        outcome = await trial(self._module, code, seconds=self._seconds, fence=self._fence)
        self.ran[code] = outcome.run
        return outcome.failures
