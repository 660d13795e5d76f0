"""Proxies and certificate authorities of the environment: what they carry, and what never goes through them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from certificates import self_signed, server_context
from pydantic import SecretStr
from wire_samples import ask, at_address, target

from tta_dev_primitives.blocks.providers.address_rules import base_of
from tta_dev_primitives.blocks.providers.client import ProviderClient
from tta_dev_primitives.blocks.providers.network import network_facts, proxy_of
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError

KEY = SecretStr("key-of-the-test-0123456789")
VARIABLES = (
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "HTTP_PROXY",
    "http_proxy",
)
REPLY = {"choices": [{"message": {"content": "5"}, "finish_reason": "stop"}]}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no authority of the machine that runs the tests."""
    for name in (*VARIABLES, "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("https://llm.corp.example/v1", {}, None),
        ("https://llm.corp.example/v1", {"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ("https://llm.corp.example/v1", {"https_proxy": "proxy:3128"}, "http://proxy:3128"),
        ("https://llm.corp.example/v1", {"ALL_PROXY": "http://proxy:1"}, "http://proxy:1"),
        ("https://llm.corp.example/v1", {"HTTP_PROXY": "http://proxy:1"}, None),
        (
            "https://llm.corp.example/v1",
            {"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "x,.corp.example"},
            None,
        ),
        ("https://llm.corp.example/v1", {"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "*"}, None),
        ("https://10.1.2.3/v1", {"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "10.0.0.0/8"}, None),
        ("https://localhost/v1", {"HTTPS_PROXY": "http://proxy:1"}, None),
        ("https://127.0.0.1:8443/v1", {"HTTPS_PROXY": "http://proxy:1"}, None),
        ("http://10.1.2.3/v1", {"HTTPS_PROXY": "http://proxy:1", "HTTP_PROXY": "http://proxy:1"}, None),
    ],
)
def test_which_calls_go_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, url: str, environment: dict[str, str], proxy: str | None
) -> None:
    """Https does, as the variables say; loopback and plain http never do."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(base_of(at_address(target("openai-compatible"), url))) == proxy


@pytest.mark.parametrize("proxy", ["socks5://proxy:1080", "http://", "ftp://proxy", "http://proxy:port"])
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """The message names the variable; `tta check` says the same."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ConfigError, match="HTTPS_PROXY"):
        network_facts()


def test_what_is_in_effect_is_told_without_passwords(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line for the proxy, one for the authorities."""
    assert network_facts() == ["no proxy", "bundled certificate authorities"]
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
    monkeypatch.setenv("NO_PROXY", "intern.example")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    told = "; ".join(network_facts())
    assert "proxy:3128 (HTTPS_PROXY), except to intern.example" in told
    assert f"SSL_CERT_DIR={tmp_path}" in told
    assert "secret" not in told


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_authorities_that_are_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    """A wrong path is no reason to trust other authorities."""
    monkeypatch.setenv(variable, str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match=f"{variable}: there is no"):
        network_facts()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection and wait until it is closed; the other side may have done so before."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def https_server(certificate: Path) -> AsyncIterator[int]:
    """An https server on loopback with one chat answer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps(REPLY).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )
        await writer.drain()
        await hang_up(writer)

    context = server_context(certificate)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def proxy_to(port: int, seen: list[bytes]) -> AsyncIterator[int]:
    """A proxy that tunnels every CONNECT to a port on loopback and keeps what it could read."""

    tunnels: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                seen.append(data)
                writer.write(data)
                await writer.drain()
        await hang_up(writer)

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tunnels.append(asyncio.current_task())  # type: ignore[arg-type]
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(
            pump(reader, upstream_writer), pump(upstream_reader, writer), return_exceptions=True
        )

    server = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*tunnels)


async def test_ones_own_authority_is_honoured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without it the certificate is refused before a byte of the request leaves."""
    cert = self_signed(tmp_path / "localhost.pem", "localhost")
    async with https_server(cert) as port:
        model = at_address(target("openai-compatible"), f"https://localhost:{port}/v1")
        async with ProviderClient() as client:
            with pytest.raises(ProviderError) as refused:
                await client.send(model, ask(), key=KEY)
        assert refused.value.error_class is ErrorClass.CONNECT
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        async with ProviderClient() as client:
            assert (await client.send(model, ask(), key=KEY)).text == "5"


async def test_a_proxy_carries_the_call_and_reads_no_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The proxy resolves the name and sees it; the key travels inside TLS."""
    cert = self_signed(tmp_path / "corp.pem", "llm.corp.example")
    seen: list[bytes] = []
    async with https_server(cert) as port, proxy_to(port, seen) as proxy_port:
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy_port}")
        model = at_address(target("openai-compatible"), "https://llm.corp.example/v1", private=False)
        async with ProviderClient() as client:
            assert (await client.send(model, ask(), key=KEY)).text == "5"
    assert seen[0].startswith(b"CONNECT llm.corp.example:443")
    assert KEY.get_secret_value().encode() not in b"".join(seen)
