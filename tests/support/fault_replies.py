"""What a provider can send, good and bad, in Anthropic's words; every error echoes the key it was called with."""

from __future__ import annotations

import asyncio
import json
import socket
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from rude_server import (
    Behaviour,
    RudeServer,
    answers,
    closed_port,
    read_request,
    reset,
    response,
    rude_server,
)

REQUEST_ID = "req_fault_0001"
MODEL = "fault-paid"
INPUT, OUTPUT = 40, 20
"""Tokens that an honest reply bills."""


@dataclass(frozen=True)
class Asked:
    """One request as the provider sees it."""

    target: str
    key: str
    body: dict[str, Any]


Answer = Callable[[str, Asked], bytes]
"""From the text that would be right, and the request, to the bytes of the response."""


def parse(raw: bytes) -> Asked:
    """Read a request; the key from whichever header carries it."""
    head, _, body = raw.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    names = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    key = names.get("x-api-key") or names.get("x-goog-api-key") or names.get("authorization", "")
    return Asked(line, key.removeprefix("Bearer "), json.loads(body or b"{}"))


def message(text: str, *, usage: Any = ..., stop: str = "end_turn", model: str = MODEL) -> bytes:
    """A good Message. `usage` replaces the honest figures; None leaves them out."""
    document = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": text}] if text else [],
        "stop_reason": stop,
        "usage": {"input_tokens": INPUT, "output_tokens": OUTPUT} if usage is ... else usage,
    }
    if usage is None:
        del document["usage"]
    return json.dumps(document).encode()


def ok(body: bytes, **headers: str) -> bytes:
    return response(
        body, headers={"request-id": REQUEST_ID, **{k.replace("_", "-"): v for k, v in headers.items()}}
    )


def good(text: str, _: Asked) -> bytes:
    return ok(message(text))


def with_usage(usage: Any) -> Answer:
    return lambda text, _: ok(message(text, usage=usage))


def with_stop(stop: str, *, text: str | None = None) -> Answer:
    return lambda right, _: ok(message(right if text is None else text, stop=stop))


def raw(body: bytes, **headers: str) -> Answer:
    return lambda _, __: ok(body, **headers)


def error(status: str, kind: str, words: str, **headers: str) -> Answer:
    """An error reply whose message quotes the key, as careless providers and gateways do."""

    def answer(_: str, asked: Asked) -> bytes:
        text = (
            f"{words} (key {asked.key}, header x-api-key: {asked.key}, https://p.example/v1?key={asked.key})"
        )
        body = json.dumps(
            {"type": "error", "error": {"type": kind, "message": text}, "request_id": REQUEST_ID}
        )
        named = {"request-id": REQUEST_ID, **{k.replace("_", "-"): v for k, v in headers.items()}}
        return response(body.encode(), status=status, headers=named)

    return answer


def stream_error(_: str, __: Asked) -> bytes:
    """A stream that begins well and ends with an error event."""
    start = {
        "type": "message_start",
        "message": {"type": "message", "model": MODEL, "usage": {"input_tokens": INPUT}},
    }
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "The"}}
    bad = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    events = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in (start, delta, bad))
    return ok(events.encode(), content_type="text/event-stream")


@cache
def bomb() -> bytes:
    """64 MB of zeros in 64 kB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(64)) + packer.flush()


# --- connections ---


def answering(answer: Answer, text: str) -> Behaviour:
    """Answer every request of a connection."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked = parse(await read_request(reader))
            writer.write(answer(text, asked))
            await writer.drain()

    return behave


class Served:
    """A provider whose every reply is `answer`."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def __call__(self, text: str) -> Behaviour:
        return answering(self.answer, text)


def first(count: int, faulty: Answer) -> Answer:
    """The first `count` requests meet the fault, later ones do not."""
    seen = 0

    def answer(text: str, asked: Asked) -> bytes:
        nonlocal seen
        seen += 1
        return (faulty if seen <= count else good)(text, asked)

    return answer


def at_once(count: int, behave: Behaviour) -> Behaviour:
    """Nobody is served before `count` have called: none of them can know what another one met."""
    calls, all_here = 0, asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        if calls >= count:
            all_here.set()
        await asyncio.wait_for(all_here.wait(), 110)
        await behave(reader, writer)

    return wait


def once(answer: Answer, text: str) -> Behaviour:
    """Answer one request and close."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = parse(await read_request(reader))
        writer.write(answer(text, asked))
        await writer.drain()

    return behave


async def resets_while_sending(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    reset(writer)


async def never_reads(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def resets_after_reading(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    reset(writer)


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await read_request(reader)
    await asyncio.Event().wait()


def drips(text: str) -> Behaviour:
    """Each byte in time for a read timeout, the whole never in time."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole = good(text, parse(await read_request(reader)))
        head, _, body = whole.partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        for byte in body:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)

    return behave


def cut(text: str) -> Behaviour:
    """The connection ends within the body."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(good(text, parse(await read_request(reader)))[:-20])
        await writer.drain()

    return behave


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: {REQUEST_ID}\r\n"
    writer.write(head.encode() + b"transfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"80000\r\n" + b" " * 0x80000 + b"\r\n")
        await writer.drain()


@asynccontextmanager
async def full_backlog() -> AsyncIterator[RudeServer]:
    """A port whose queue of connections is full: a new one is neither taken nor refused."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    try:
        yield RudeServer(port=listener.getsockname()[1])
    finally:
        for one in (*fillers, listener):
            one.close()


__all__ = [
    "Answer",
    "Asked",
    "Behaviour",
    "RudeServer",
    "Served",
    "answering",
    "answers",
    "bomb",
    "closed_port",
    "cut",
    "drips",
    "endless",
    "error",
    "first",
    "full_backlog",
    "good",
    "message",
    "never_reads",
    "ok",
    "once",
    "parse",
    "raw",
    "read_request",
    "resets_after_reading",
    "resets_while_sending",
    "response",
    "rude_server",
    "silent",
    "stream_error",
    "with_stop",
    "with_usage",
]  # fmt: skip
