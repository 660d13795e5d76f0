"""Faults below the manners of HTTP, as a client meets them; starting, stopping and many calls at once."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from sandbox_kit import KEYS, PROVIDERS, ask, body_of, http, path_of

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One running sandbox for this file."""
    with Sandbox() as running:
        yield running


def script(sandbox: Sandbox, reply: str) -> None:
    """All further calls get `reply`."""
    sandbox.use(parse_scenario(f"rules: [{{reply: {reply}}}]"))
    sandbox.calls.clear()


def test_a_reset_is_a_reset(sandbox: Sandbox) -> None:
    """The connection breaks without a reply; the call may have run, so it is billed."""
    script(sandbox, "{fault: reset}")
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        ask(sandbox, "groq")
    assert [(c.status, c.fault, c.billed) for c in sandbox.calls] == [(0, "reset", True)]


@pytest.mark.parametrize("stream", [False, True])
def test_a_truncated_body_ends_before_its_length(sandbox: Sandbox, stream: bool) -> None:
    """The headers promise the whole, half of it comes."""
    script(sandbox, "{fault: truncated}")
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        ask(sandbox, "groq", stream=stream)


@pytest.mark.parametrize(
    ("fault", "kind", "start"),
    [("html", "text/html", b"<!DOCTYPE"), ("garbage", "application/json", b"\x80")],
)
def test_bodies_that_are_no_json(sandbox: Sandbox, fault: str, kind: str, start: bytes) -> None:
    """A gateway's page, or bytes that are no text, with status 200."""
    script(sandbox, f"{{fault: {fault}}}")
    response = ask(sandbox, "google-ai-studio")
    assert (response.status_code, response.content.startswith(start)) == (200, True)
    assert response.headers["content-type"].startswith(kind)


def test_a_redirect_points_away_and_shows_who_follows(sandbox: Sandbox) -> None:
    """307 to an address that logs whoever comes."""
    script(sandbox, "{fault: redirect}")
    response = ask(sandbox, "openrouter")
    assert (response.status_code, response.headers["location"]) == (307, "/redirected")
    http.get(sandbox.url + "/redirected")
    assert [c.endpoint for c in sandbox.calls] == ["chat", "unknown"]
    assert not any(c.billed for c in sandbox.calls)


def test_a_drip_defeats_a_read_timeout(sandbox: Sandbox) -> None:
    """One byte every few milliseconds: no read is late, only the whole is."""
    script(sandbox, "{text: 'x', drip: 0.002}")
    began = time.monotonic()
    response = http.post(
        sandbox.url + path_of("groq"), headers=KEYS["groq"], json=body_of("groq"), timeout=0.5
    )
    assert response.json()["choices"][0]["message"]["content"] == "x"
    assert time.monotonic() - began > 0.8


def test_a_hanging_call_gets_no_byte(sandbox: Sandbox) -> None:
    """The reply never begins; the client's own timeout ends it."""
    script(sandbox, "{fault: hang}")
    with pytest.raises(httpx.ReadTimeout):
        http.post(sandbox.url + path_of("groq"), headers=KEYS["groq"], json=body_of("groq"), timeout=0.2)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stream_can_fail_half_way(sandbox: Sandbox, provider: str) -> None:
    """After HTTP 200 and some text comes an error in the provider's own form."""
    script(sandbox, "{fault: mid_stream_error}")
    response = ask(sandbox, provider, stream=True)
    assert response.status_code == 200
    assert '"error"' in response.text
    assert "sandbox" in response.text


def test_any_status_body_and_header_can_be_scripted(sandbox: Sandbox) -> None:
    """Raw replies for what no preset says; latency holds them back."""
    script(
        sandbox,
        "{status: 418, body: {teapot: true}, headers: {x-should-retry: 'false'}, retry_after: soon, latency: 0.1}",
    )
    began = time.monotonic()
    response = ask(sandbox, "anthropic")
    assert (response.status_code, response.json()) == (418, {"teapot": True})
    assert (response.headers["x-should-retry"], response.headers["retry-after"]) == ("false", "soon")
    assert time.monotonic() - began > 0.1
    script(sandbox, "{status: 503, body: ''}")
    assert ask(sandbox, "anthropic").content == b""


@pytest.mark.parametrize(("finish", "reply"), [
    ("content_filter", "{text: '', finish: content_filter}"),
    ("length", "{text: '', finish: length}"),
    ("raw", "{text: '', raw_finish: RECITATION}"),
    ("blocked", "{blocked_prompt: true}"),
])  # fmt: skip
def test_gemini_replies_without_text_have_its_odd_forms(sandbox: Sandbox, finish: str, reply: str) -> None:
    """`content: {}`, content without parts, and no candidates at all."""
    script(sandbox, reply)
    body = ask(sandbox, "google-ai-studio").json()
    expected = {
        "content_filter": ({}, "SAFETY"),
        "length": ({"role": "model"}, "MAX_TOKENS"),
        "raw": ({"role": "model"}, "RECITATION"),
    }
    if finish == "blocked":
        assert ("candidates" in body, body["promptFeedback"]) == (
            False,
            {"blockReason": "PROHIBITED_CONTENT"},
        )
    else:
        candidate = body["candidates"][0]
        assert (candidate["content"], candidate["finishReason"]) == expected[finish]


def test_an_anthropic_refusal_is_a_200_without_text(sandbox: Sandbox) -> None:
    """`stop_reason: refusal` with its details and empty content."""
    script(sandbox, "{text: '', finish: refusal}")
    body = ask(sandbox, "anthropic").json()
    assert (body["content"], body["stop_reason"], body["stop_details"]["type"]) == ([], "refusal", "refusal")


# Running


@pytest.mark.server
def test_hundreds_of_calls_at_once_are_all_answered(sandbox: Sandbox) -> None:
    """Three hundred calls wait together, not one after the other."""
    script(sandbox, "{latency: 0.3}")

    async def all_at_once() -> list[int]:
        limits = httpx.Limits(max_connections=300)
        async with httpx.AsyncClient(limits=limits, timeout=30, trust_env=False, verify=False) as client:
            url = sandbox.url + path_of("groq")
            calls = [
                client.post(url, headers=KEYS["groq"], json=body_of("groq", f"Question {n}?"))
                for n in range(300)
            ]
            return [r.status_code for r in await asyncio.gather(*calls)]

    began = time.monotonic()
    assert asyncio.run(all_at_once()) == [200] * 300
    assert time.monotonic() - began < 45  # one after the other they would take 90 s
    assert len(sandbox.calls) == 300


def test_starting_and_stopping_leaves_nothing_behind() -> None:
    """A stopped sandbox has no thread and no port, also with a reply under way; stopping twice is harmless."""
    before = set(threading.enumerate())
    sandbox = Sandbox(parse_scenario("rules: [{reply: {latency: 60}}]")).start()
    with socket.create_connection(("127.0.0.1", sandbox.port)) as waiting:
        body = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        )
        waiting.sendall(head + body)
        while not sandbox.calls:
            time.sleep(0.005)
        sandbox.stop()
        sandbox.stop()
    assert set(threading.enumerate()) == before
    with pytest.raises(OSError):  # noqa: PT011 - refused is what is meant, on every system
        socket.create_connection(("127.0.0.1", sandbox.port), timeout=1)


def test_a_port_in_use_is_said(sandbox: Sandbox) -> None:
    """One line that names the address and what to do."""
    with pytest.raises(
        ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{sandbox.port}: Address already in use"
    ):
        Sandbox().start(sandbox.port)
    with pytest.raises(ConfigError, match="ports are 0 to 65535"):
        Sandbox().start(99_999)


@pytest.mark.server
def test_it_starts_without_prefect() -> None:
    """Importing and starting it loads neither Prefect nor the price tables."""
    code = (
        "import sys; from tta_dev_primitives.deployments.sandbox import Sandbox; Sandbox().start().stop();"
        "print([m for m in ('prefect', 'genai_prices', 'aiohttp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
