"""Scripted replies as a client meets them; starting, stopping and many calls at once."""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from sandbox_kit import KEYS, ask, body_of, path_of

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario


def script(sandbox: Sandbox, reply: str) -> None:
    """All further calls get `reply`."""
    sandbox.use(parse_scenario(f"rules: [{{reply: {reply}}}]"))
    sandbox.calls.clear()


def test_any_status_and_body_can_be_scripted(sandbox: Sandbox) -> None:
    """Raw replies for what no preset says; latency holds them back."""
    script(
        sandbox,
        "{status: 418, body: {teapot: true}, retry_after: soon, latency: 0.1}",
    )
    began = time.monotonic()
    response = ask(sandbox, "anthropic")
    assert (response.status_code, response.json()) == (418, {"teapot": True})
    assert response.headers["retry-after"] == "soon"
    assert time.monotonic() - began > 0.1
    script(sandbox, "{status: 503, body: ''}")
    assert ask(sandbox, "anthropic").content == b""


@pytest.mark.parametrize(("finish", "reply"), [
    ("content_filter", "{text: '', finish: content_filter}"),
    ("length", "{text: '', finish: length}"),
])  # fmt: skip
def test_gemini_replies_without_text_have_its_odd_forms(sandbox: Sandbox, finish: str, reply: str) -> None:
    """`content: {}`, and content without parts."""
    script(sandbox, reply)
    body = ask(sandbox, "google-ai-studio").json()
    expected = {
        "content_filter": ({}, "SAFETY"),
        "length": ({"role": "model"}, "MAX_TOKENS"),
    }
    candidate = body["candidates"][0]
    assert (candidate["content"], candidate["finishReason"]) == expected[finish]


def test_an_anthropic_refusal_is_a_200_without_text(sandbox: Sandbox) -> None:
    """`stop_reason: refusal` with its details and empty content."""
    script(sandbox, "{text: '', finish: refusal}")
    body = ask(sandbox, "anthropic").json()
    assert (body["content"], body["stop_reason"], body["stop_details"]["type"]) == ([], "refusal", "refusal")


# Running


@pytest.mark.server
def test_hundreds_of_calls_at_once_are_all_answered() -> None:
    """Three hundred calls wait together, not one after the other: none is answered before all are there."""
    waiting, all_here = itertools.count(1), asyncio.Event()

    async def together(_: float) -> None:
        if next(waiting) == 300:
            all_here.set()
        await all_here.wait()

    async def all_at_once(sandbox: Sandbox) -> list[int]:
        limits = httpx.Limits(max_connections=300)
        async with httpx.AsyncClient(limits=limits, timeout=110, trust_env=False, verify=False) as client:
            url = sandbox.url + path_of("groq")
            calls = [
                client.post(url, headers=KEYS["groq"], json=body_of("groq", f"Question {n}?"))
                for n in range(300)
            ]
            return [r.status_code for r in await asyncio.gather(*calls)]

    with Sandbox(parse_scenario("rules: [{reply: {latency: 1}}]"), sleep=together) as sandbox:
        assert asyncio.run(all_at_once(sandbox)) == [200] * 300
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
    # Threads of earlier tests may have ended meanwhile.
    assert not set(threading.enumerate()) - before
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
