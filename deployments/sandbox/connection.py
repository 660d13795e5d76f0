"""Sending a reply, whole and in order, or with a fault of the connection: cut, dripped, garbled."""

from __future__ import annotations

import asyncio
import socket
import struct

from starlette.types import Send

from tta_dev_primitives.deployments.sandbox.http_reply import Reply
from tta_dev_primitives.deployments.sandbox.scenario.scenario import Reply as Script

_HTML = (
    b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1>"
    b"</center><hr><center>cloudflare</center></body></html>"
)
_GARBAGE = bytes((n * 97 + 128) % 256 for n in range(256)) + b'{"choices": [{"mess'
_HANG_S = 3600.0


async def _start(send: Send, reply: Reply, length: int | None) -> None:
    headers = {"content-type": "application/json", **reply.headers}
    if length is not None:
        headers["content-length"] = str(length)
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": pairs})


async def _part(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def send_reply(send: Send, reply: Reply) -> None:
    """The reply as it should be: streamed in chunks, or whole with its length."""
    if reply.chunks is None:
        await _start(send, reply, len(reply.content))
        return await _part(send, reply.content, more=False)
    await _start(send, reply, None)
    for chunk in reply.chunks:
        await _part(send, chunk)
    return await _part(send, b"", more=False)


async def send_scripted(send: Send, reply: Reply, script: Script, transport: asyncio.Transport) -> None:
    """The reply with the fault and the drip of `script`."""
    match script.fault:
        case "reset":
            return _reset(transport)
        case "hang":
            return await asyncio.sleep(_HANG_S)
        case "truncated":  # promise the whole body, send half of it, close the connection
            await _start(send, reply, len(reply.content))
            await _part(send, reply.content[: len(reply.content) // 2])
            return transport.close()
        case "garbage":
            reply = Reply(reply.status, _GARBAGE, headers=reply.headers)
        case "html":
            headers = {**reply.headers, "content-type": "text/html; charset=UTF-8"}
            reply = Reply(reply.status, _HTML, headers=headers)
        case "redirect":
            status = script.status if script.status and 300 <= script.status < 400 else 307
            headers = {**reply.headers, "location": script.location or "/redirected"}
            reply = Reply(status, b"", headers=headers)
    if script.drip is None:
        return await send_reply(send, reply)
    return await _drip(send, reply, script.drip)


async def _drip(send: Send, reply: Reply, seconds: float) -> None:
    """One byte at a time: each read succeeds, the whole never seems to end."""
    await _start(send, reply, None if reply.chunks is not None else len(reply.content))
    for at in range(len(reply.content)):
        await _part(send, reply.content[at : at + 1])
        await asyncio.sleep(seconds)
    await _part(send, b"", more=False)


def _reset(transport: asyncio.Transport) -> None:
    """Close with RST instead of FIN, before any reply."""
    peer: socket.socket | None = transport.get_extra_info("socket")
    if peer is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
