"""Reads the body of a reply: unpacked as its first bytes say, and never more than its cap, also in memory."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

_MAX_ERROR_BODY = 64 * 1024
_HEAD = 64
"""Bytes by which a body shows whether it is text or compressed."""


class TooLargeError(Exception):
    """The body passed its cap."""


class UndecodableError(ValueError):
    """The body is not compressed as it says, or in a way that was not asked for."""


@dataclass(slots=True)
class Received:
    """What came back so far; it outlives an error within the body, since a status already says much."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)


async def read_body(
    status: int, headers: dict[str, str], stream: AsyncIterable[bytes], answer: Received, most_bytes: int
) -> None:
    """Read status, headers and body of a reply into `answer`.

    Raises:
        TooLargeError: Its body passes `most_bytes`; of an error reply 64 kB.
        UndecodableError: It cannot be unpacked.
    """
    answer.status, answer.headers = status, headers
    cap = most_bytes if 200 <= status < 300 else _MAX_ERROR_BODY
    async for piece in _decoded(headers.get("content-encoding", ""), stream, cap):
        answer.body += piece


async def _decoded(encoding: str, stream: AsyncIterable[bytes], cap: int) -> AsyncIterator[bytes]:
    """Yield at most `cap` bytes of body, also in memory: a bomb is stopped inside the decoder."""
    left, head, decide = cap, b"", True
    inflate: Any = None
    async for raw in stream:
        piece = head + raw
        if decide and len(piece) < _HEAD:
            head = piece
            continue
        if decide:
            inflate, decide, head = decompressor(encoding, piece), False, b""
        piece = _inflated(inflate, piece, left + 1)
        left -= len(piece)
        if left < 0:
            yield piece[: left + len(piece)]
            raise TooLargeError
        yield piece
    if head:
        yield _inflated(decompressor(encoding, head), head, left)


def _inflated(inflate: Any, piece: bytes, most: int) -> bytes:
    try:
        return piece if inflate is None else inflate.decompress(piece, most)
    except zlib.error:
        raise UndecodableError("the reply is not the gzip it says it is") from None


def decompressor(encoding: str, head: bytes) -> Any:
    """What unpacks a body that begins with `head`; None for plain text, whatever its label.

    Raises:
        UndecodableError: It is neither text nor gzip or deflate.
    """
    encoding = encoding.strip().lower()
    if head.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(zlib.MAX_WBITS | 16)
    if encoding in ("", "identity") or _is_text(head):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        # Some servers call raw deflate what should have the header of zlib.
        zlib_header = len(head) > 1 and head[0] & 0x0F == 8 and int.from_bytes(head[:2]) % 31 == 0
        return zlib.decompressobj(zlib.MAX_WBITS if zlib_header or encoding != "deflate" else -zlib.MAX_WBITS)
    raise UndecodableError(f"the reply is compressed as {encoding[:20]}, which was not asked for")


def _is_text(head: bytes) -> bool:
    """Whether the first bytes are text: a byte order mark, or printable UTF-8 that may break off at its end."""
    if head.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return True
    text = head[:64].decode("utf-8", "replace")
    broken = text.rstrip("\ufffd").count("\ufffd")
    return not broken and all(c.isprintable() or c in "\r\n\t" or c == "\ufffd" for c in text)
