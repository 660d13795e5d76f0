"""Which Prefect API the user configured, and what is said when it cannot be used."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest

from tta_dev_primitives.blocks.prefect_server.doctor import check_server, own_addresses
from tta_dev_primitives.blocks.prefect_server.endpoint import ConfiguredApi, configured_api, server_version
from tta_dev_primitives.blocks.prefect_server.manager import ensure_server, server_environment, server_status
from tta_dev_primitives.blocks.prefect_server.server_settings import is_loopback
from tta_dev_primitives.config.errors import PrefectConfigError, PrefectServerError

INSTALLED = version("prefect")

Answer = Callable[[str, str | None], tuple[int, object]]


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts an HTTP server that answers (path, Authorization) by a function; gives its API address."""
    started: list[ThreadingHTTPServer] = []

    def start(answer: Answer, host: str = "127.0.0.1") -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answer(self.path, self.headers.get("Authorization"))
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                """Tests are quiet."""

        server = ThreadingHTTPServer((host, 0), Handler)
        started.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        return f"http://127.0.0.1:{server.server_port}/api"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and home, no Prefect variable set."""
    for name in ("PREFECT_API_URL", "TTA_SERVER_URL", "TTA_SERVER_HOME", "PREFECT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("TTA_HOME", str(tmp_path / "tta"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_everywhere(folder: Path) -> dict[str, str]:
    """An address in each place that Prefect reads, in Prefect's order; the environment is returned."""
    (folder / ".env").write_text("export PREFECT_API_URL='http://dotenv/api'\nGROQ_API_KEY=x\n")
    (folder / "prefect.toml").write_text('[api]\nurl = "http://prefect-toml/api"\nauth_string = "a:b"\n')
    (folder / "pyproject.toml").write_text('[tool.prefect.api]\nurl = "http://pyproject/api"\n')
    profiles = 'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://profile/api"\n'
    other = '[profiles.other]\nPREFECT_API_URL = "http://other/api"\nPREFECT_API_KEY = "k"\n'
    (folder / "profiles.toml").write_text(profiles + other)
    return {"PREFECT_HOME": str(folder), "PREFECT_API_URL": "http://environment/api"}


def test_the_places_are_read_in_prefects_order(tmp_path: Path) -> None:
    """Environment, .env, prefect.toml, pyproject.toml, active profile; each names itself as the source."""
    env = write_everywhere(tmp_path)
    found = [configured_api(env, folder=tmp_path)]
    del env["PREFECT_API_URL"]
    for name in (".env", "prefect.toml", "pyproject.toml", "profiles.toml"):
        found.append(configured_api(env, folder=tmp_path))
        (tmp_path / name).unlink()

    assert [(api.url, api.source) for api in found if api is not None] == [
        ("http://environment/api", "the environment"),
        ("http://dotenv/api", ".env"),
        ("http://prefect-toml/api", "prefect.toml"),
        ("http://pyproject/api", "pyproject.toml"),
        ("http://profile/api", str(tmp_path / "profiles.toml")),
    ]
    assert configured_api(env, folder=tmp_path) is None


def test_a_chosen_profile_and_its_key_are_used(tmp_path: Path) -> None:
    """PREFECT_PROFILE chooses; the profile's key goes with its address and is never shown."""
    write_everywhere(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    api = configured_api({"PREFECT_HOME": str(tmp_path), "PREFECT_PROFILE": "other"}, folder=elsewhere)

    assert api is not None
    assert (api.url, api.key) == ("http://other/api", "k")
    assert "k'" not in repr(api)


def test_the_address_of_our_own_server_is_not_the_users(tmp_path: Path) -> None:
    """What `apply_environment` has set does not hide that nothing is configured."""
    own = "http://127.0.0.1:4242/api"
    env = {"PREFECT_API_URL": own, "TTA_SERVER_URL": own, "PREFECT_HOME": str(tmp_path)}

    assert configured_api(env, folder=tmp_path) is None


def test_settings_that_cannot_be_read_name_the_file(tmp_path: Path) -> None:
    """A broken profiles file is an error with its path, not an unexplained embedded server."""
    (tmp_path / "profiles.toml").write_text("active = ")

    with pytest.raises(PrefectServerError, match=r"profiles\.toml: Prefect settings cannot be read"):
        configured_api({"PREFECT_HOME": str(tmp_path)}, folder=tmp_path)


def test_a_configured_server_is_used_as_it_is(
    alone: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[Answer], str]
) -> None:
    """Its address is taken, nothing is started, and the user's own Prefect home and profile stay."""
    url = serve(lambda path, _: (200, "3.9.1") if path == "/api/admin/version" else (404, None))
    monkeypatch.setenv("PREFECT_API_URL", url)

    info = ensure_server()
    status = server_status()

    assert (info.url, info.pid, info.started, info.embedded) == (url, None, False, False)
    assert not {"PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE"} & server_environment(info).keys()
    assert (status.running, status.version, status.configured_in) == (True, "3.9.1", "the environment")
    assert not (alone / "tta").exists()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, {"exception_message": "Unauthorized"}), r"refuses us \(401\); set PREFECT_API_AUTH_STRING"),
        ((200, "3.4.0"), r"runs Prefect 3\.4\.0; this package needs 3\.8 or newer"),
        ((200, "2.20.1"), r"runs Prefect 2\.20\.1"),
        ((404, {"detail": "Not Found"}), r"is not a Prefect API \(status 404\); the address ends in /api"),
        ((200, b"<html>"), "is not a Prefect API"),
        ((200, b"\xff\xfe"), "is not a Prefect API"),
    ],
)
def test_an_unfit_server_is_refused_with_the_mend(
    answer: tuple[int, object],
    message: str,
    alone: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[Answer], str],
) -> None:
    """Wrong password, old version, some other server: address, source, reason and what to do."""
    monkeypatch.setenv("PREFECT_API_URL", serve(lambda *_: answer))

    with pytest.raises(PrefectServerError, match=message) as caught:
        ensure_server()

    assert "PREFECT_API_URL in the environment" in str(caught.value)
    assert server_status().problem == str(caught.value)


def test_a_server_that_is_down_is_named(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configured server is never replaced behind the user's back."""
    monkeypatch.setenv("PREFECT_API_URL", "http://user:pass@127.0.0.1:9/api")

    with pytest.raises(
        PrefectServerError, match=r"http://127\.0\.0\.1:9/api .* does not answer.*refused"
    ) as caught:
        ensure_server()

    assert "pass" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["localhost:4200/api", "ftp://host/api", "http:///api", "http://h:99999/api", "http://[::1/api"]
)
def test_what_is_no_address_is_said(url: str) -> None:
    """The message shows what an address looks like."""
    with pytest.raises(PrefectConfigError, match="not an http"):
        server_version(ConfiguredApi(url=url, source="prefect.toml"))


def test_the_doctor_fails_on_what_others_can_read(alone: Path) -> None:
    """Each file of the embedded server with a lax mode is a failure with the command that fixes it."""
    keys, server = alone / "tta" / "keys", alone / "tta" / "server"
    for folder in (keys, server):
        folder.mkdir(parents=True, mode=0o700)
    (keys / "prefect-encryption.key").touch(0o644)
    server.chmod(0o755)

    found = check_server()

    assert [(f.level, f.fix) for f in found[1:]] == [
        ("fail", f"chmod 700 {server}"),
        ("fail", f"chmod 600 {keys / 'prefect-encryption.key'}"),
    ]


def test_the_doctor_fails_on_a_lost_or_misplaced_key(alone: Path) -> None:
    """Blocks without their key cannot be read; a key beside its blocks protects nothing."""
    import sqlite3

    database = alone / "tta" / "server" / "prefect.db"
    database.parent.mkdir(parents=True, mode=0o700)
    connection = sqlite3.connect(database)
    connection.executescript(
        "CREATE TABLE configuration (key TEXT, value TEXT); INSERT INTO configuration VALUES ('ENCRYPTION_KEY', '')"
    )
    connection.close()
    database.chmod(0o600)

    messages = [f.message for f in check_server() if f.level == "fail"]

    assert len(messages) == 2
    assert "holds the encryption key of its own blocks" in messages[0]
    assert "prefect-encryption.key is missing" in messages[1]


def test_the_doctor_looks_into_a_configured_server(
    alone: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[Answer], str]
) -> None:
    """An older server is a warning; its database that others can read is a failure."""
    monkeypatch.setenv("PREFECT_API_URL", serve(lambda *_: (200, "3.8.0")))
    (alone / "prefect").mkdir()
    database = alone / "prefect" / "prefect.db"
    database.touch(0o644)

    found = check_server()

    assert [f.level for f in found] == ["ok", "warn", "fail", "warn"]
    assert "older than" in found[1].message
    assert found[2].fix == f"chmod 600 {database}"


def test_the_doctor_fails_on_a_server_that_is_open_to_the_network(
    alone: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[Answer], str]
) -> None:
    """Beyond this machine an API needs TLS and a password; the password is tried, not believed."""
    url = serve(lambda *_: (200, INSTALLED)).replace("127.0.0.1", "0.0.0.0")
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:secret")

    found = check_server()

    assert [f.level for f in found] == ["ok", "fail", "fail"]
    assert "plain http" in found[1].message
    assert "without a password" in found[2].message
    assert not [f for f in found if "secret-" in f.message or "admin:" in f.message]


def test_the_doctor_accepts_a_password(
    alone: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[Answer], str]
) -> None:
    """A server that refuses strangers and takes our password is found locked."""
    url = serve(lambda _, auth: (200, INSTALLED) if auth else (401, {})).replace("127.0.0.1", "0.0.0.0")
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:secret")

    assert [f.level for f in check_server()] == ["ok", "fail"]


@pytest.mark.parametrize(("bound_to", "password", "levels"), [
    ("127.0.0.1", False, ["ok"]),
    ("0.0.0.0", False, ["ok", "fail"]),
    ("0.0.0.0", True, ["ok"]),
])  # fmt: skip
def test_the_doctor_fails_on_a_local_server_that_others_reach_too(
    bound_to: str,
    password: bool,
    levels: list[str],
    alone: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[..., str],
) -> None:
    """`prefect server start --host 0.0.0.0` is used over loopback and answers everybody; a password locks it."""
    # Stands for an address of the network: a server that is bound to 127.0.0.1 does not answer there.
    monkeypatch.setattr(
        "tta_dev_primitives.blocks.prefect_server.doctor.own_addresses", lambda: ["127.0.0.2"]
    )
    url = serve(lambda _, auth: (200, INSTALLED) if auth or not password else (401, {}), bound_to)
    monkeypatch.setenv("PREFECT_API_URL", url)
    if password:
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:secret")

    found = check_server()

    assert [f.level for f in found] == levels
    if "fail" in levels:
        assert "also answers at 127.0.0.2:" in found[1].message
        assert "--host 127.0.0.1" in found[1].fix


def test_addresses_of_this_machine_are_those_that_others_reach() -> None:
    """Loopback is none of them; a machine without a network has none."""
    assert not [address for address in own_addresses() if is_loopback(address)]
