"""Runs one file of unittest tests in a process of its own, with no way to the network, other programs or other files.

    python -I trial_runner.py '{"root": ..., "module": ..., "tests": ..., "scratch": ..., "hollow": false}'

The last line of stdout is one JSON object: tests run, failures (names with one line each), and what was hollowed out.
Only the standard library: it runs before anything else is importable. The fence is an audit hook, which Python code
cannot take away again; it keeps honest mistakes inside, and is no prison for hostile native code.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import resource
import sys
import types
import unittest
from typing import Any

_FORBIDDEN = (
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.sendto",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.kill",
    "os.killpg",
    "ctypes.dlopen",
    "signal.pthread_kill",
)
_CHANGES = (
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.rename",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
)


def main() -> None:
    """Fence the process in, run the tests, print the outcome."""
    order = json.loads(sys.argv[1])
    sys.dont_write_bytecode = True
    sys.path.insert(0, order["root"])
    sys.path.insert(0, order["scratch"])
    os.chdir(order["scratch"])
    _limit(order["memory_mb"], order["seconds"])
    _fence(order["scratch"])
    out = sys.stdout
    sys.stdout = sys.stderr = io.StringIO()
    report = _run(order["module"], order["tests"], hollow=order["hollow"])
    out.write("\n" + json.dumps(report) + "\n")
    out.flush()


def _limit(memory_mb: int, seconds: int) -> None:
    for kind, amount in (
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 32 << 20),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (amount, amount))


def _fence(scratch: str) -> None:
    home = os.path.realpath(scratch) + os.sep

    def inside(path: object) -> bool:
        return isinstance(path, (str, bytes)) and (os.path.realpath(os.fsdecode(path)) + os.sep).startswith(
            home
        )

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN:
            raise PermissionError(f"tests may not use {event}")
        if event == "open" and _writes(args) and not (inside(args[0]) or args[0] == os.devnull):
            raise PermissionError("tests may write only below their temporary folder")
        if event in _CHANGES and not inside(args[0]):
            raise PermissionError("tests may change only what is below their temporary folder")

    sys.addaudithook(hook)


def _writes(args: tuple[Any, ...]) -> bool:
    mode, flags = args[1], args[2]
    if isinstance(args[0], int):
        return False
    return (
        any(c in mode for c in "wax+") if isinstance(mode, str) else bool(flags & (os.O_WRONLY | os.O_RDWR))
    )


def _run(module: str, tests: str, *, hollow: bool) -> dict[str, Any]:
    try:
        target = importlib.import_module(module)
        emptied = _hollow(target) if hollow else []
        suite = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(tests))
    except BaseException as error:
        return {"run": 0, "failed": [f"import: {_line(error)}"], "hollowed": []}
    result = unittest.TestResult()
    suite.run(result)
    bad = [*result.failures, *result.errors]
    failed = [f"{test.id().rpartition('.')[2]}: {text.strip().splitlines()[-1]}" for test, text in bad]
    failed += [f"{test.id().rpartition('.')[2]}: passed unexpectedly" for test in result.unexpectedSuccesses]
    ran = result.testsRun - len(result.skipped) - len(result.expectedFailures)
    return {"run": ran, "failed": failed, "hollowed": emptied}


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _hollow(module: types.ModuleType) -> list[str]:
    """Replace every public function, and every method of a public class, by one that gives None."""
    emptied = []
    for name, value in list(vars(module).items()):
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, types.FunctionType) or hasattr(value, "__wrapped__"):
            setattr(module, name, _nothing)
            emptied.append(name)
        elif isinstance(value, type):
            emptied += [f"{name}.{m}" for m in _hollow_class(value)]
    return emptied


def _hollow_class(value: type) -> list[str]:
    emptied = []
    for name, method in list(vars(value).items()):
        if name.startswith("_") or not isinstance(method, types.FunctionType | staticmethod | classmethod):
            continue
        try:
            setattr(value, name, _nothing)
        except (AttributeError, TypeError):
            continue
        emptied.append(name)
    return emptied


def _nothing(*_: object, **__: object) -> None:
    """Stands in for the code under test."""


if __name__ == "__main__":
    main()
