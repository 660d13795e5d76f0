"""Another user of this machine gets nothing from the embedded Prefect server, nor from its port."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import html
import http.server
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from sandbox_runs import KEY, KEY_VALUE, sandbox_config, workflow_of

from tta_dev_primitives.blocks.prefect_server.access import TOKEN_S, Tokens, make_token, open_page, proof_of
from tta_dev_primitives.blocks.prefect_server.manager import (
    ServerInfo,
    open_link,
    server_environment,
    server_status,
    start_server,
    stop_server,
)
from tta_dev_primitives.blocks.prefect_server.probe import get_json
from tta_dev_primitives.blocks.prefect_server.server_settings import ServerHome
from tta_dev_primitives.config.errors import ConfigError, UntrustedConfigError
from tta_dev_primitives.config.reading.trusted_files import foreign_file, trust_file
from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.flows.calling.given_config import load_given_config
from tta_dev_primitives.flows.prefect_support.result_storage import RESULTS

NO_SUCH_ID = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own, whose server ends with the test."""
    for name in ("PREFECT_API_URL", "TTA_SERVER_URL", "TTA_SERVER_HOME", "PREFECT_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TTA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TTA_SERVER_PORT", "0")
    monkeypatch.setenv("TTA_SERVER_FOR_PID", str(os.getpid()))
    yield tmp_path / "home"
    stop_server(home=tmp_path / "home")


async def test_what_a_run_keeps_is_the_users_only(
    prefect_server: ServerInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders 0700 and files 0600 under a lax umask: results, list of trusted files, ledger, and the home itself."""
    home, kept = tmp_path / "a" / "home", set(RESULTS.glob("*"))
    monkeypatch.setenv("TTA_HOME", str(home))
    monkeypatch.setenv(KEY, KEY_VALUE)
    before = os.umask(0o002)
    try:
        with Sandbox() as sandbox:
            ledger = {"ledger_url": f"sqlite:///{home / 'own/ledger.db'}"}
            settings = sandbox_config(sandbox, tmp_path, cost_tracking=ledger)
            await workflow_of(settings, tmp_path).execute(f"What is {uuid4()}?", use_case="simple")
        trust_file(tmp_path / ".env", "digest")
    finally:
        os.umask(before)
    results = set(RESULTS.glob("*")) - kept
    assert results
    modes = {p: p.stat().st_mode for p in (home.parent, *home.parent.rglob("*"), RESULTS, *results)}
    assert {"trusted.json", "ledger.db", "own", "home"} <= {path.name for path in modes}
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="makes files of other users, which only root can")
@pytest.mark.parametrize(
    ("owner", "user", "refused"), [(1234, 65534, True), (0, 65534, False), (1234, 0, False)]
)
def test_the_keys_of_another_user_are_not_used(tmp_path: Path, owner: int, user: int, refused: bool) -> None:
    """In a folder for all, such as /tmp, anybody may leave a `.env`; with its key he would read the texts."""
    (tmp_path / ".env").write_text("GROQ_API_KEY=gsk_of_somebody_else\n")
    tmp_path.chmod(0o755)
    (tmp_path / ".env").chmod(0o644)
    os.chown(tmp_path / ".env", owner, owner)
    script = (
        "import grp, os, pwd\nfrom tta_dev_primitives.config.reading.dotenv import read_dotenv\n"
        "b'x'.decode('utf-8-sig')  # the interpreter's own files may be root's\n"
        f"os.chdir({str(tmp_path)!r}); os.setgid({user}); os.setuid({user})\n"
        "try: print(list(read_dotenv()))\nexcept ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ("belongs to another user" in done.stdout) == refused, done.stdout
    assert ("GROQ_API_KEY" in done.stdout) != refused


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/deployments/filter", {}),
        ("/flow_runs/filter", {}),
        ("/block_documents/filter", {"include_secrets": True}),
        (f"/deployments/{NO_SUCH_ID}/create_flow_run", {"parameters": {"config_path": "/tmp/evil.yaml"}}),
        (f"/flow_runs/{NO_SUCH_ID}/resume", {"run_input": {"decision": "approve", "amount_usd": 1000}}),
    ],
)
def test_the_api_asks_everybody_for_the_password(prefect_server: ServerInfo, path: str, body: object) -> None:
    """No option turns it on; a wrong password and the name alone open nothing."""
    for password in (None, "tta:", "tta:wrong", ":"):
        headers = {"content-type": "application/json"}
        if password is not None:
            headers["authorization"] = "Basic " + base64.b64encode(password.encode()).decode()
        request = urllib.request.Request(prefect_server.url + path, json.dumps(body).encode(), headers)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=110)
        assert refused.value.code == 401
        refused.value.close()


async def test_the_event_stream_asks_too(prefect_server: ServerInfo) -> None:
    """A websocket without the password is closed before an event is sent."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed
    from websockets.typing import Subprotocol

    address = prefect_server.url.replace("http", "ws") + "/events/out"
    async with connect(address, subprotocols=[Subprotocol("prefect")]) as stream:
        await stream.send(json.dumps({"type": "auth", "token": "wrong"}))
        heard: list[str] = []
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(_listen(stream, heard), 110)
        assert set(heard) <= {"auth_failure"}


async def _listen(stream: AsyncIterable[Any], heard: list[str]) -> None:
    async for message in stream:
        heard.append(str(json.loads(message)["type"]))


def test_the_secret_is_private_and_new_at_each_start(home: Path) -> None:
    """What a squatter of the next hour is sent opens nothing."""
    first = start_server(home=home)
    secret = server_environment(first)["PREFECT_API_AUTH_STRING"]
    assert stat.S_IMODE(ServerHome(home).auth_file.stat().st_mode) == 0o600
    stop_server(home=home)
    second = start_server(home=home)
    assert server_environment(second)["PREFECT_API_AUTH_STRING"] != secret


def test_a_server_that_cannot_prove_itself_is_not_used(home: Path) -> None:
    """It holds the port and answers like Prefect, but does not know the secret: it is sent nothing."""
    info = start_server(home=home)
    nonce = "0123"
    told = get_json(f"{info.ui_url}/tta/status?nonce={nonce}", timeout_s=110)[1]
    secret = server_environment(info)["PREFECT_API_AUTH_STRING"]
    assert told["proof"] == proof_of(secret, nonce)
    assert secret not in json.dumps(told)
    stop_server(home=home)
    place = ServerHome(home)
    with _squatter() as (port, seen), open(place.lock_file) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place.state_file.write_text(json.dumps({"pid": 1, "host": "127.0.0.1", "port": port}))
        status = server_status(home=home)
        assert status.problem == "what answers on its port does not know its secret"
        assert [line for line in seen if "Basic" in line] == []


class _squatter:
    """Impersonates a Prefect API on a port; keeps what it is sent."""

    def __init__(self, port: int = 0) -> None:
        seen: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(f"{self.command} {self.path} {self.headers.get('authorization')}")
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"{}")

            do_POST = do_PATCH = do_GET

            def log_message(self, *_: object) -> None:
                return

        self.seen = seen
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self) -> tuple[int, list[str]]:
        return self.server.server_port, self.seen

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


_LONG_PROCESS = """
import asyncio, os, signal, socket, sys, threading, time
from tta_dev_primitives.flows.prefect_support.api_connection import use_server
from prefect import flow
from prefect.client.orchestration import get_client

@flow
async def work(text: str) -> str:
    return text

async def main() -> None:
    info = use_server()
    assert await work("SECRET-TEXT-1") == "SECRET-TEXT-1"
    os.kill(info.pid, signal.SIGKILL)
    port = int(info.url.rsplit(":", 1)[1].split("/")[0])
    squatter = socket.socket()
    squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    while True:
        try:
            squatter.bind(("127.0.0.1", port))
            break
        except OSError:
            time.sleep(0.05)
    squatter.listen()
    got = []
    def serve():
        while True:
            connection, _ = squatter.accept()
            got.append(connection.recv(4096))
            connection.close()
    threading.Thread(target=serve, daemon=True).start()
    try:
        async with get_client() as client:
            await client.read_flows()
        print("reached")
    except ExceptionGroup as error:
        print(type(error.exceptions[0]).__name__)
    again = use_server()
    assert await work("SECRET-TEXT-2") == "SECRET-TEXT-2"
    await asyncio.sleep(0)
    print(again.url != info.url, got)

asyncio.run(main())
"""


def test_nothing_is_sent_to_a_port_whose_owner_changed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is killed and another program takes the port: Prefect's client, events and the next run avoid it."""
    monkeypatch.delenv("TTA_SERVER_PORT")
    done = subprocess.run(
        [sys.executable, "-c", _LONG_PROCESS], capture_output=True, text=True, check=False, timeout=110
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["PrefectServerError", "True []"]


def test_a_token_opens_once_in_time_and_for_its_server() -> None:
    """Used, old, foreign, cut and invented ones open nothing."""
    tokens, now = Tokens("secret"), 1_000_000.0
    token = make_token("secret", now)
    assert [tokens.take(token, now + 1), tokens.take(token, now + 2)] == [True, False]
    old = make_token("secret", now)
    assert not tokens.take(old, now + TOKEN_S + 1)
    for wrong in (make_token("other", now), old[:-4], "", "x" * 36, "ä", "../../runs", old + "AAAA"):
        assert not tokens.take(wrong, now)
    assert tokens.take(old, now)


@pytest.mark.parametrize("path", ["//evil.example/", "https://evil.example/", "/\\evil.example", ""])
def test_a_link_leads_to_a_page_of_the_server_only(path: str) -> None:
    """The page after the sign-in is always one of this origin."""
    assert b'location.replace("/")' in open_page("secret", path)


def test_a_link_cannot_bring_a_script() -> None:
    """What stands in the path is text in the page."""
    page = open_page("secret", "/runs</script><script>alert(1)</script>").decode()
    assert page.count("<script>") == 1


def test_the_link_is_spent_by_its_first_use(prefect_server: ServerInfo) -> None:
    """The first answer signs in and may not be kept by a cache; the second says how to get a new link."""
    link = open_link(prefect_server)
    with urllib.request.urlopen(link, timeout=110) as answer:
        assert answer.headers["cache-control"] == "no-store"
        assert b"prefect-password" in answer.read()
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(link, timeout=110)
    assert b"tta server open" in refused.value.read()
    refused.value.close()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_real_browser_opens_the_ui_by_the_link_and_not_without_it(
    prefect_server: ServerInfo, tmp_path: Path
) -> None:
    """The printed link shows the runs; the plain address asks for a password."""

    def text(url: str, profile: str) -> str:
        command = [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / profile}",
        ]
        done = subprocess.run(
            [*command, "--virtual-time-budget=20000", "--dump-dom", url], capture_output=True, text=True, timeout=110,
            check=True,
        )  # fmt: skip
        return html.unescape(re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", done.stdout, flags=re.DOTALL))

    # The page lists flows by their names, ten at a time, and other tests have made some.
    _named_flow(prefect_server, "00-seen-by-friends")
    assert "seen-by-friends" not in text(f"{prefect_server.ui_url}/flows", "stranger")
    assert "seen-by-friends" in text(open_link(prefect_server, "/flows"), "friend")


def _named_flow(info: ServerInfo, name: str) -> None:
    password = base64.b64encode(server_environment(info)["PREFECT_API_AUTH_STRING"].encode()).decode()
    headers = {"content-type": "application/json", "authorization": f"Basic {password}"}
    request = urllib.request.Request(f"{info.url}/flows/", json.dumps({"name": name}).encode(), headers)
    with urllib.request.urlopen(request, timeout=110) as answer:
        assert answer.status in (200, 201)


def test_a_file_that_others_may_change_is_foreign(tmp_path: Path) -> None:
    """The file, each folder above it, and where a link leads are looked at."""
    root = tmp_path / "root"
    own = root / "project" / "c.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("orchestration: {}\n")
    own.chmod(0o600)
    assert foreign_file(own, [root]) is None
    assert "does not lie below" in str(foreign_file(own, [tmp_path / "other"]))
    assert "does not lie below" in str(foreign_file(own, [Path("/")]))
    own.chmod(0o666)
    assert "c.yaml may be changed by other users" in str(foreign_file(own, [root]))
    own.chmod(0o600)
    own.parent.chmod(0o777)
    assert "project may be changed by other users" in str(foreign_file(own, [root]))
    own.parent.chmod(0o755)
    outside = tmp_path / "outside.yaml"
    outside.write_text("orchestration: {}\n")
    (root / "link.yaml").symlink_to(outside)
    assert "does not lie below" in str(foreign_file(root / "link.yaml", [root]))
    assert "does not lie below" in str(foreign_file(root / ".." / "outside.yaml", [root]))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a file of another user")
def test_a_file_of_another_user_is_foreign(tmp_path: Path) -> None:
    """The reproduction: a configuration of the attacker's own."""
    evil = tmp_path / "evil.yaml"
    evil.write_text("orchestration: {}\n")
    os.chown(evil, 65534, 65534)
    assert "evil.yaml belongs to another user" in str(foreign_file(evil, [tmp_path]))


def test_a_run_from_the_api_names_no_foreign_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a deployment the path is checked; a call from Python is the user's own."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    evil = tmp_path / "evil.yaml"
    evil.write_text("orchestration: {}\n")
    evil.chmod(0o600)
    run = FlowRun(flow_id=uuid4(), deployment_id=uuid4())
    with FlowRunContext.model_construct(flow_run=run):
        with pytest.raises(
            UntrustedConfigError, match=r"evil\.yaml of a run from the Prefect API is refused"
        ):
            load_given_config(str(evil))
        monkeypatch.setenv("TTA_CONFIG_FOLDERS", str(tmp_path))
        assert load_given_config(str(evil)).source == evil
        with pytest.raises(
            ConfigError, match=r"none\.yaml.*To fix: give `config_path` a file of the machine"
        ):
            load_given_config(str(tmp_path / "none.yaml"))
    monkeypatch.delenv("TTA_CONFIG_FOLDERS")
    assert load_given_config(str(evil)).source == evil
