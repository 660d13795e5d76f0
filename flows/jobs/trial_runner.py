"""Runs one file of tests in a locked child process, by pytest where the interpreter has it, and reports on it.

    python -I trial_runner.py        # the order is one line of JSON on stdin; the report is one line on stdout

Two processes. The parent never loads a line of what is tested: it holds the way out (stdout), the time limit and the
kill. The child is locked in before it imports anything (`trial_lock`), holds no descriptor but one pipe to the parent,
and what comes through that pipe counts only whole and with the secret of this run. Only the standard library.
"""

from __future__ import annotations

import contextlib
import functools
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
import traceback
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
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _in_child(order, write, secret, parent)
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


def _in_child(order: dict[str, Any], pipe: int, secret: bytes, parent: int) -> None:
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
        if os.getppid() != parent:  # killed before the lock bound this process to its end
            return
    sys.path[:0] = [order["scratch"], order["names"]]
    report = _run(order) if order["module"] else {}
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


def _run(order: dict[str, Any]) -> dict[str, Any]:
    """Change the module as ordered, run the tests, and say which passed and why others did not."""
    report: dict[str, Any] = {"passed": [], "failed": [], "changed": [], "broken": None}
    try:
        target = importlib.import_module(order["module"])
    except BaseException as error:
        return {**report, "broken": _line(error)}
    change = _CHANGES.get(order["change"])
    report["changed"] = [] if change is None else change(target)
    result = _Result(f"{order['tests']}.py")
    if order["pytest"]:
        _run_pytest(result)
    else:
        _run_unittest(order["tests"], result)
    return {**report, "passed": result.passed, "failed": result.failed[:_MOST_FAILURES]}


def _run_unittest(tests: str, result: _Result) -> None:
    try:
        suite = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(tests))
    except BaseException as error:
        result.fail("import", error)
        return
    suite.run(result)


def _run_pytest(result: _Result) -> None:
    """Only what pytest itself brings: plugins of the project's environment need files that the fence hides."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    pytest = importlib.import_module("pytest")
    with open("pytest.ini", "w", encoding="utf-8") as file:
        file.write("[pytest]\n")
    options = [
        "-q",
        "-s",
        "--noconftest",
        "-p",
        "no:cacheprovider",
        "-c",
        "pytest.ini",
        "--basetemp",
        "pytest-tmp",
    ]

    class Plugin:
        def pytest_collection_modifyitems(self, items: list[Any]) -> None:
            for item in items:
                names[item.nodeid] = getattr(item, "originalname", None) or item.name

        def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
            if call.excinfo is not None:
                errors[item.nodeid] = call.excinfo.value

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.failed:
                result.fail(names[report.nodeid], errors.get(report.nodeid) or report.longreprtext)
            elif report.when == "call" and report.passed:
                if hasattr(report, "wasxfail"):
                    result.fail(names[report.nodeid], "passed unexpectedly")
                else:
                    result.passed.append(names[report.nodeid][:100])

        def pytest_collectreport(self, report: Any) -> None:
            if report.failed:
                result.fail("import", report.longreprtext)

    names: dict[str, str] = {}
    errors: dict[str, BaseException] = {}
    pytest.main([*options, result.file], plugins=[Plugin()])


class _Result(unittest.TestResult):
    """What became of each test: its name, and for a failure the line of the test file and the error's words."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self.passed: list[str] = []
        self.failed: list[list[str]] = []

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.passed.append(_name(test))

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self.fail(_name(test), err[1])

    addError = addFailure

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        if err is not None:
            self.fail(_name(test), err[1])

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self.fail(_name(test), "passed unexpectedly")

    def fail(self, name: str, error: BaseException | str) -> None:
        """Keep a failure as name and one readable line."""
        if isinstance(error, str):
            # pytest marks the lines of an error with `E`.
            said = (error.strip() or "failed").splitlines()[-1].removeprefix("E ").strip()
        else:
            line = self._line_of(error)
            said = _line(error) + (f" (line {line})" if line else "")
        self.failed.append([name[:100], said[:240]])

    def _line_of(self, error: BaseException) -> int | None:
        """The last line of the test file that the error came through."""
        if isinstance(error, SyntaxError):
            return error.lineno
        found = None
        for frame, line in traceback.walk_tb(error.__traceback__):
            if os.path.basename(frame.f_code.co_filename) == self.file:
                found = line
        return found


def _name(test: unittest.TestCase) -> str:
    return test.id().rpartition(".")[2][:100]


def _line(error: BaseException) -> str:
    """The error's class and the first lines of its words, as one line."""
    words = " ".join(part.strip() for part in str(error).splitlines()[:3] if part.strip())
    return f"{type(error).__name__}: {words}"[:200].rstrip(": ")


def _emptied(module: types.ModuleType) -> list[str]:
    """Replace every public function, and every method, property and operator of a public class, by one giving None."""
    emptied = []
    for name, value in list(vars(module).items()):
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, type):
            emptied += [f"{name}.{m}" for m in _emptied_class(value)]
        elif isinstance(value, types.FunctionType) or hasattr(value, "__wrapped__"):
            setattr(module, name, _nothing)
            emptied.append(name)
    return emptied


_KEPT = frozenset(
    {
        "__new__",
        "__init_subclass__",
        "__class_getitem__",
        "__set_name__",
        "__del__",
        "__getattribute__",
        "__setattr__",
    }
)
"""Methods without which a class cannot be used at all."""
_METHODS = (types.FunctionType, staticmethod, classmethod, property, functools.cached_property)


def _emptied_class(value: type) -> list[str]:
    emptied = []
    for name, method in list(vars(value).items()):
        operator = name.startswith("__") and name.endswith("__")
        if name in _KEPT or (name.startswith("_") and not operator) or not isinstance(method, _METHODS):
            continue
        is_property = isinstance(method, property | functools.cached_property)
        try:
            setattr(value, name, property(_nothing) if is_property else _nothing)
        except (AttributeError, TypeError):
            continue
        emptied.append(name)
    return emptied


def _unusable(module: types.ModuleType) -> list[str]:
    """Replace every name of the module, other modules aside, by an object whose every use is an error."""
    names = [
        name
        for name, value in vars(module).items()
        if not (name.startswith("__") or isinstance(value, types.ModuleType))
    ]
    for name in names:
        setattr(module, name, _Unusable())
    return names


class _UnusableError(BaseException):
    """No test that expects an `Exception` takes it for the one that it expects."""


class _Unusable:
    """Stands in for whatever the module offers."""

    def __getattribute__(self, name: str) -> object:
        # Collecting tests looks at the private attributes of whatever a test file imported.
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        raise _UnusableError(name)


def _refuse(*_: object, **__: object) -> object:
    raise _UnusableError("used")


for _operator in (
    *("call", "eq", "ne", "lt", "le", "gt", "ge", "hash", "bool", "str", "repr", "iter", "len", "contains"),
    *("getitem", "setitem", "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "and", "or"),
    *("int", "float", "index", "format", "enter", "setattr", "mro_entries", "instancecheck", "subclasscheck"),
):
    setattr(_Unusable, f"__{_operator}__", _refuse)


def _nothing(*_: object, **__: object) -> None:
    """Stands in for the code under test."""


_CHANGES = {"emptied": _emptied, "unusable": _unusable}


if __name__ == "__main__":
    main()
