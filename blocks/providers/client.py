"""The one way to a provider: a request out, a reply or a `ProviderError` back, within a total deadline.

The client knows nothing of budgets or retries. What it promises is that every failure says whether the
request may have reached the provider (`error.sent`, `error.ledger_action`), and that no key is ever in a
message, address or log.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import aiohttp
from pydantic import SecretStr

from tta_dev_primitives.blocks.ledger.types import provider_key
from tta_dev_primitives.blocks.providers.address_rules import Base, Reach, base_of
from tta_dev_primitives.blocks.providers.network import proxy_of
from tta_dev_primitives.blocks.providers.reply_body import (
    Received,
    TooLargeError,
    UndecodableError,
    read_body,
)
from tta_dev_primitives.blocks.providers.telemetry import chat_span
from tta_dev_primitives.blocks.providers.transport import SENDING, Sending, guarded_session, host_refusal
from tta_dev_primitives.blocks.redaction import redact, register_secret
from tta_dev_primitives.blocks.wire import error_rules
from tta_dev_primitives.blocks.wire.batches.types import HttpCall, dumps
from tta_dev_primitives.blocks.wire.error_rules import Fault
from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.blocks.wire.reading import Unreadable, decode_json, flat, lower_headers
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest, ModelInfo
from tta_dev_primitives.blocks.wire.wire_format import WireFormat
from tta_dev_primitives.config.errors import ConfigError, MissingKeyError, OrchestrationError
from tta_dev_primitives.config.models.catalogue import load_catalogue
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction, ProviderError

T = TypeVar("T")
MAX_BODY = 8 * 1024 * 1024
"""Decoded bytes of a reply; 200 kB of gzip can unpack to hundreds of megabytes."""
_CONNECT_S = 10.0
_DATE_S = 5.0
_LARGE = 1024 * 1024
_NOTHING = ChatRequest(())
"""What a list of models asks."""
_COMMON_HEADERS = {
    "accept": "application/json",
    "accept-encoding": "identity",
    "user-agent": "tta-dev-primitives",
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that is built and checked; the key joins its headers when it is sent."""

    target: Target
    request: ChatRequest
    form: WireFormat
    base: Base
    url: str
    body: bytes
    headers: Mapping[str, str]
    key: SecretStr
    most_bytes: int = MAX_BODY
    """Decoded bytes of the reply."""


class ProviderClient:
    """Sends chat calls to any configured provider over one connection pool.

    A client belongs to the event loop it is first used in; close it there (`async with`, or `aclose`).
    """

    def __init__(self, *, verify: ssl.SSLContext | None = None) -> None:
        self._verify = verify
        self._pools: dict[tuple[Reach, str | None], aiohttp.ClientSession] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def address_of(self, target: Target) -> Base:
        """Where the calls of a target go."""
        return base_of(target)

    def prepare(self, target: Target, request: ChatRequest, *, key: SecretStr) -> Prepared:
        """Build address, headers and body of a call; nothing is sent. The key is checked, and added last.

        Raises:
            ProviderError: The request cannot be built for this model; another model may take it.
            ConfigError: Address or key break a rule.
        """
        try:
            form = wire_format(target.provider)
            wire = form.build(target, request)
            body = dumps(wire.body)
            base = self.address_of(target)
            url = base.join(wire.path)
        except OrchestrationError:
            raise
        except Exception as error:
            said = f"the request cannot be built: {type(error).__name__}: {error}. Nothing was sent"
            fault = Fault(ErrorClass.INVALID_REQUEST, LedgerAction.RELEASE, said)
            raise error_rules.error_of(target, fault, status=None, headers={}, sent=False) from None
        _require_usable(target, key)
        headers = {**_COMMON_HEADERS, "content-type": "application/json", "content-length": str(len(body))}
        return Prepared(target, request, form, base, url, body, {**headers, **form.headers}, key)

    async def send(
        self, target: Target, request: ChatRequest, *, key: SecretStr, **options: Any
    ) -> ChatReply:
        """Build and send in one step, outside of the ledger: `prepare`, then `exchange` with its `options`."""
        return await self.exchange(self.prepare(target, request, key=key), **options)

    async def exchange(
        self,
        prepared: Prepared,
        *,
        deadline_s: float | None = None,
        on_sent: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> ChatReply:
        """Make one attempt; no retry. The reply may still be cut or empty: see `wire.problems.reply_problem`.

        Args:
            deadline_s: Total seconds, connection to last byte. Default: `target.timeout_s`.
            on_sent: Called once, when bytes may start to leave; until then a cancelled call cost nothing.
            clock: Epoch seconds, to turn a provider's wait into a moment.

        Raises:
            ProviderError: The attempt failed; `ledger_action` says what becomes of the hold.
            ConfigError: The name resolves to an address that the rules forbid; nothing was sent.
        """
        target, sent = prepared.target, False

        def mark() -> None:
            nonlocal sent
            sent = True
            if on_sent is not None:
                on_sent()

        try:
            with chat_span(target, prepared.base, prepared.request) as record:
                limit_s = target.timeout_s if deadline_s is None else deadline_s
                answer = await self._exchange(prepared, "POST", deadline_s=limit_s, on_sent=mark)
                assert answer.status is not None
                reply = prepared.form.parse(
                    target, answer.status, answer.headers, bytes(answer.body), now=clock()
                )
                record(reply)
                return reply
        except OrchestrationError:
            raise
        except Exception as error:
            # What no library promises to raise must not end a run: the next model is asked.
            failure = _unexpected(target, error, sent=sent)
        # Raised out here: inside, the original would hang on as its context.
        raise failure

    async def list_models(
        self, target: Target, *, key: SecretStr, deadline_s: float = 30.0
    ) -> tuple[ModelInfo, ...]:
        """Ask the provider of `target` which models it serves, with their lifecycle as far as it says."""
        form = wire_format(target.provider)
        body = await self.fetch(target, HttpCall("GET", form.models_path), key=key, deadline_s=deadline_s)
        return read_json(target, body, form.parse_models)

    async def fetch(
        self,
        target: Target,
        call: HttpCall,
        *,
        key: SecretStr,
        deadline_s: float = 30.0,
        most_bytes: int = MAX_BODY,
    ) -> bytes:
        """Any other call of the provider's API than a chat call: the body of its 2xx reply."""
        form, base = wire_format(target.provider), self.address_of(target)
        _require_usable(target, key)
        headers = {**_COMMON_HEADERS, **form.headers}
        if call.method != "GET":
            headers |= {"content-type": call.content_type, "content-length": str(len(call.body))}
        asked = Prepared(
            target, _NOTHING, form, base, base.join(call.path), call.body, headers, key, most_bytes
        )
        answer = await self._exchange(asked, call.method, deadline_s=deadline_s)
        assert answer.status is not None
        if not 200 <= answer.status < 300:
            # Raises: no reply outside 2xx parses.
            form.parse(target, answer.status, answer.headers, bytes(answer.body))
        return bytes(answer.body)

    async def date_of(self, target: Target) -> tuple[str, str | None, float]:
        """The provider account, its `Date`, asked for without a key (None: it has none), and the seconds it took."""
        base, began = self.address_of(target), time.monotonic()
        url, pool = base.join(wire_format(target.provider).models_path), self._pool(base)
        try:
            async with asyncio.timeout(_DATE_S):
                async with pool.head(url, allow_redirects=False) as response:
                    date = response.headers.get("date")
        except (TimeoutError, aiohttp.ClientError, OSError):
            date = None
        return provider_key(target), date, time.monotonic() - began

    async def aclose(self) -> None:
        """Close all connections."""
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            await pool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _pool(self, base: Base) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._loop is not loop and self._pools:
            raise RuntimeError("This ProviderClient belongs to another event loop; make one for each loop.")
        self._loop = loop
        proxy = proxy_of(base)
        pool = (base.reach, proxy)
        if pool not in self._pools:
            self._pools[pool] = guarded_session(base.reach, self._verify, proxy=proxy)
        return self._pools[pool]

    async def _exchange(
        self,
        prepared: Prepared,
        method: str,
        *,
        deadline_s: float,
        on_sent: Callable[[], None] | None = None,
    ) -> Received:
        target = prepared.target
        pool = self._pool(prepared.base)
        sending, answer = Sending(on_sent), Received()
        token = SENDING.set(sending)
        failure: ProviderError | ConfigError | None = None
        try:
            async with asyncio.timeout(deadline_s):
                await _roundtrip(pool, method, prepared, deadline_s, answer)
        except (TimeoutError, aiohttp.ClientError, OSError, TooLargeError, UndecodableError) as error:
            # The status of an error reply decides, also when its body broke off.
            if answer.status is None or 200 <= answer.status < 300:
                sent = sending.sent or answer.status is not None
                failure = _failed(target, error, answer, sent=sent, deadline_s=deadline_s)
        except BaseException as error:
            # An interrupt, or a fault of a library: it goes on without the frames that hold the headers.
            _forget_locals(error)
            raise
        finally:
            SENDING.reset(token)
        if failure is not None:
            # Raised out here: inside, the original would hang on as its context, with the request and its
            # key.
            raise failure
        return answer


def read_json(target: Target, body: bytes, read: Callable[[Any], T]) -> T:
    """What `read` makes of a good reply's JSON; `ProviderError` when it cannot be read."""
    try:
        return read(decode_json(body))
    except Unreadable as error:
        fault = error_rules.unreadable(str(error))
        raise error_rules.error_of(target, fault, status=200, headers={}) from None


def _unexpected(target: Target, error: Exception, *, sent: bool) -> ProviderError:
    """An error that no rule knows: it is a connection failure before a byte left, and may have been billed after."""
    said = f"unexpected {type(error).__name__}: {flat(redact(str(error)), limit=160)}"
    if sent:
        fault = Fault(ErrorClass.MALFORMED, LedgerAction.CHARGE_AT_BOUND, f"{said}; it may have been billed")
    else:
        fault = Fault(ErrorClass.CONNECT, LedgerAction.RELEASE, f"{said}. Nothing was sent", retryable=False)
    return error_rules.error_of(target, fault, status=None, headers={}, sent=sent)


def _require_usable(target: Target, key: SecretStr) -> None:
    """Refuse a key that no header can carry: HTTP libraries print a whole header that they cannot send."""
    register_secret(key)
    if not key:
        # Local servers take any key.
        if load_catalogue().is_compatible(target.provider):
            return
        raise MissingKeyError(
            f"Model '{target.name}': no API key. Set {target.api_key_env}.", variables=(target.api_key_env,)
        )
    if not _is_header_text(key):
        raise ConfigError(
            f"The key in {target.api_key_env} holds a space, line break or special character. Copy it again."
        )


def _is_header_text(key: SecretStr) -> bool:
    value = key.get_secret_value()
    return value.isascii() and value.isprintable() and " " not in value


def _forget_locals(error: BaseException) -> None:
    """Drop the frames of `error` and of what caused it; the text of where it came from stays as a note.

    The HTTP library's frames hold the header with the key, and a traceback may be printed with its local variables.
    """
    seen: BaseException | None = error
    known: set[int] = set()
    while seen is not None and id(seen) not in known:
        known.add(id(seen))
        if isinstance(seen, Exception):
            where = traceback.extract_tb(seen.__traceback__)
            seen.add_note("raised at " + " > ".join(f"{f.filename}:{f.lineno}" for f in where[-3:]))
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__


async def _roundtrip(
    pool: aiohttp.ClientSession,
    method: str,
    prepared: Prepared,
    deadline_s: float,
    answer: Received,
) -> None:
    """Send and read into `answer`. Python's total deadline around this beats a server that drips bytes.

    The header with the key is an argument of the library's call and no variable here.
    """
    url, body, headers = prepared.url, prepared.body, prepared.headers
    form, key = prepared.form, prepared.key
    connect = min(_CONNECT_S, deadline_s)
    # aiohttp warns about large bodies in one piece, since writing one can hold up the loop.
    content = (_pieces(body) if len(body) >= _LARGE else body) if body else None
    # Reading ends with the caller's deadline; a timer of its own for each piece would only cost.
    limits = aiohttp.ClientTimeout(total=None, sock_connect=connect, sock_read=None)
    async with pool.request(
        method,
        url,
        data=content,
        headers={**headers, **form.key_headers(key)},
        timeout=limits,
        allow_redirects=False,
    ) as response:
        headers_back = lower_headers(response.headers)
        await read_body(
            response.status, headers_back, response.content.iter_any(), answer, prepared.most_bytes
        )


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 256 * 1024):
        yield body[start : start + 256 * 1024]


def _why(error: BaseException) -> str:
    """What went wrong at the socket; of a failed connection: to where, and the operating system's reason."""
    if not isinstance(error, aiohttp.ClientConnectorError):
        return str(error)
    cause, number = error.os_error, error.os_error.errno or 0
    plain = number > 0 and not isinstance(cause, ssl.SSLError)
    return f"to {error.host}:{error.port} ({os.strerror(number) if plain else cause.strerror or cause})"


def _failed(
    target: Target, error: BaseException, answer: Received, *, sent: bool, deadline_s: float
) -> ProviderError | ConfigError:
    """Translate a failure of the socket; the original is dropped, since it holds the request and its headers."""
    refusal = host_refusal(error)
    if refusal is not None:
        return ConfigError(f"Model '{target.name}': base_url: {refusal}")
    slow = isinstance(error, TimeoutError)
    said = flat(redact(_why(error)), limit=160) or type(error).__name__
    pre = LedgerAction.CHARGE_AT_BOUND
    if isinstance(error, TooLargeError):
        fault = Fault(ErrorClass.MALFORMED, pre, f"the reply is larger than {MAX_BODY} bytes")
    elif isinstance(error, UndecodableError):
        fault = Fault(ErrorClass.MALFORMED, pre, said)
    elif not sent:
        what = f"no connection within {min(_CONNECT_S, deadline_s):g} s" if slow else f"no connection {said}"
        fault = Fault(ErrorClass.CONNECT, LedgerAction.RELEASE, f"{what}. Nothing was sent")
    elif slow:
        fault = Fault(
            ErrorClass.TIMEOUT, pre, f"no whole reply within {deadline_s:g} s; it may have been billed"
        )
    else:
        fault = Fault(ErrorClass.TRANSPORT, pre, f"the connection broke ({said}); it may have been billed")
    return error_rules.error_of(target, fault, status=answer.status, headers=answer.headers, sent=sent)
