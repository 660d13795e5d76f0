"""Runs one file of unittest tests in a locked child process, and reports on it.

    python -I trial_runner.py        # the order is one line of JSON on stdin; the report is one line on stdout

Two processes. The parent never loads a line of what is tested: it holds the way out (stdout), the time limit and the
kill. The child is locked in before it imports anything (`trial_lock`), holds no descriptor but one pipe to the parent,
and what comes through that pipe counts only whole and with the secret of this run. Only the standard library.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import secrets
import select
import signal
import socket
import sys
import time
import types
import unittest
from typing import Any

_MOST_REPORT = 256 * 1024
_MOST_FAILURES = 50
_POLL_S = 0.02
_LOOK_S = 0.2
_MOST_BYTES = 64 << 20
_MOST_ENTRIES = 5_000
_LONGEST_PATH = 1_500


def main() -> None:
    """Run what the order says, print the report."""
    order = json.loads(sys.stdin.buffer.readline())
    secret = secrets.token_hex(16).encode()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _in_child(order, write, secret)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    try:
        said, ended = _watch(child, read, order["scratch"], time.monotonic() + order["seconds"])
    finally:
        with contextlib.suppress(OSError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
    report: dict[str, Any] = {"late": ended is None, "status": ended, "forged": False, "report": None}
    try:
        report["report"] = json.loads(said.removeprefix(secret)) if said.startswith(secret) else None
    except ValueError:
        report["forged"] = True
    report["forged"] |= bool(said) and report["report"] is None
    print(json.dumps(report), flush=True)


def _watch(child: int, pipe: int, scratch: str, deadline: float) -> tuple[bytes, int | None]:
    """What the child said, and how it ended: None when it used up its time or room, or stdin was closed."""
    said, sources, looked = b"", [pipe, sys.stdin.fileno()], time.monotonic()
    os.set_blocking(pipe, False)
    while time.monotonic() < deadline and len(said) <= _MOST_REPORT:
        ready, _, _ = select.select(sources, [], [], _POLL_S)
        if sys.stdin.fileno() in ready:
            return b"", None
        if pipe in ready:
            piece = os.read(pipe, 65536)
            said += piece
            if not piece:
                sources.remove(pipe)
        else:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                # What it wrote just before its end is still in the pipe.
                with contextlib.suppress(BlockingIOError):
                    said += os.read(pipe, _MOST_REPORT)
                return said, os.waitstatus_to_exitcode(status)
        if time.monotonic() - looked > _LOOK_S:
            looked = time.monotonic()
            if not _has_room(scratch):
                break
    return b"", None


def _has_room(scratch: str) -> bool:
    """Whether the folder holds less than its limits; what is nested too deep to look at counts as full."""
    left, entries, waiting = _MOST_BYTES, _MOST_ENTRIES, [scratch]
    while waiting:
        with contextlib.suppress(FileNotFoundError, PermissionError), os.scandir(waiting.pop()) as found:
            for entry in found:
                entries -= 1
                with contextlib.suppress(FileNotFoundError):
                    left -= entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                if entries < 0 or left < 0 or len(entry.path) > _LONGEST_PATH:
                    return False
    return True


def _in_child(order: dict[str, Any], pipe: int, secret: bytes) -> None:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.closerange(3, pipe)
    os.closerange(pipe + 1, 4096)
    sys.dont_write_bytecode = True
    os.chdir(order["scratch"])
    with open(f"{order['tests']}.py", "w", encoding="utf-8") as file:
        file.write(order.pop("code"))
    _limit(order["memory_mb"], order["seconds"])
    if order["fence"]:
        problem = _lock(order)
        if problem:
            os.write(pipe, secret + json.dumps({"unlocked": problem}).encode())
            return
    sys.path[:0] = [order["scratch"], order["names"]]
    report = _run(order["module"], order["tests"], hollow=order["hollow"]) if order["module"] else {}
    os.write(pipe, secret + json.dumps(report).encode())


def _limit(memory_mb: int, seconds: float) -> None:
    for kind, amount in (
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_CPU, round(seconds) + 1),
        (resource.RLIMIT_FSIZE, 16 << 20),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (amount, amount))


def _lock(order: dict[str, Any]) -> str | None:
    """Lock this process in and try the lock; why it does not hold, or None."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    # Beside this file, which is no package inside the fence.
    trial_lock = importlib.import_module("trial_lock")
    sys.path.pop(0)
    try:
        trial_lock.lock(
            readable=order["readable"], writable=order["scratch"], files=order["fence"] == "landlock"
        )
    except OSError as error:
        return str(error)
    for what, attempt in (
        ("read a file outside", lambda: open(order["canary"], "rb").close()),
        ("change a file outside", lambda: open(order["canary"], "ab").close()),
        ("open a socket", lambda: socket.socket().close()),
        ("start a process", os.fork),
    ):
        try:
            attempt()
        except OSError:
            continue
        if what == "start a process":
            # Both processes come here; the lock does not hold in either.
            return "a test could start a process"
        return f"a test could {what}"
    return None


def _run(module: str, tests: str, *, hollow: bool) -> dict[str, Any]:
    try:
        target = importlib.import_module(module)
        emptied = _hollow(target) if hollow else []
        suite = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(tests))
    except BaseException as error:
        return {"passed": [], "failed": [["import", _line(error)]], "hollowed": []}
    result = _Result()
    suite.run(result)
    bad = [
        (test, (text.strip() or "failed").splitlines()[-1])
        for test, text in (*result.failures, *result.errors)
    ]
    bad += [(test, "passed unexpectedly") for test in result.unexpectedSuccesses]
    failed = [[test.id().rpartition(".")[2][:100], text[:200]] for test, text in bad[:_MOST_FAILURES]]
    return {"passed": result.passed, "failed": failed, "hollowed": emptied}


class _Result(unittest.TestResult):
    def __init__(self) -> None:
        super().__init__()
        self.passed: list[str] = []

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.passed.append(test.id().rpartition(".")[2][:100])


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


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
