"""The provider client against real sockets that misbehave: right class, right ledger action, in time, no key shown."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr
from rude_server import (
    Behaviour,
    answers,
    breaks_after,
    closed_port,
    read_request,
    reset,
    response,
    rude_server,
)
from wire_samples import ask, at_address, target

from tta_dev_primitives.blocks.providers.client import MAX_BODY, ProviderClient
from tta_dev_primitives.blocks.providers.transport import HostRefused, guarded_session, host_refusal
from tta_dev_primitives.blocks.wire.types import ChatReply
from tta_dev_primitives.config.errors import ConfigError, MissingKeyError
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction, ProviderError

KEY = SecretStr("sk-ant-canary-0123456789-abcdefghijkl")
GOOD = json.dumps(
    {
        "type": "message",
        "id": "msg_1",
        "model": "the-model-1",
        "content": [{"type": "text", "text": "42"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 12, "output_tokens": 1},
    }
).encode()
REL, PRE = LedgerAction.RELEASE, LedgerAction.CHARGE_AT_BOUND


@pytest.fixture
async def client() -> AsyncIterator[ProviderClient]:
    async with ProviderClient() as open_client:
        yield open_client


def model(url: str, **more: Any) -> Target:
    return at_address(target("anthropic"), url, **more)


async def failure(client: ProviderClient, url: str, *, deadline_s: float = 5.0) -> ProviderError:
    """The error of one attempt, with no trace of the key in it."""
    # Servers here never answer: should the deadline not hold, the test's own timeout ends it.
    with pytest.raises(ProviderError) as caught:
        await client.send(model(url), ask(), key=KEY, deadline_s=deadline_s)
    error = caught.value
    assert KEY.get_secret_value() not in f"{error!r} {error} {vars(error)}"
    # An httpx error underneath would hold the request with its headers.
    assert error.__cause__ is None
    assert error.__context__ is None or not hasattr(error.__context__, "request")
    assert len(str(error)) <= 500
    return error


async def failure_of(client: ProviderClient, behave: Behaviour, *, deadline_s: float = 5.0) -> ProviderError:
    async with rude_server(behave) as server:
        return await failure(client, server.url, deadline_s=deadline_s)


# --- what goes well ---


async def test_a_call_is_one_post_with_the_key_in_one_header(client: ProviderClient) -> None:
    """No key in path or body, no compression asked for, the provider's version header sent."""
    async with rude_server(answers(response(GOOD))) as server:
        reply = await client.send(model(server.url), ask(), key=KEY)
    raw = b"".join(server.requests)
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert (reply.text, reply.usage.input_tokens) == ("42", 12)
    assert lines[0] == b"POST /v1/messages HTTP/1.1"
    assert raw.count(KEY.get_secret_value().encode()) == 1
    assert b"x-api-key: " + KEY.get_secret_value().encode() in lines
    assert b"accept-encoding: identity" in lines
    assert b"anthropic-version: 2023-06-01" in lines
    assert json.loads(body)["model"] == "the-model"


async def test_connections_are_shared(client: ProviderClient) -> None:
    """Five calls one after the other need one connection."""
    async with rude_server(answers(response(GOOD))) as server:
        for _ in range(5):
            await client.send(model(server.url), ask(), key=KEY)
        assert server.connections == 1


async def test_a_hundred_calls_at_once_all_come_back(client: ProviderClient) -> None:
    """The pool has no quadratic corner at bulk concurrency."""
    async with rude_server(answers(response(GOOD))) as server:
        calls = [client.send(model(server.url), ask(str(n)), key=KEY) for n in range(100)]
        assert [r.text for r in await asyncio.gather(*calls)] == ["42"] * 100


async def test_a_prompt_of_two_megabytes_is_sent_whole(client: ProviderClient) -> None:
    """In pieces, with its length announced, without a warning."""
    async with rude_server(answers(response(GOOD))) as server:
        await client.send(model(server.url), ask("x" * 2_000_000), key=KEY)
        raw = b"".join(server.requests)
    assert len(raw) > 2_000_000
    assert b"transfer-encoding" not in raw[:2000].lower()


async def test_half_a_character_in_a_prompt_does_not_stop_a_call(client: ProviderClient) -> None:
    """A lone surrogate cannot be UTF-8; a question mark goes in its place."""
    async with rude_server(answers(response(GOOD))) as server:
        await client.send(model(server.url), ask("a\ud800b"), key=KEY)
    assert b'"a?b"' in b"".join(server.requests)


async def test_a_reply_compressed_against_our_wish_is_still_read(client: ProviderClient) -> None:
    """Some gateways compress whatever they are told."""
    squeezed = response(gzip.compress(GOOD), headers={"content-encoding": "gzip"})
    async with rude_server(answers(squeezed)) as server:
        assert (await client.send(model(server.url), ask(), key=KEY)).text == "42"


async def test_the_list_of_models_comes_with_lifecycles(client: ProviderClient) -> None:
    """What `tta check --live` asks."""
    listed = {
        "data": [
            {"id": "m-1", "lifecycle": "deprecated", "retires_at": "2026-11-30T00:00:00Z"},
            {"id": "m-2"},
        ]
    }
    async with rude_server(answers(response(json.dumps(listed).encode()))) as server:
        models = await client.list_models(model(server.url), key=KEY)
    assert b"".join(server.requests).startswith(b"GET /v1/models?limit=1000 HTTP/1.1")
    assert [(m.id, m.lifecycle, m.retires_at) for m in models] == [
        ("m-1", "deprecated", "2026-11-30T00:00:00Z"),
        ("m-2", "unknown", None),
    ]


async def test_a_refused_list_of_models_is_an_error_of_the_taxonomy(client: ProviderClient) -> None:
    """A wrong key shows here first."""
    async with rude_server(answers(response(b"{}", status="401 Unauthorized"))) as server:
        with pytest.raises(ProviderError) as caught:
            await client.list_models(model(server.url), key=KEY)
    assert caught.value.error_class is ErrorClass.AUTH


# --- what the rows 1 to 9 of the fault matrix (tests/faults) do not have ---


async def test_a_refused_connection_costs_nothing(client: ProviderClient) -> None:
    """Nobody listens: the hold is released."""
    error = await failure(client, f"http://127.0.0.1:{closed_port()}")
    assert (error.error_class, error.ledger_action, error.sent) == (ErrorClass.CONNECT, REL, False)
    assert re.search(
        r"no connection to 127\.0\.0\.1:\d+ \(Connection refused\)\. Nothing was sent$", str(error)
    )


async def test_a_server_without_tls_costs_nothing(client: ProviderClient) -> None:
    """The handshake fails: nothing of the request has left."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with rude_server(plain) as server:
        error = await failure(client, f"https://127.0.0.1:{server.port}")
    assert (error.error_class, error.ledger_action, error.sent) == (ErrorClass.CONNECT, REL, False)


async def _resets_at_once(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


_CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
BROKEN: dict[str, tuple[Behaviour, ErrorClass]] = {
    "reset at once": (_resets_at_once, ErrorClass.TRANSPORT),
    "closed without an answer": (breaks_after(b""), ErrorClass.TRANSPORT),
    "closed within the headers": (breaks_after(b"HTTP/1.1 200 OK\r\ncontent-"), ErrorClass.TRANSPORT),
    "closed within a chunk": (breaks_after(_CHUNKED + b"fff\r\n{"), ErrorClass.TRANSPORT),
    "not HTTP": (breaks_after(b"SSH-2.0-OpenSSH_9.6\r\n"), ErrorClass.TRANSPORT),
    "endless header": (breaks_after(b"HTTP/1.1 200 OK\r\nx: " + b"x" * 100_000), ErrorClass.TRANSPORT),
    "no content": (breaks_after(b"HTTP/1.1 204 No Content\r\n\r\n"), ErrorClass.MALFORMED),
    "false gzip": (
        breaks_after(response(b"\x1f\x8b" + b"\xff" * 80, headers={"content-encoding": "gzip"})),
        ErrorClass.MALFORMED,
    ),
    "error within a 200": (
        breaks_after(response(b'{"type":"error","error":{"type":"api_error","message":"x"}}')),
        ErrorClass.TRANSIENT,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_exchange_may_have_been_billed(client: ProviderClient, name: str) -> None:
    """The request left: the bound is charged, whatever came back."""
    behave, error_class = BROKEN[name]
    error = await failure_of(client, behave)
    assert (error.error_class, error.ledger_action, error.sent) == (error_class, PRE, True)


async def test_a_gzip_bomb_is_stopped_inside_the_decoder(client: ProviderClient) -> None:
    """200 MB of zeros arrive as 200 kB; the process never holds more than a few times the cap (fault 8)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    bomb = b"".join(packer.compress(bytes(1_000_000)) for _ in range(200)) + packer.flush()
    async with rude_server(breaks_after(response(bomb, headers={"content-encoding": "gzip"}))) as server:
        tracemalloc.start()
        try:
            error = await failure(client, server.url)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert (error.error_class, error.ledger_action) == (ErrorClass.MALFORMED, PRE)
    assert "larger than" in str(error)
    assert peak < 5 * MAX_BODY


# --- error replies ---


async def test_a_status_counts_although_its_body_breaks_off(client: ProviderClient) -> None:
    """429 says enough: nothing ran, nothing is charged, and the wait is known."""
    cut = response(b'{"error":', status="429 Too Many Requests", headers={"retry-after": "3"})
    error = await failure_of(client, breaks_after(cut.replace(b"content-length: 9", b"content-length: 999")))
    assert (error.error_class, error.ledger_action, error.retry_after_s) == (ErrorClass.RATE_LIMIT, REL, 3.0)


async def test_an_error_page_of_megabytes_is_not_read_whole(client: ProviderClient) -> None:
    """The status is judged, the rest is dropped."""
    page = response(b"<html>" + b"x" * 3_000_000, status="503 Service Unavailable")
    error = await failure_of(client, breaks_after(page))
    assert (error.error_class, error.ledger_action) == (ErrorClass.TRANSIENT, PRE)


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"]
)
async def test_a_redirect_is_never_followed(client: ProviderClient, status: str) -> None:
    """The key must not travel to wherever a server points (fault 9)."""
    async with rude_server(answers(response(GOOD))) as elsewhere:
        moved = response(b"", status=status, headers={"location": elsewhere.url + "/v1/messages"})
        error = await failure_of(client, breaks_after(moved))
        assert (error.error_class, error.ledger_action) == (ErrorClass.REDIRECT, REL)
        assert elsewhere.connections == 0


async def test_proxies_of_the_environment_are_not_used(
    client: ProviderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable must not divert keys."""
    async with rude_server(answers(response(GOOD))) as server, rude_server(answers(response(b"{}"))) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        reply = await client.send(model(server.url), ask(), key=KEY)
    assert (reply.text, proxy.connections) == ("42", 0)


# --- keys ---


@pytest.mark.parametrize("bad", ["sk-with\nnewline", "sk-with space", "sk-ümlaut", "sk-\0nul", "sk-\x7f"])
async def test_a_key_that_cannot_be_a_header_is_refused_unseen(client: ProviderClient, bad: str) -> None:
    """HTTP libraries quote the whole header when they cannot send it (fault 48)."""
    async with rude_server(answers(response(GOOD))) as server:
        with pytest.raises(ConfigError, match="THE_KEY") as caught:
            await client.send(model(server.url), ask(), key=SecretStr(bad))
        assert server.connections == 0
    assert bad not in str(caught.value)


async def test_no_key_is_an_error_except_for_local_servers(client: ProviderClient) -> None:
    """Ollama and its like take any key; some want the header to be there."""
    chat = json.dumps({"choices": [{"message": {"content": "42"}, "finish_reason": "stop"}]}).encode()
    async with rude_server(answers(response(chat))) as server:
        with pytest.raises(MissingKeyError, match="THE_KEY"):
            await client.send(model(server.url), ask(), key=SecretStr(""))
        local = at_address(target("openai-compatible"), server.url + "/v1")
        assert (await client.send(local, ask(), key=SecretStr(""))).text == "42"
    assert b"authorization: Bearer x" in b"".join(server.requests)


# --- cancellation ---


async def test_a_cancelled_call_says_whether_it_had_left(client: ProviderClient) -> None:
    """`on_sent` is called once the connection is ready; the cancellation goes on, and the connection is dropped."""
    arrived = asyncio.Event()
    gone = asyncio.Event()

    async def wait_for_end(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        arrived.set()
        await reader.read()
        gone.set()

    calls: list[str] = []
    async with rude_server(wait_for_end) as server:
        call = asyncio.create_task(
            client.send(model(server.url), ask(), key=KEY, on_sent=lambda: calls.append("sent"))
        )
        await arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(gone.wait(), 110)
    assert calls == ["sent"]


async def test_a_call_cancelled_before_its_connection_has_not_left(client: ProviderClient) -> None:
    """Without `on_sent` the caller may release the hold."""
    waiting = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        waiting.set()
        await asyncio.Event().wait()

    calls: list[str] = []
    async with rude_server(silent) as server:
        url = f"https://127.0.0.1:{server.port}"
        call = asyncio.create_task(
            client.send(model(url), ask(), key=KEY, on_sent=lambda: calls.append("sent"))
        )
        await waiting.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert calls == []


# --- addresses, loops, imports, spans ---


async def test_a_name_that_turns_out_private_is_refused_at_the_socket() -> None:
    """The check is made on the very addresses that would be connected to; a second look-up cannot differ."""
    async with rude_server(answers(response(GOOD))) as server:
        async with guarded_session("public") as http:
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await http.get(f"http://localhost:{server.port}/")
        refusal = host_refusal(caught.value)
        assert isinstance(refusal, HostRefused)
        assert "allow_private_hosts" in str(refusal)
        assert server.connections == 0


def test_a_client_stays_on_its_loop() -> None:
    """Connections of another loop would hang; the mistake is named instead."""
    client = ProviderClient()

    async def once() -> ChatReply:
        async with rude_server(answers(response(GOOD))) as server:
            return await client.send(model(server.url), ask(), key=KEY)

    async def first() -> None:
        await once()
        with pytest.raises(ProviderError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, once())
        await client.aclose()

    asyncio.run(first())


@pytest.mark.server
def test_the_client_imports_without_prefect() -> None:
    """Prefect costs two seconds; commands that only call a provider do not pay them."""
    check = (
        "import sys; import tta_dev_primitives.blocks.providers.client, tta_dev_primitives.blocks.credentials.keys; "
        "sys.exit('prefect' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


async def test_a_call_is_a_span_without_its_words(
    client: ProviderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names by the GenAI conventions; neither prompt nor answer nor provider's text."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    cached = GOOD.replace(b'"input_tokens": 12', b'"input_tokens": 8, "cache_read_input_tokens": 4')
    async with rude_server(answers(response(cached))) as server:
        await client.send(model(server.url), ask("secret prompt"), key=KEY)
    await failure_of(client, breaks_after(response(b"secret words", status="529 Overloaded")))
    done, failed = exporter.get_finished_spans()
    assert done.name == "chat the-model"
    assert dict(done.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "the-model",
        "gen_ai.request.max_tokens": 2048,
        "gen_ai.output.type": "text",
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "gen_ai.response.model": "the-model-1",
        "gen_ai.response.id": "msg_1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 1,
        "gen_ai.usage.cache_read.input_tokens": 4,
    }
    assert (failed.attributes or {})["error.type"] == "transient"
    assert "secret" not in done.to_json() + failed.to_json()
    provider.shutdown()
