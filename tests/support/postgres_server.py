"""A throw-away PostgreSQL server on loopback, from the machine's own binaries; for tests and benchmarks."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["PostgresServer", "postgres_binaries", "stop_server"]


def postgres_binaries() -> Path | None:
    """The folder with `initdb` and `pg_ctl`: Debian keeps it off the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[4]))
    if debian:
        return debian[-1].parent
    found = shutil.which("pg_ctl")
    return Path(found).resolve().parent if found else None


class PostgresServer:
    """One cluster in a temporary folder.

    Args:
        durable: Sync to disk as in production; False spares the disk (a killed server still loses nothing).
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._durable = durable
        self.folder = Path(tempfile.mkdtemp(prefix="tta-pg-"))
        account = _account()
        if account is not None:
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self.port = _free_port()
        self._run(
            "initdb", "-D", str(self.folder / "data"), "-A", "trust", "-U", "tta", "--no-sync", "-E", "UTF8"
        )
        self.start()

    @property
    def url(self) -> str:
        """The address of its database."""
        return f"postgresql://tta@127.0.0.1:{self.port}/postgres"

    def _run(self, program: str, *arguments: str) -> None:
        _run(self.folder, program, *arguments)

    def start(self) -> None:
        """Start it and wait until it answers."""
        sync = "" if self._durable else " -c fsync=off -c full_page_writes=off"
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c max_connections=300{sync}"
        )
        data = str(self.folder / "data")
        self._run(
            "pg_ctl", "-D", data, "-w", "-t", "60", "-l", str(self.folder / "log"), "-o", options, "start"
        )

    def stop(self) -> None:
        """Stop it and remove its folder."""
        stop_server(self.folder)

    def halt(self) -> None:
        """Stop every process of it at once; `start` brings it back."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def crash(self) -> None:
        """Stop every process of it at once, as a power cut would, and start it again."""
        self.halt()
        self.start()

    def kill_backend(self) -> bool:
        """SIGKILL one of the processes that serve clients: PostgreSQL then restarts all of them."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                line = (process / "cmdline").read_text()
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if parent == self._postmaster() and "tta postgres 127.0.0.1" in line:
                os.kill(int(process.name), signal.SIGKILL)
                return True
        return False

    def _postmaster(self) -> str:
        return (self.folder / "data" / "postmaster.pid").read_text().splitlines()[0]

    def wait(self, seconds: float = 110.0) -> None:
        """Wait until it accepts connections again."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port))
            except RuntimeError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError("PostgreSQL did not come back")


def stop_server(folder: Path) -> None:
    """Stop the server of `folder` and remove the folder."""
    try:
        _run(folder, "pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _account() -> pwd.struct_passwd | None:
    """Whose processes they are: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return pwd.getpwnam("postgres" if "postgres" in names else "nobody")


def _run(folder: Path, program: str, *arguments: str) -> None:
    binaries, account = postgres_binaries(), _account()
    if binaries is None:
        raise RuntimeError("PostgreSQL is not installed")
    done = subprocess.run(
        [str(binaries / program), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=folder,
        text=True,
        check=False,
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        user=None if account is None else account.pw_uid,
        group=None if account is None else account.pw_gid,
        extra_groups=None if account is None else [],
    )
    if done.returncode:
        log = folder / "log"
        raise RuntimeError(f"{program}: {done.stderr} {log.read_text() if log.exists() else ''}")


def _free_port() -> int:
    """A port that the system gives to no one by itself: a server that is started again must get it again."""
    for port in random.sample(range(15_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port between 15000 and 32000")
