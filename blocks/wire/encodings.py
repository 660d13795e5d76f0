"""How a body is compressed: the first bytes decide, the `Content-Encoding` only names what they cannot show. Pure."""

from __future__ import annotations

import zlib
from typing import Protocol


class UnknownEncoding(ValueError):
    """The body is compressed in a way that was not asked for; the text names it."""


class Decompressor(Protocol):
    """What unpacks a body piece by piece, never more than `most` bytes at once."""

    def decompress(self, data: bytes, most: int, /) -> bytes:
        """Unpack a piece."""


def decompressor(encoding: str, head: bytes) -> Decompressor | None:
    """What unpacks a body that begins with `head`; None for plain text, whatever its label.

    Raises:
        UnknownEncoding: It is neither text nor gzip or deflate.
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
    raise UnknownEncoding(f"the reply is compressed as {encoding[:20]}, which was not asked for")


def _is_text(head: bytes) -> bool:
    """Whether the first bytes are text: a byte order mark, or printable UTF-8 that may break off at its end."""
    if head.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return True
    text = head[:64].decode("utf-8", "replace")
    broken = text.rstrip("\ufffd").count("\ufffd")
    return not broken and all(c.isprintable() or c in "\r\n\t" or c == "\ufffd" for c in text)
