"""Replies that go wrong below HTTP's manners: cut, dripped, inflated, garbled connections."""

from __future__ import annotations

import asyncio
import functools
import socket
import struct
import zlib
from collections.abc import Sequence

from starlette.types import Send

from tta_dev_primitives.deployments.sandbox.wire import Reply

__all__ = ["GARBAGE", "HTML", "drip", "gzip_bomb", "hang", "reset", "send_reply", "truncate"]

HTML = (
    b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1>"
    b"</center><hr><center>cloudflare</center></body></html>"
)
GARBAGE = bytes((n * 97 + 128) % 256 for n in range(256)) + b'{"choices": [{"mess'
_BLOCK = b" " * 1_048_576


def _headers(reply: Reply, length: int | None) -> list[tuple[bytes, bytes]]:
    headers = {"content-type": reply.content_type, **reply.headers}
    if length is not None:
        headers["content-length"] = str(length)
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


async def _start(send: Send, reply: Reply, length: int | None) -> None:
    await send({"type": "http.response.start", "status": reply.status, "headers": _headers(reply, length)})


async def send_reply(send: Send, reply: Reply) -> None:
    """The reply as it should be: streamed in chunks, or whole with its length."""
    if reply.chunks is None:
        content = reply.content
        await _start(send, reply, len(content))
        await send({"type": "http.response.body", "body": content})
        return
    await _start(send, reply, None)
    for chunk in reply.chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def drip(send: Send, reply: Reply, seconds: float) -> None:
    """One byte at a time: each read succeeds, the whole never seems to end."""
    content = reply.content
    await _start(send, reply, None if reply.chunks is not None else len(content))
    for at in range(len(content)):
        await send({"type": "http.response.body", "body": content[at : at + 1], "more_body": True})
        await asyncio.sleep(seconds)
    await send({"type": "http.response.body", "body": b""})


async def truncate(send: Send, reply: Reply, transport: asyncio.Transport) -> None:
    """Promise the whole body, send half of it, close the connection."""
    content = reply.content
    await _start(send, reply, len(content))
    await send({"type": "http.response.body", "body": content[: len(content) // 2], "more_body": True})
    transport.close()


def reset(transport: asyncio.Transport) -> None:
    """Close with RST instead of FIN, before any reply."""
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def hang(seconds: float = 3600.0) -> None:
    """Say nothing until the caller gives up."""
    await asyncio.sleep(seconds)


@functools.lru_cache(maxsize=4)
def _bomb_parts(megabytes: int) -> tuple[bytes, bytes, bytes, bytes]:
    """Header, first block, repeated block and trailer of a gzip stream of spaces.

    A full flush resets the compressor, so one compressed block can be sent again and again.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(_BLOCK) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(_BLOCK) + packer.flush(zlib.Z_FULL_FLUSH)
    crc = 0
    for _ in range(megabytes):
        crc = zlib.crc32(_BLOCK, crc)
    size = megabytes * len(_BLOCK) & 0xFFFFFFFF
    header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
    return header, first, again, b"\x03\x00" + struct.pack("<II", crc, size)


async def gzip_bomb(send: Send, reply: Reply, megabytes: int) -> None:
    """A small body that unpacks to `megabytes` MiB of spaces."""
    header, first, again, trailer = await asyncio.to_thread(_bomb_parts, megabytes)
    packed = Reply(reply.status, headers={**reply.headers, "content-encoding": "gzip"})
    await _start(send, packed, None)
    parts: Sequence[bytes] = [header, first, *[again] * (megabytes - 1), trailer]
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
