"""The socket side of the provider client: aiohttp's pool, guarded name resolution, sent-or-not.

httpx's own pool is quadratic in open requests; aiohttp's is not, and costs half as much a request even when
httpx stands in front of it. aiohttp also reports when a connection is ready, which is the last moment at which
a failed request provably never left this machine.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from typing_extensions import override

from tta_dev_primitives.blocks.providers.address_rules import Reach, address_refusal
from tta_dev_primitives.blocks.providers.network import verifying_context

_CONNECTIONS = 1000
"""Above every sensible concurrency; the quota and the caller's semaphore are what limits calls."""
_KEEPALIVE_S = 15.0
_MOST_HEADER = 128 * 1024
"""Bytes of one header field: gateways put whole debug reports there, and the answer behind it is paid."""


class HostRefused(OSError):
    """A name resolved to an address that its rules forbid."""


@dataclass(slots=True)
class Sending:
    """Whether bytes of the request in this context may have left the machine."""

    on_sent: Callable[[], None] | None = None
    sent: bool = False

    def mark(self) -> None:
        """From here on the provider may have the request; calls the caller back once."""
        if not self.sent:
            self.sent = True
            if self.on_sent is not None:
                self.on_sent()


SENDING: ContextVar[Sending | None] = ContextVar("tta_sending", default=None)


class _GuardedResolver(AbstractResolver):
    """Resolves once, checks the very addresses that will be connected to: a second answer cannot slip in."""

    def __init__(self, reach: Reach) -> None:
        self._inner = ThreadedResolver()
        self._reach = reach

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve `host`; raise `HostRefused` if any of its addresses is out of reach."""
        found = await self._inner.resolve(host, port, family)
        for entry in found:
            refusal = address_refusal(host, entry["host"], self._reach)
            if refusal is not None:
                raise HostRefused(refusal)
        return found

    async def close(self) -> None:
        """Nothing is held open."""
        await self._inner.close()


class _Connector(aiohttp.TCPConnector):
    """Marks the moment at which a connection is ready; aiohttp's tracing does too, at three times the cost."""

    @override
    async def connect(self, req: Any, traces: Any, timeout: aiohttp.ClientTimeout) -> Any:
        connection = await super().connect(req, traces, timeout)
        sending = SENDING.get()
        if sending is not None:
            try:
                sending.mark()
            except BaseException:
                connection.close()
                raise
        return connection


def guarded_session(
    reach: Reach, verify: ssl.SSLContext | None = None, *, proxy: str | None = None
) -> aiohttp.ClientSession:
    """Make a pool whose connections end only where `reach` allows. Call it inside a running loop.

    Args:
        reach: Where connections may end. Through a proxy it is the proxy that resolves names.
    """
    if verify is None:
        # Plain http needs no certificates: an empty context is made in a millisecond.
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if reach == "private" else verifying_context()
    connector = _Connector(
        ssl=verify,
        resolver=_GuardedResolver(reach if proxy is None else "any"),
        limit=_CONNECTIONS,
        keepalive_timeout=_KEEPALIVE_S,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        max_line_size=_MOST_HEADER,
        max_field_size=_MOST_HEADER,
        trust_env=False,
        proxy=proxy,
    )


def host_refusal(error: BaseException) -> HostRefused | None:
    """Find the refusal inside what aiohttp wrapped around it."""
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None or isinstance(seen, HostRefused):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
