"""The fence around generated tests: what keeps them from files, network, keys and other processes.

    fence = await find_fence(module)     # None: this machine offers none, so nothing may run
    reply = await fence.run(order)

Bubblewrap where it is installed and allowed: the tests see an empty machine that holds the interpreter, the code that
the module imports, and one folder in memory. Else Landlock, by which the same is allowed and everything else refused.
In both the tests run below seccomp: no process, no socket, no signal. Each run tries its fence before it runs a test.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tta_dev_primitives.config.errors import ConfigError, OrchestrationError
from tta_dev_primitives.flows.jobs.modules import Module

_HERE = Path(__file__).parent
_RUNNER, _LOCK, _VIEW = (_HERE / f"trial_{name}.py" for name in ("runner", "lock", "view"))
_MEMORY_MB = 2048
_SCRATCH_MB = 64
_MOST_REPLY = 1 << 20
_GRACE_S = 15.0
"""The runner keeps the time limit; this is for the start of its processes."""
_PROBE: dict[str, Any] = {"module": "", "code": "", "change": ""}

Kind = Literal["bubblewrap", "landlock", "none"]


class FenceError(OrchestrationError):
    """The fence could not be put up, or does not hold."""


@dataclass(frozen=True, slots=True)
class Fence:
    """One kind of fence with what may be read inside it."""

    kind: Kind
    readable: tuple[str, ...]
    names: tuple[tuple[str, str], ...]
    """Import name and place of the code that lies outside the interpreter."""
    python: str = sys.executable
    """The interpreter that runs the tests."""
    pytest: bool = False
    """It has pytest, which runs tests of both styles."""

    @property
    def name(self) -> str:
        """How people read it."""
        return {"bubblewrap": "in bubblewrap", "landlock": "in a Landlock fence", "none": "without a fence"}[
            self.kind
        ]

    async def run(self, order: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Run one order in the fence.

        Args:
            order: `module`, `code` and `change` (empty: the module as it is; `emptied`; `unusable`).
            seconds: Time limit of the tests.

        Returns:
            The runner's report.

        Raises:
            FenceError: The fence does not hold, or there is no report.
        """
        folder = _made()
        try:
            command, inside = self._prepare(folder)
            full = {
                **order,
                "fence": "" if self.kind == "none" else self.kind,
                "tests": "test_generated",
                "pytest": self.pytest,
                "scratch": f"{inside}/scratch",
                "names": f"{inside}/names",
                "readable": [*self.readable, f"{folder}/names", str(_HERE)],
                "canary": f"{folder}/canary",
                "memory_mb": _MEMORY_MB,
                "seconds": seconds,
            }
            reply = await _ask(command, full, f"{inside}/scratch", seconds + _GRACE_S)
        finally:
            await asyncio.to_thread(_remove, folder)
        report = reply["report"]
        problem = report.get("unlocked") if isinstance(report, dict) else None
        if problem:
            raise FenceError(f"{self.kind}: {problem}")
        return reply

    def _prepare(self, folder: str) -> tuple[list[str], str]:
        """The command that starts the runner, and where the run's own folder is inside the fence."""
        Path(folder, "canary").write_text("not for tests", encoding="utf-8")
        if self.kind == "bubblewrap":
            return self._bubblewrap(), "/trial"
        Path(folder, "scratch").mkdir()
        Path(folder, "names").mkdir()
        for name, place in self.names:
            Path(folder, "names", _file_name(name, place)).symlink_to(place)
        return [self.python, "-I", str(_RUNNER)], folder

    def _bubblewrap(self) -> list[str]:
        command = [
            _bwrap() or "bwrap",
            "--unshare-all",
            "--die-with-parent",
            "--new-session",
            "--cap-drop",
            "ALL",
        ]
        for path in self.readable:
            command += ["--ro-bind", path, path]
        for device in ("null", "zero", "random", "urandom"):
            command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
        for script in (_RUNNER, _LOCK):
            command += ["--ro-bind", str(script), f"/trial/{script.name}"]
        command += ["--dir", "/trial/names"]
        for name, place in self.names:
            command += ["--symlink", place, f"/trial/names/{_file_name(name, place)}"]
        command += ["--size", str(_SCRATCH_MB << 20), "--tmpfs", "/trial/scratch", "--remount-ro", "/"]
        return [*command, "--chdir", "/trial/scratch", self.python, "-I", f"/trial/{_RUNNER.name}"]


def find_python(given: str | None) -> str:
    """The interpreter that runs the tests: the given one, that of the active virtual environment, or this one's.

    Raises:
        ConfigError: There is none at the given path.
    """
    active = os.environ.get("VIRTUAL_ENV")
    found = given or (str(Path(active, "bin", "python")) if active else "")
    if found and os.access(found, os.X_OK) and Path(found).is_file():
        # Not resolved: a virtual environment is known by the path of its link.
        return os.path.abspath(found)
    if given:
        raise ConfigError(
            f"--python {given}: no program there. Give the path of an interpreter, such as .venv/bin/python."
        )
    return sys.executable


async def find_fence(module: Module, python: str = sys.executable) -> Fence | None:
    """The first fence that holds here, tried by a process that attempts to get out of it."""
    view = await _view(module, python)
    kinds: tuple[Kind, ...] = ("bubblewrap", "landlock") if _bwrap() else ("landlock",)
    for kind in kinds:
        fence = replace(view, kind=kind)
        try:
            reply = await fence.run(_PROBE, 20.0)
        except FenceError:
            continue
        if reply["report"] is not None:
            return fence
    return None


async def no_fence(module: Module, python: str = sys.executable) -> Fence:
    """No fence at all, for those who have put one around the whole program."""
    return await _view(module, python)


def _made() -> str:
    return os.path.realpath(tempfile.mkdtemp(prefix="tta-trial-"))


def _file_name(name: str, place: str) -> str:
    return name if Path(place).is_dir() else name + Path(place).suffix


def _remove(folder: str) -> None:
    """Remove what tests left behind, also folders nested so deep that Python's own removal gives up."""
    try:
        shutil.rmtree(folder)
    except (OSError, RecursionError):
        subprocess.run(["rm", "-rf", "--", folder], check=False, env={"PATH": os.defpath})  # noqa: S603, S607


def _bwrap() -> str | None:
    return shutil.which("bwrap") if sys.platform == "linux" else None


async def _view(module: Module, python: str) -> Fence:
    """What the tests of a module may read, for an interpreter; PYTHONPATH counts as it does for the module's users."""
    folders = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    extra = [str(Path.cwd() / entry) for entry in folders]
    found = await _ask([python, "-I", str(_VIEW), str(module.root), module.name, *extra], None, "/", 60.0)
    names = {module.name.partition(".")[0]: _place(module), **found["names"]}
    paths = sorted({*found["paths"], *names.values()})
    # A folder that lies in another one is visible with it.
    tops = [p for p in paths if not any(p != q and p.startswith(q.rstrip("/") + "/") for q in paths)]
    return Fence("none", tuple(tops), tuple(names.items()), python, bool(found["pytest"]))


def _place(module: Module) -> str:
    top = module.root / module.name.partition(".")[0]
    return str(top if top.is_dir() and "." in module.name else module.path)


async def _ask(
    command: list[str], order: dict[str, Any] | None, folder: str, seconds: float
) -> dict[str, Any]:
    """Run a script of ours: one line of JSON in, one line out, both bounded."""
    # Nothing of our own environment: no keys, no proxies, no settings.
    environment = {"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "LC_ALL": "C.UTF-8"}
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=_MOST_REPLY,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    said = b""
    try:
        async with asyncio.timeout(seconds):
            if order is not None:
                with suppress(ConnectionError):
                    process.stdin.write(json.dumps(order).encode() + b"\n")
                    await process.stdin.drain()
            said = await process.stdout.readline()
    except (TimeoutError, ValueError):
        pass
    finally:
        # The runner ends with its stdin, and takes the tests along.
        process.stdin.close()
        await _end(process)
    try:
        reply = json.loads(said)
    except ValueError:
        raise FenceError(f"{Path(command[0]).name} ended with exit code {process.returncode}") from None
    assert isinstance(reply, dict)
    return reply


async def _end(process: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(2):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
