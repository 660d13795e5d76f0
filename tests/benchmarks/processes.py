"""Processes of the benchmark: contenders that stay up, and Prefect servers; each ends what it started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_TICK = os.sysconf("SC_CLK_TCK")


def clean_environment() -> dict[str, str]:
    """This process's environment without what points it at a Prefect or at a configuration."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TTA_"))}


def cpu_s(pid: int) -> float:
    """Processor time of a process and of its ended children, seconds; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(fields[index]) for index in (11, 12, 13, 14)) / _TICK


def peak_mib(pid: int) -> float | None:
    """Largest resident memory so far."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def stop_embedded(home: Path) -> None:
    """End the server of a home, if one runs."""
    command = [sys.executable, "-m", "tta_dev_primitives", "server", "stop"]
    environment = {**clean_environment(), "TTA_HOME": str(home)}
    subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)


class PeerServer(AbstractContextManager["PeerServer"]):
    """Prefect's own server as its documentation starts it: default settings, default SQLite."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/api"
        home.mkdir(parents=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env={**clean_environment(), "PREFECT_HOME": str(home), "DO_NOT_TRACK": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> PeerServer:
        end = time.monotonic() + 180
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return self
            except OSError:
                time.sleep(0.2)
        self.__exit__()
        raise RuntimeError("Prefect's own server did not start within 180 s")

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(20)

    def pids(self) -> list[int]:
        """The command and the server that it has started."""
        found = [self._process.pid]
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == self._process.pid and int(status.parent.name) != self._process.pid:
                found.append(int(status.parent.name))
        return found


class Worker(AbstractContextManager["Worker"]):
    """One contender in a process that stays up; `server` is its Prefect server, or the home of one."""

    def __init__(
        self, name: str, url: str, python: str, environment: dict[str, str], server: PeerServer | Path | None
    ) -> None:
        self.name, self.server = name, server
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [python, str(HERE / "contenders.py"), name, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )

    def until_ready(self) -> None:
        """Wait until it has imported and opened what it needs."""
        self._line("ready")

    def ask(self, workload: str, number: int) -> dict[str, Any]:
        """Let it do one piece of work."""
        return dict(json.loads(self._line(None, f"{workload} {number}\n")))

    def end(self) -> float:
        """End it; its peak memory, MiB."""
        return float(json.loads(self._line(None, "\n"))["peak_mib"])

    def _line(self, wanted: str | None, said: str | None = None) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if said is not None:
            self._process.stdin.write(said)
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        while wanted is None and line and not line.startswith("{"):
            line = self._process.stdout.readline()  # a library has printed something
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"{self.name} has ended:\n{self._errors.read().decode()[-3000:]}")
        return line

    def _server_pids(self) -> list[int]:
        match self.server:
            case PeerServer():
                return self.server.pids()
            case Path():
                return [json.loads((self.server / "server" / "state.json").read_text())["pid"]]
            case _:
                return []

    def server_cpu_s(self) -> float:
        """Processor time of its Prefect server so far."""
        return sum(cpu_s(pid) for pid in self._server_pids())

    def server_peak_mib(self) -> float | None:
        """Peak memory of its Prefect server."""
        peaks = [peak for pid in self._server_pids() if (peak := peak_mib(pid)) is not None]
        return sum(peaks) if peaks else None

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()
