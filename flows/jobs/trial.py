"""Generated tests on trial: run in a fence, first on the module as it is, then on changed ones.

outcome = await trial(module, code, seconds=60)
outcome.failures   # () when the tests pass, would notice that the module does nothing, and all use the module

Only what is seen from outside counts: that each reported test is one of the file, that the process ended by itself, and
that the same tests fail on the changed module.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from tta_dev_primitives.flows.jobs.fence import Fence, FenceError, find_fence
from tta_dev_primitives.flows.jobs.modules import Module

NO_FENCE = (
    "the tests were NOT run: this machine offers no fence for them. Install bubblewrap, use Linux 6.2 or newer, "
    "or pass --run-unfenced inside a container"
)
_SHOWN = 5


class _Report(BaseModel, extra="forbid", strict=True):
    passed: list[str]
    failed: list[list[str]]
    changed: list[str]
    broken: str | None
    """Why the module itself cannot be imported."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file of tests."""

    run: int
    """Tests that passed on the module as it is."""
    failures: tuple[str, ...] = ()
    """Why they are refused, one line each; empty when they pass and check something."""
    passed: tuple[str, ...] = ()


async def trial(module: Module, code: str, *, seconds: float = 60.0, fence: Fence | None = None) -> Outcome:
    """Run `code` against the module.

    Args:
        code: A file of tests, for unittest or, where the interpreter has it, for pytest.
        seconds: Time limit of each of the three runs.
        fence: Where it runs; None looks for one.
    """
    fault = syntax_fault(code)
    if fault is not None:
        return Outcome(0, (fault,))
    fence = fence or await find_fence(module)
    if fence is None:
        return Outcome(0, (NO_FENCE,))
    as_it_is = await _run(module, code, fence, seconds)
    if as_it_is.failures or as_it_is.run == 0:
        return as_it_is if as_it_is.failures else Outcome(0, ("no test ran",))
    emptied = await _run(module, code, fence, seconds, "emptied")
    if not emptied.failures:
        return Outcome(as_it_is.run, ("the tests also pass when every function of the module does nothing",))
    unusable = await _run(module, code, fence, seconds, "unusable")
    idle = sorted(set(unusable.passed))
    if idle:
        more = f" and {len(idle) - _SHOWN} more" if len(idle) > _SHOWN else ""
        named = ", ".join(idle[:_SHOWN]) + more
        return Outcome(
            as_it_is.run, (f"these tests pass without using the module, so they check nothing: {named}",)
        )
    return as_it_is


async def import_fault(module: Module, fence: Fence, seconds: float = 60.0) -> str | None:
    """Why the module cannot be imported by the interpreter of the fence, in the fence; None: it can."""
    found = await _run(module, "", fence, seconds)
    return found.failures[0] if found.failures else None


def syntax_fault(code: str) -> str | None:
    """Why `code` is not Python, or None."""
    try:
        compile(code, "<tests>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"tests are not Python: {getattr(error, 'msg', error)}"
    return None


async def _run(module: Module, code: str, fence: Fence, seconds: float, change: str = "") -> Outcome:
    order = {"module": module.name, "code": code, "change": change}
    try:
        reply = await fence.run(order, seconds)
    except FenceError as error:
        return Outcome(0, (f"the tests could not be run: {error}",))
    if reply["late"]:
        return Outcome(0, (f"the tests did not end within {seconds:g} s",))
    report = _checked(reply["report"], code)
    if reply["forged"] or report is None:
        return Outcome(0, (f"the test process ended without a valid report (exit code {reply['status']})",))
    if report.broken is not None:
        return Outcome(0, (f"{module.name} cannot be imported by {fence.python}: {report.broken}",))
    if change == "emptied" and not report.changed:
        # A module of constants: there is nothing to empty, so nothing speaks against the tests.
        return Outcome(len(report.passed), ("nothing to empty",))
    failed = ["failed " + ": ".join(words)[:300] for words in report.failed]
    more = [f"and {len(failed) - _SHOWN} more"] if len(failed) > _SHOWN else []
    return Outcome(len(report.passed), (*failed[:_SHOWN], *more), tuple(report.passed))


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
