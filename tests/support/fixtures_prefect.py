"""One real Prefect server for a whole test session, shared by all xdist workers."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tta_dev_primitives.blocks.prefect_server.manager import (
    ServerInfo,
    server_environment,
    start_server,
    stop_server,
)
from tta_dev_primitives.blocks.prefect_server.server_settings import apply_environment


@contextmanager
def temporary_environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Prefect's variables, undone at the end."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        apply_environment({})
        yield
    apply_environment({})


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerInfo]:
    """A running embedded server; every flow of the test process uses it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    home = shared / "prefect-server-home"
    home.mkdir(mode=0o700, exist_ok=True)
    # The process that lives as long as the session; should it be killed, the server ends by itself.
    session = os.getppid() if os.environ.get("PYTEST_XDIST_WORKER") else os.getpid()
    with _last_one_stops(home), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TTA_SERVER_FOR_PID", str(session))
        patch.setenv("TTA_SERVER_PORT", "0")
        info = start_server(home=home, wait_s=100)
        with temporary_environment(server_environment(info)):
            yield info
            _deliver()


@contextmanager
def own_server(home: Path) -> Iterator[ServerInfo]:
    """A server for tests that change what all users of a server share, such as its deployments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TTA_SERVER_FOR_PID", str(os.getpid()))
        patch.setenv("TTA_SERVER_PORT", "0")
        info = start_server(home=home, wait_s=100)
        _deliver()  # else the events of these tests go to the server that earlier tests of this process used
        try:
            with temporary_environment(server_environment(info)):
                yield info
                _deliver()
        finally:
            stop_server(home=home)


def _deliver() -> None:
    """Send events and log records of this process: with its server gone, it would look for it for a minute."""
    # Imported here: Prefect must not see the settings of whoever runs the tests.
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (EventsWorker, APILogWorker):
        # Prefect drains at once only where no event loop runs.
        thread = threading.Thread(target=worker.drain_all)
        thread.start()
        thread.join()


@contextmanager
def _last_one_stops(home: Path) -> Iterator[None]:
    """Count the processes that use the server; the last to leave ends it."""
    _count(home, +1)
    try:
        yield
    finally:
        if _count(home, -1) == 0:
            stop_server(home=home)


def _count(home: Path, change: int) -> int:
    with open(home / "users", "a+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        users = int(file.read() or 0) + change
        file.seek(0)
        file.truncate()
        file.write(str(users))
        return users
