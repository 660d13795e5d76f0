"""`tta` as a process of its own, forked from one that has loaded the commands: no start of Python for each call."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

__all__ = ["tta_command"]

_FORKS = """
import importlib, json, os, sys, traceback
from tta_dev_primitives.cli import main
for name in ("check", "estimate", "init", "ledger", "models", "report"):
    importlib.import_module(f"tta_dev_primitives.commands.{name}")
assert "prefect" not in sys.modules
while line := sys.stdin.readline():
    asked = json.loads(line)
    pid = os.fork()
    if not pid:
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            os.dup2(os.open(name, os.O_RDWR, dir_fd=os.open(asked["streams"], os.O_RDONLY)), number)
        sys.stdin = open(0, closefd=False)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        code = 1
        try:
            code = main(asked["arguments"]) or 0
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@cache
def _forks() -> subprocess.Popen[str]:
    """It ends with this process, whose end closes its standard input."""
    return subprocess.Popen(
        [sys.executable, "-c", _FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def tta_command(
    arguments: list[str], folder: Path, environment: Mapping[str, str], stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    """Run one command in `folder`.

    Args:
        arguments: Of `tta`.
        folder: The working folder.
        environment: All variables.
        stdin: What it can read.
    """
    process = _forks()
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.TemporaryDirectory() as streams:
        files = [Path(streams) / name for name in ("stdin", "stdout", "stderr")]
        for file in files:
            file.write_bytes(stdin if file.name == "stdin" else b"")
        asked = {
            "arguments": arguments,
            "folder": str(folder),
            "environment": dict(environment),
            "streams": streams,
        }
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        code = int(process.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, files[1].read_text(), files[2].read_text())
