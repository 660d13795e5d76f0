"""Generated tests on trial: run in a process of their own, first on the module as it is, then on an emptied one.

outcome = await trial(module, code, seconds=60)
outcome.failures   # () when the tests pass and would notice that the module does nothing
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tta_dev_primitives.flows.jobs.modules import Module

__all__ = ["Outcome", "trial"]

_RUNNER = Path(__file__).with_name("trial_runner.py")
_TESTS = "test_generated"
_MEMORY_MB = 2048
_SHOWN = 5
_MOST_OUTPUT = 1 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file of tests."""

    run: int
    """Tests that ran on the module as it is."""
    failures: tuple[str, ...] = ()
    """Why they are refused, one line each; empty when they pass and check something."""


async def trial(module: Module, code: str, *, seconds: float = 60.0) -> Outcome:
    """Run `code` against the module.

    Args:
        module: What is tested.
        code: A file of unittest tests.
        seconds: Time limit of each of the two runs.
    """
    try:
        compile(code, "<tests>", "exec")
    except (SyntaxError, ValueError) as error:
        return Outcome(0, (f"tests are not Python: {getattr(error, 'msg', error)}",))
    with tempfile.TemporaryDirectory(prefix="tta-trial-") as folder:
        (Path(folder) / f"{_TESTS}.py").write_text(code, encoding="utf-8")
        as_it_is = await _run(module, folder, seconds, hollow=False)
        if as_it_is.failures or as_it_is.run == 0:
            return as_it_is if as_it_is.failures else Outcome(0, ("no test ran",))
        emptied = await _run(module, folder, seconds, hollow=True)
    if emptied.failures:
        return as_it_is
    return Outcome(as_it_is.run, ("the tests also pass when every function of the module does nothing",))


async def _run(module: Module, folder: str, seconds: float, *, hollow: bool) -> Outcome:
    order = {
        "root": str(module.root),
        "module": module.name,
        "tests": _TESTS,
        "scratch": folder,
        "hollow": hollow,
        "memory_mb": _MEMORY_MB,
        "seconds": max(1, round(seconds) + 1),
    }
    # Nothing of our own environment: no keys, no proxies, no settings.
    environment = {"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "LC_ALL": "C.UTF-8"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(_RUNNER),
        json.dumps(order),
        env=environment,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(seconds):
            out, _ = await process.communicate()
    except TimeoutError:
        return Outcome(0, (f"the tests did not end within {seconds:g} s",))
    finally:
        await _end(process)
    report = _last_object(out[-_MOST_OUTPUT:])
    if report is None:
        return Outcome(0, (f"the test process died with exit code {process.returncode}",))
    if hollow and not report["hollowed"]:
        # A module of constants: there is nothing to empty, so nothing speaks against the tests.
        return Outcome(report["run"], ("nothing to empty",))
    failed = report["failed"]
    more = [f"and {len(failed) - _SHOWN} more"] if len(failed) > _SHOWN else []
    return Outcome(report["run"], tuple(f"failed {line[:200]}" for line in failed[:_SHOWN]) + tuple(more))


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _last_object(out: bytes) -> dict[str, Any] | None:
    lines = out.decode("utf-8", "replace").strip().splitlines()
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        return None
    return found if isinstance(found, dict) else None
