"""Third-party servers from npm, installed once into a cache folder and started on a free loopback port."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

AIMOCK, STEADY = "@copilotkit/aimock@1.43.0", "@stdy/cli@0.22.2"
_PACKAGES = (AIMOCK, STEADY)
_WAIT_S = 20.0


def program(name: str) -> str:
    """The path of an installed command; skips where npm or the packages are not to be had."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed (Debian: apt-get install npm)")
    folder = _folder()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes install once, one after the other
        if not (folder / "installed").exists():
            _install(npm, folder)
    return str(folder / "node_modules" / ".bin" / name)


def _folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if not os.access(cache if cache.exists() else cache.parent, os.W_OK):
        cache = Path(tempfile.gettempdir())
    pinned = "-".join(package.rpartition("@")[2] for package in _PACKAGES)
    folder = cache / "tta-tests" / f"npm-{pinned}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _install(npm: str, folder: Path) -> None:
    command = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(
            [*command, *_PACKAGES], capture_output=True, text=True, timeout=110, check=False, cwd=folder
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm install did not end within 110 s")
    if done.returncode != 0:
        pytest.skip(f"npm cannot install {', '.join(_PACKAGES)}: {done.stderr.strip()[-300:]}")
    (folder / "installed").touch()


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[str]:
    """The address of a server that `command` starts; `{port}` in it becomes a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in command], stdout=out, stderr=subprocess.STDOUT
        )
    try:
        _wait_for(port, process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _WAIT_S
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"the server did not start: {log.read_text(errors='replace')[-1000:]}")
