"""The embedded Prefect server: real processes, real sockets, real SQLite files."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fixtures_prefect import temporary_environment

from tta_dev_primitives.blocks.prefect_server.doctor import check_server
from tta_dev_primitives.blocks.prefect_server.endpoint import ConfiguredApi
from tta_dev_primitives.blocks.prefect_server.manager import (
    ServerInfo,
    ensure_server,
    server_environment,
    server_status,
    start_server,
    stop_server,
    wait_until_ready,
)
from tta_dev_primitives.blocks.prefect_server.probe import get_json
from tta_dev_primitives.blocks.prefect_server.server_settings import ServerHome
from tta_dev_primitives.config.errors import PrefectConfigError, PrefectServerError

pytestmark = [pytest.mark.server, pytest.mark.prefect]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own; its server ends with the test, and with the test process whatever happens."""
    for name in ("PREFECT_API_URL", "TTA_SERVER_URL", "TTA_SERVER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TTA_SERVER_PORT", "0")
    monkeypatch.setenv("TTA_SERVER_FOR_PID", str(os.getpid()))
    yield tmp_path / "home"
    stop_server(home=tmp_path / "home")


def eventually(happened: Callable[[], bool], within_s: float = 110.0) -> bool:
    """Ask until it has happened or the time is up."""
    deadline, pause = time.monotonic() + within_s, threading.Event()
    while not happened():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.05)
    return True


def post(info: ServerInfo, path: str, body: object, **headers: str) -> tuple[int, object]:
    """POST JSON to the API with its password; status and decoded answer, refusals included."""
    data = json.dumps(body).encode()
    password = base64.b64encode(server_environment(info)["PREFECT_API_AUTH_STRING"].encode()).decode()
    given = {"content-type": "application/json", "authorization": f"Basic {password}", **headers}
    request = urllib.request.Request(info.url + path, data, given)
    try:
        with urllib.request.urlopen(request, timeout=110) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)


def status_of(info: ServerInfo, path: str, **headers: str) -> int:
    """Status of a GET to the server."""
    request = urllib.request.Request(info.ui_url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=110) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code


def test_a_running_server_is_used_by_the_next_command(prefect_server: ServerInfo) -> None:
    """Whoever asks again gets the same process at the same address, at once."""
    again = ensure_server()

    assert (again.url, again.pid) == (prefect_server.url, prefect_server.pid)
    assert not again.started
    assert again.ready
    assert again.embedded


def test_another_process_of_the_same_environment_uses_it_too(prefect_server: ServerInfo) -> None:
    """The variables that a run passes on name our server; a child does not take it for the user's own."""
    code = "from tta_dev_primitives.blocks.prefect_server.manager import *; print(ensure_server().pid)"

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert int(told.stdout) == prefect_server.pid


def test_its_status_says_where_it_is_and_when_it_ends(prefect_server: ServerInfo) -> None:
    """`tta server status` knows address, process, version and idle time."""
    status = server_status()

    assert status.running
    assert (status.ui_url, status.pid) == (prefect_server.ui_url, prefect_server.pid)
    assert status.version is not None
    assert status.idle_s is not None
    assert status.idle_s >= 0
    assert status.stops_after_s == 1800


def test_its_files_are_the_users_alone(prefect_server: ServerInfo) -> None:
    """Key, database (with its side files), state and logs are readable by their owner only."""
    assert prefect_server.home is not None
    # Results that Prefect itself writes keep its own modes; the folders that they lie in are the user's alone.
    for folder in (prefect_server.home.prefect_home, prefect_server.home.root / "results"):
        assert not folder.exists() or stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0
    written = {"ui", "storage", "results", ".sdk_telemetry"}
    inside = [p for p in prefect_server.home.root.rglob("*") if not written & set(p.parts)]

    others = [p.name for p in inside if p.name != "users" and stat.S_IMODE(p.stat().st_mode) & 0o077]

    assert prefect_server.home.key_file in inside
    assert prefect_server.home.database in inside
    assert others == []


def test_the_doctor_finds_nothing_wrong_with_it(prefect_server: ServerInfo) -> None:
    """What we start passes our own check; another test may have deployed flows for which no worker is online."""
    found = [finding for finding in check_server() if "no worker of the pool" not in finding.message]
    assert [finding.level for finding in found] == ["ok"]


def test_saved_secrets_are_not_in_the_database_file(prefect_server: ServerInfo) -> None:
    """Blocks are encrypted with a key that lies elsewhere than the database."""
    from prefect.blocks.system import Secret

    assert prefect_server.home is not None
    Secret(value="canary-5b1f7c").save("canary", overwrite=True, _sync=True)

    on_disk = b"".join(p.read_bytes() for p in prefect_server.home.folder.glob("prefect.db*"))

    assert b"canary" in on_disk
    assert b"canary-5b1f7c" not in on_disk
    assert b"ENCRYPTION_KEY" not in on_disk


def test_its_pages_are_served(prefect_server: ServerInfo) -> None:
    """The Prefect UI answers at the address that results print."""
    assert status_of(prefect_server, "/", accept="text/html") == 200


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}],
    ids=["rebound name", "other site", "sandboxed frame"],
)
def test_a_web_page_from_elsewhere_is_refused(prefect_server: ServerInfo, headers: dict[str, str]) -> None:
    """No site that the user visits may use the API through the user's browser."""
    status, _ = post(prefect_server, "/block_documents/filter", {"include_secrets": True}, **headers)

    assert status == 403


def test_its_own_pages_are_not_refused(prefect_server: ServerInfo) -> None:
    """The UI calls the API with its own origin."""
    status, _ = post(prefect_server, "/flows/filter", {}, origin=prefect_server.ui_url)

    assert status == 200


async def test_a_websocket_from_elsewhere_is_refused(prefect_server: ServerInfo) -> None:
    """Browsers let any page open websockets, so the event stream asks for the origin as well."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus

    address = prefect_server.url.replace("http", "ws") + "/events/in"
    with pytest.raises(InvalidStatus, match="403"):
        await connect(address, origin="https://evil.example")  # type: ignore[arg-type]


def test_commands_at_once_start_one_server_and_a_killed_or_older_one_is_replaced(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Four commands share one start; after kill -9 the next finds no trace that misleads it; an upgrade starts anew."""
    with ThreadPoolExecutor(4) as pool:
        infos = list(pool.map(lambda _: start_server(home=home, wait=False), range(4)))
    first = wait_until_ready(infos[0])
    assert {info.pid for info in infos} == {first.pid}
    assert sum(info.started for info in infos) == 1
    post(first, "/flows/", {"name": "kept"})
    assert first.pid is not None

    os.kill(first.pid, signal.SIGKILL)
    with open(ServerHome.find(home).lock_file) as looking:
        assert eventually(lambda: not server_status(home=home).running)
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not server_status(home=home).running, "a process that looks at the lock is no server"
        assert not stop_server(home=home).running, "the process of a stale state file may be any other by now"
    second = start_server(home=home)

    assert second.started
    assert second.pid != first.pid
    friend = ConfiguredApi(second.url, "test", server_environment(second)["PREFECT_API_AUTH_STRING"])
    assert friend.get("/flows/name/kept")[1]["name"] == "kept"

    state = ServerHome.find(home).state_file
    state.write_text(json.dumps({**json.loads(state.read_text()), "tta": "0.0.1"}))
    assert start_server(home=home).pid == second.pid, "somebody used it a moment ago"
    monkeypatch.setattr("tta_dev_primitives.blocks.prefect_server.manager._UNUSED_S", -1.0)
    with caplog.at_level("INFO", "tta_dev_primitives.server"):
        third = start_server(home=home, wait=False)

    assert (third.started, third.pid == second.pid) == (True, False)
    said = [record.getMessage() for record in caplog.records if record.name == "tta_dev_primitives.server"]
    assert said == ["Starting a Prefect server on this machine …"]
    assert stop_server(home=home).pid == third.pid
    assert not server_status(home=home).running
    assert not stop_server(home=home).running


def test_it_ends_when_idle_but_not_under_a_running_flow(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle time counts requests; a flow run that is running keeps it up."""
    monkeypatch.setenv("TTA_SERVER_IDLE_S", "0.5")
    info = start_server(home=home)
    _, flow = post(info, "/flows/", {"name": "long"})
    body = {"flow_id": flow["id"], "state": {"type": "RUNNING"}}  # type: ignore[index]
    _, run = post(info, "/flow_runs/", body)

    assert eventually(lambda: (server_status(home=home).idle_s or 0) > 1.5)
    assert server_status(home=home).running

    done = {"state": {"type": "COMPLETED"}, "force": True}
    post(info, f"/flow_runs/{run['id']}/set_state", done)  # type: ignore[index]
    assert eventually(lambda: not server_status(home=home).running)


def test_it_ends_with_the_process_it_was_started_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server for one session does not outlive it."""
    owner = subprocess.Popen(["sleep", "600"])
    monkeypatch.setenv("TTA_SERVER_FOR_PID", str(owner.pid))
    try:
        info = start_server(home=home)
        secret = server_environment(info)["PREFECT_API_AUTH_STRING"]
        friend = ConfiguredApi(url=info.url, source="test", auth=secret)

        assert get_json(f"{info.url}/admin/version", timeout_s=10)[0] == 401
        assert friend.get("/admin/version")[0] == 200
        assert secret not in repr(friend)
    finally:
        owner.kill()
        owner.wait()
    assert eventually(lambda: not server_status(home=home).running)


def test_a_start_that_fails_says_why(home: Path) -> None:
    """The error shows what the server logged, and the next start is not blocked by it."""
    (home / "server").mkdir(parents=True)
    (home / "server" / "prefect.db").write_bytes(b"this is no database" * 100)

    with pytest.raises(PrefectServerError, match=r"ended while it started.*not a database.*server\.log"):
        start_server(home=home)

    assert not server_status(home=home).running


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """One line: which folder, why, and what to set."""
    (tmp_path / "file").write_text("")

    with pytest.raises(PrefectServerError, match=r"file/home.*Not a directory.*Set TTA_HOME"):
        start_server(home=tmp_path / "file" / "home")


def test_other_machines_are_let_in_only_with_a_password(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an outer address it asks as on loopback."""
    monkeypatch.setenv("TTA_SERVER_HOST", "0.0.0.0")

    info = start_server(home=home)

    assert get_json(f"{info.url}/admin/version", timeout_s=10)[0] == 401


def test_a_taken_port_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that the user asked for is not silently exchanged."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("TTA_SERVER_PORT", str(taken.getsockname()[1]))

        with pytest.raises(PrefectServerError, match=r"Address already in use.*TTA_SERVER_PORT"):
            start_server(home=home)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TTA_SERVER_PORT", "many"),
        ("TTA_SERVER_PORT", "80000"),
        ("TTA_SERVER_PORT", "-1"),
        ("TTA_SERVER_PORT", "4\N{SUPERSCRIPT TWO}"),
        ("TTA_SERVER_IDLE_S", "30m"),
        ("TTA_SERVER_IDLE_S", "nan"),
    ],
)
def test_a_variable_of_the_server_that_is_no_number_is_named(
    variable: str, value: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a process is started: it would end over it, or hold the port without an answer."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(PrefectConfigError, match=f"{variable} is '{value}'; write"):
        start_server(home=home)
    assert not server_status(home=home).running


def test_without_a_wish_a_free_port_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last port is tried first; when another program has it now, the next free one serves."""
    monkeypatch.delenv("TTA_SERVER_PORT")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (home / "server").mkdir(parents=True)
        (home / "server" / "state.json").write_text(json.dumps({"host": "127.0.0.1", "port": port, "pid": 1}))

        info = start_server(home=home, wait=False)

    assert info.url.startswith("http://127.0.0.1:")
    assert f":{port}/" not in info.url


async def test_a_process_that_has_imported_prefect_can_change_its_server(prefect_server: ServerInfo) -> None:
    """Settings are read again on the spot and restored at the end."""
    from prefect.settings import PREFECT_API_URL

    with temporary_environment({"PREFECT_API_URL": "http://127.0.0.1:9/api"}):
        assert PREFECT_API_URL.value() == "http://127.0.0.1:9/api"
    assert PREFECT_API_URL.value() == prefect_server.url
