"""Generated tests on trial: run in a fence, first on the module as it is, then on an emptied one.

outcome = await trial(module, code, seconds=60)
outcome.failures   # () when the tests pass and would notice that the module does nothing

Only what is seen from outside counts: that each reported test is one of the file, that the process ended by itself, and
that the same tests fail on the emptied module.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from tta_dev_primitives.flows.jobs.fence import Fence, FenceError, find_fence
from tta_dev_primitives.flows.jobs.modules import Module

__all__ = ["NO_FENCE", "Outcome", "syntax_fault", "trial"]

NO_FENCE = (
    "the tests were NOT run: this machine offers no fence for them. Install bubblewrap, use Linux 6.2 or newer, "
    "or pass --run-unfenced inside a container"
)
_SHOWN = 5


class _Report(BaseModel, extra="forbid", strict=True):
    passed: list[str]
    failed: list[list[str]]
    hollowed: list[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file of tests."""

    run: int
    """Tests that passed on the module as it is."""
    failures: tuple[str, ...] = ()
    """Why they are refused, one line each; empty when they pass and check something."""


async def trial(module: Module, code: str, *, seconds: float = 60.0, fence: Fence | None = None) -> Outcome:
    """Run `code` against the module.

    Args:
        module: What is tested.
        code: A file of unittest tests.
        seconds: Time limit of each of the two runs.
        fence: Where it runs; None looks for one.
    """
    fault = syntax_fault(code)
    if fault is not None:
        return Outcome(0, (fault,))
    fence = fence or await find_fence(module)
    if fence is None:
        return Outcome(0, (NO_FENCE,))
    as_it_is = await _run(module, code, fence, seconds, hollow=False)
    if as_it_is.failures or as_it_is.run == 0:
        return as_it_is if as_it_is.failures else Outcome(0, ("no test ran",))
    emptied = await _run(module, code, fence, seconds, hollow=True)
    if emptied.failures:
        return as_it_is
    return Outcome(as_it_is.run, ("the tests also pass when every function of the module does nothing",))


def syntax_fault(code: str) -> str | None:
    """Why `code` is not Python, or None."""
    try:
        compile(code, "<tests>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"tests are not Python: {getattr(error, 'msg', error)}"
    return None


async def _run(module: Module, code: str, fence: Fence, seconds: float, *, hollow: bool) -> Outcome:
    order = {"module": module.name, "code": code, "hollow": hollow}
    try:
        reply = await fence.run(order, seconds)
    except FenceError as error:
        return Outcome(0, (f"the tests could not be run: {error}",))
    if reply["late"]:
        return Outcome(0, (f"the tests did not end within {seconds:g} s",))
    report = _checked(reply["report"], code)
    if reply["forged"] or report is None:
        return Outcome(0, (f"the test process ended without a valid report (exit code {reply['status']})",))
    if hollow and not report.hollowed:
        # A module of constants: there is nothing to empty, so nothing speaks against the tests.
        return Outcome(len(report.passed), ("nothing to empty",))
    failed = ["failed " + ": ".join(words)[:300] for words in report.failed]
    more = [f"and {len(failed) - _SHOWN} more"] if len(failed) > _SHOWN else []
    return Outcome(len(report.passed), (*failed[:_SHOWN], *more))


def _checked(report: Any, code: str) -> _Report | None:
    """The report when it has the shape of one, and each test that it names as passed is one of the file."""
    try:
        given = _Report.model_validate(report)
    except ValidationError:
        return None
    tests = {
        node.name[:100]
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return given if tests.issuperset(given.passed) else None
