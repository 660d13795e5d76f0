"""The check of a configured Prefect API goes the way of Prefect's own client: certificate, headers, proxy."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
from certificates import self_signed, server_context

from tta_dev_primitives.blocks.prefect_server.endpoint import configured_api, server_version
from tta_dev_primitives.blocks.prefect_server.server_settings import ServerHome, client_settings
from tta_dev_primitives.config.errors import PrefectConfigError, PrefectServerError

INSTALLED = version("prefect")


class Seen(BaseHTTPRequestHandler):
    """Answers with a version and notes each request; as a proxy it answers for whatever host is asked for."""

    requests: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        self.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        body = json.dumps(INSTALLED).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


Serve = Callable[..., tuple[str, list[tuple[str, dict[str, str]]]]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers: the address and the requests that come."""
    started: list[ThreadingHTTPServer] = []

    def start(certificate: Path | None = None) -> tuple[str, list[tuple[str, dict[str, str]]]]:
        seen: list[tuple[str, dict[str, str]]] = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Noting", (Seen,), {"requests": seen}))
        if certificate is not None:
            server.socket = server_context(certificate).wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        scheme = "http" if certificate is None else "https"
        return f"{scheme}://localhost:{server.server_address[1]}", seen

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of localhost that no authority has signed, with its key, in one file."""
    return self_signed(tmp_path / "localhost.pem", "localhost")


def asked(folder: Path, **settings: str) -> str | None:
    """The version that the configured server answers."""
    api = configured_api({"PREFECT_HOME": str(folder / "none"), **settings}, folder=folder)
    assert api is not None
    return server_version(api)


def test_a_certificate_of_ones_own_is_trusted_when_named(
    serve: Serve, certificate: Path, tmp_path: Path
) -> None:
    """PREFECT_API_SSL_CERT_FILE and PREFECT_API_TLS_INSECURE_SKIP_VERIFY, as Prefect's client takes them."""
    url, _ = serve(certificate)
    with pytest.raises(PrefectServerError, match=r"certificate verify failed|CERTIFICATE_VERIFY_FAILED"):
        asked(tmp_path, PREFECT_API_URL=f"{url}/api")
    assert (
        asked(tmp_path, PREFECT_API_URL=f"{url}/api", PREFECT_API_SSL_CERT_FILE=str(certificate)) == INSTALLED
    )
    assert (
        asked(tmp_path, PREFECT_API_URL=f"{url}/api", PREFECT_API_TLS_INSECURE_SKIP_VERIFY="true")
        == INSTALLED
    )


def test_a_certificate_file_that_is_none_is_named(serve: Serve, certificate: Path, tmp_path: Path) -> None:
    """The message has the variable and the path."""
    url, _ = serve(certificate)
    for content in (None, "no certificate"):
        file = tmp_path / "wrong.pem"
        if content is not None:
            file.write_text(content)
        with pytest.raises(PrefectConfigError, match=r"PREFECT_API_SSL_CERT_FILE: .*wrong\.pem"):
            asked(tmp_path, PREFECT_API_URL=f"{url}/api", PREFECT_API_SSL_CERT_FILE=str(file))


def test_custom_headers_are_sent_from_wherever_prefect_reads_them(serve: Serve, tmp_path: Path) -> None:
    """Environment, prefect.toml and profile; each setting comes from the first place that has it."""
    url, seen = serve()
    asked(tmp_path, PREFECT_API_URL=f"{url}/api", PREFECT_CLIENT_CUSTOM_HEADERS='{"X-Team": "blue"}')
    (tmp_path / "prefect.toml").write_text('[client]\ncustom_headers = {X-Team = "green"}\n')
    asked(tmp_path, PREFECT_API_URL=f"{url}/api")
    (tmp_path / "prefect.toml").unlink()
    home = tmp_path / "home"
    home.mkdir()
    (home / "profiles.toml").write_text(
        f'active = "p"\n[profiles.p]\nPREFECT_API_URL = "{url}/api"\n'
        'PREFECT_CLIENT_CUSTOM_HEADERS = \'{"X-Team": "red"}\'\n'
    )
    asked(tmp_path, PREFECT_HOME=str(home))
    assert [headers["x-team"] for _, headers in seen] == ["blue", "green", "red"]


def test_headers_that_are_no_object_of_text_are_refused_and_not_shown(tmp_path: Path) -> None:
    """They may hold a secret."""
    for text in ("secret", '["secret"]', '{"X": {"secret": 1}}'):
        with pytest.raises(
            PrefectConfigError, match="PREFECT_CLIENT_CUSTOM_HEADERS is no JSON object"
        ) as caught:
            asked(tmp_path, PREFECT_API_URL="http://localhost:1/api", PREFECT_CLIENT_CUSTOM_HEADERS=text)
        assert "secret" not in str(caught.value)


def test_headers_are_not_in_the_repr(tmp_path: Path) -> None:
    """A log of the API shows no header."""
    settings = {"PREFECT_API_URL": "http://h/api", "PREFECT_CLIENT_CUSTOM_HEADERS": '{"X": "secret-7"}'}
    assert "secret-7" not in repr(configured_api(settings, folder=tmp_path))


def test_a_proxy_of_the_environment_is_used_unless_the_host_is_excluded(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY and NO_PROXY, with the proxy's own password."""
    url, direct = serve()
    proxy, seen = serve()
    for name in ("http_proxy", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", proxy.replace("http://", "http://user:pa%20ss@"))
    assert asked(tmp_path, PREFECT_API_URL="http://prefect.example/api") == INSTALLED
    assert [path for path, _ in seen] == ["http://prefect.example/api/admin/version"]
    assert seen[0][1]["proxy-authorization"] == "Basic dXNlcjpwYSBzcw=="
    monkeypatch.setenv("NO_PROXY", "localhost")
    assert asked(tmp_path, PREFECT_API_URL=f"{url}/api") == INSTALLED
    assert (len(seen), len(direct)) == (1, 1)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "socks_proxy"])
def test_the_embedded_server_is_reached_past_a_proxy(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's client would send requests and events for a server on this machine to the proxy."""
    for name in (
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "no_proxy",
        "NO_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    home = ServerHome(tmp_path)
    assert "NO_PROXY" not in client_settings("http://127.0.0.1:4242/api", home=home)
    monkeypatch.setenv(variable, "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "intern.example")
    settings = client_settings("http://127.0.0.1:4242/api", home=home)
    assert settings["NO_PROXY"] == settings["no_proxy"] == "intern.example,127.0.0.1"


def test_a_console_level_that_is_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line says an error itself: Prefect's console, which it turns off, does not repeat it."""
    level = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"
    for before, after in ((None, "WARNING"), ("CRITICAL", "CRITICAL"), ("INFO", "INFO")):
        monkeypatch.delenv(level, raising=False)
        if before is not None:
            monkeypatch.setenv(level, before)
        assert client_settings("http://127.0.0.1:4242/api", home=ServerHome(tmp_path))[level] == after
