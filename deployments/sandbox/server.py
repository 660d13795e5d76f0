"""The HTTP application: routes of the four wire formats, keys, and the way from a request to its reply."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tta_dev_primitives.config.models.usage import Usage
from tta_dev_primitives.deployments.sandbox import faults
from tta_dev_primitives.deployments.sandbox.anthropic_face import AnthropicFace, check_version
from tta_dev_primitives.deployments.sandbox.anthropic_requests import parse_count, parse_messages
from tta_dev_primitives.deployments.sandbox.calls import Call, PriceOf
from tta_dev_primitives.deployments.sandbox.chat import Ask, Failure, Refusal
from tta_dev_primitives.deployments.sandbox.director import Decision, Director
from tta_dev_primitives.deployments.sandbox.gemini_face import GeminiFace
from tta_dev_primitives.deployments.sandbox.gemini_requests import parse_generate
from tta_dev_primitives.deployments.sandbox.openai_face import GroqFace, OpenAIFace, OpenRouterFace
from tta_dev_primitives.deployments.sandbox.openai_requests import parse_chat
from tta_dev_primitives.deployments.sandbox.strict import parse_body
from tta_dev_primitives.deployments.sandbox.wire import Reply, Room, Sent, token

__all__ = ["LISTED", "Keys", "Site"]

Keys = Mapping[str, str | Sequence[str]]
AnyFace = AnthropicFace | GeminiFace | OpenAIFace
_MAX_BODY = 32 * 1_048_576
LISTED: Mapping[str, tuple[str, ...]] = {
    "anthropic": ("claude-sonnet-4-5", "claude-sonnet-4-6", "claude-sonnet-5-5", "claude-opus-5-5",
                  "claude-haiku-4-5"),
    "google-ai-studio": ("gemini-2.5-pro", "gemini-3.8-flash", "gemini-3.5-flash-lite"),
    "groq": ("llama-3.3-70b-versatile", "openai/gpt-oss-120b", "openai/gpt-oss-20b"),
    "openrouter": ("deepseek/deepseek-r1:free", "openai/gpt-oss-120b:free", "openrouter/free",
                   "deepseek/deepseek-r1-0528"),
    "openai-compatible": ("sandbox-model",),
}  # fmt: skip
"""What the model lists show; any other well-formed id is served, too, unless the scenario says it is gone."""


@dataclass(slots=True)
class _Exchange:
    """One request on its way through the site."""

    face: AnyFace
    endpoint: str
    number: int
    request_id: str
    at: float
    as_array: bool = False
    body: Mapping[str, Any] = field(default_factory=dict)
    ask: Ask | None = None
    key: str = ""

    def sent(self, *, cost: Decimal | None = None, rooms: Sequence[Room] = ()) -> Sent:
        return Sent(self.number, self.at, self.request_id, cost, rooms, self.as_array)


Reader = Callable[[_Exchange, Request], Awaitable[Ask]]


class Site:
    """The sandbox's application. It belongs to one event loop."""

    def __init__(
        self,
        director: Director,
        *,
        keys: Keys | None = None,
        calls: list[Call] | None = None,
        price_of: PriceOf | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.director = director
        self._clock, self._sleep = clock, sleep
        self.calls = [] if calls is None else calls
        self._price_of = price_of
        self._keys = {
            provider: (accepted,) if isinstance(accepted, str) else tuple(accepted)
            for provider, accepted in (keys or {}).items()
        }
        self._count = 0
        self._faces: dict[str, AnyFace] = {
            face.provider: face
            for face in (AnthropicFace(), GeminiFace(), GroqFace(), OpenRouterFace(), OpenAIFace())
        }
        self.app = Starlette(routes=self._routes())

    def _routes(self) -> list[Route]:
        chat, get = self._chat, self._get

        def post(path: str, provider: str, read: Reader) -> Route:
            return Route(path, _Endpoint(lambda request: chat(request, provider, read)), methods=["POST"])

        def listing(path: str, provider: str | None, what: str = "models") -> Route:
            return Route(path, _Endpoint(lambda request: get(request, provider, what)), methods=["GET"])

        return [
            post("/v1/messages", "anthropic", self._read_messages),
            Route("/v1/messages/count_tokens", _Endpoint(self._count_tokens), methods=["POST"]),
            post("/v1/chat/completions", "openai-compatible", self._read_chat),
            listing("/v1/models", None),
            listing("/v1/models/{model:path}", None, "model"),
            post("/openai/v1/chat/completions", "groq", self._read_chat),
            listing("/openai/v1/models", "groq"),
            listing("/openai/v1/models/{model:path}", "groq", "model"),
            post("/api/v1/chat/completions", "openrouter", self._read_chat),
            listing("/api/v1/models", "openrouter"),
            listing("/api/v1/key", "openrouter", "key"),
            listing("/v1beta/models", "google-ai-studio"),
            listing("/v1beta/models/{model:path}", "google-ai-studio", "model"),
            post("/{version:str}/models/{call:path}", "google-ai-studio", self._read_generate),
            Route(
                "/{path:path}", _Endpoint(self._unknown), methods=["GET", "POST", "PUT", "PATCH", "DELETE"]
            ),
        ]

    # Requests with an answer of a model

    async def _chat(self, request: Request, provider: str, read: Reader) -> _Sending:
        exchange = self._exchange(provider, "chat")
        try:
            exchange.key = self._authorize(exchange.face, request)
            exchange.body = await self._body(request)
            ask = exchange.ask = await read(exchange, request)
        except Refusal as refusal:
            return self._refused(exchange, refusal)
        return self._serve(exchange, ask, self.director.decide(ask, exchange.key))

    async def _read_messages(self, exchange: _Exchange, request: Request) -> Ask:
        return parse_messages(exchange.body, version=check_version(request.headers))

    async def _read_chat(self, exchange: _Exchange, request: Request) -> Ask:
        return parse_chat(exchange.body, provider=exchange.face.provider)

    async def _read_generate(self, exchange: _Exchange, request: Request) -> Ask:
        version = request.path_params["version"]
        model, _, method = request.path_params["call"].rpartition(":")
        streamed = method == "streamGenerateContent"
        exchange.as_array = streamed and request.query_params.get("alt") != "sse"
        if version not in ("v1", "v1beta") or not (streamed or method == "generateContent"):
            raise Refusal(Failure("model_gone", "Requested entity was not found."))
        return parse_generate(exchange.body, model=model, version=version, stream=streamed)

    def _serve(self, exchange: _Exchange, ask: Ask, decision: Decision) -> _Sending:
        """Put a decision into the provider's words."""
        face, script = exchange.face, decision.script
        cost = self._cost(ask, decision)
        sent = exchange.sent(cost=cost, rooms=decision.rooms)
        if decision.failure is not None:
            reply = face.error(decision.failure, sent)
        elif decision.answer is None:
            reply = Reply(headers=face.headers(sent))
        elif script.fault == "mid_stream_error":
            reply = face.broken_stream(ask, decision.answer, sent)
        else:
            reply = face.answer(ask, decision.answer, sent)
        if script.status is not None:
            body = reply.body if decision.failure is not None and script.body is None else script.body
            raw = body.encode() if isinstance(body, str) else body
            reply = Reply(
                script.status, {} if raw is None else raw, headers=_with_retry(reply.headers, script)
            )
        reply = Reply(reply.status, reply.body, reply.chunks, {**reply.headers, **script.headers})
        call = self._log(exchange, reply.status, decision)
        return _Sending(reply, decision, call, self._sleep)

    def _cost(self, ask: Ask, decision: Decision) -> Decimal | None:
        """List price of the call, for OpenRouter's `usage.cost`."""
        if decision.answer is None or ask.provider != "openrouter":
            return None
        if ask.model.endswith(":free"):
            return Decimal(0)
        price = self._price_of(ask.provider, ask.model) if self._price_of else None
        return price.cost(decision.answer.usage) if price else None

    # Other requests

    async def _count_tokens(self, request: Request) -> _Sending:
        exchange = self._exchange("anthropic", "count_tokens")
        try:
            self._authorize(exchange.face, request)
            exchange.body = await self._body(request)
            ask = parse_count(exchange.body, version=check_version(request.headers))
        except Refusal as refusal:
            return self._refused(exchange, refusal)
        return self._plain(exchange, {"input_tokens": ask.input_tokens})

    async def _get(self, request: Request, provider: str | None, what: str) -> _Sending:
        if provider is None:
            provider = _owner_of_v1(request.headers)
        exchange = self._exchange(provider, "key" if what == "key" else "models")
        face = exchange.face
        try:
            if provider != "openrouter" or what == "key":  # OpenRouter's model list is public
                self._authorize(face, request)
            if isinstance(face, AnthropicFace):
                check_version(request.headers)
            if what == "key":
                return self._plain(exchange, _KEY_FACTS)
            ids = [m for m in LISTED[provider] if self._shown(m)]
            ids += [
                m for m in self.director.scenario.models if m not in ids and "*" not in m and self._shown(m)
            ]
            if what == "models":
                return self._plain(exchange, face.models([i for i in ids if _belongs(i, provider)]))
            model = request.path_params["model"]
            if self.director.scenario.state(model).gone or model not in ids:
                raise Refusal(Failure("model_gone", facts={"model": model}))
        except Refusal as refusal:
            return self._refused(exchange, refusal)
        return self._plain(exchange, face.model(model))

    def _shown(self, model: str) -> bool:
        state = self.director.scenario.state(model)
        return state.listed and not state.gone

    async def _unknown(self, request: Request) -> _Sending:
        exchange = self._exchange("openai-compatible", "unknown")
        reply = Reply(
            404, {"error": {"message": f"Unknown request URL: {request.method} {request.url.path}"}}
        )
        return _Sending(reply, None, self._log(exchange, 404, None))

    # Common steps

    def _exchange(self, provider: str, endpoint: str) -> _Exchange:
        self._count += 1
        request_id = f"req_{token('request', self._count)}"
        return _Exchange(self._faces[provider], endpoint, self._count, request_id, self._clock())

    def _authorize(self, face: AnyFace, request: Request) -> str:
        """An opaque name for the caller's key, or a refusal."""
        key = face.key_of(request.headers)
        if key is None:
            if face.provider == "openai-compatible" and face.provider not in self._keys:
                return "anonymous"  # local servers ask for none
            raise face.missing_key()
        accepted = self._keys.get(face.provider)
        if accepted is not None and not any(hmac.compare_digest(key.encode(), a.encode()) for a in accepted):
            raise Refusal(Failure("bad_key"))
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    async def _body(self, request: Request) -> dict[str, Any]:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > _MAX_BODY:
                raise Refusal(Failure("too_large"))
            parts.append(part)
        try:
            return parse_body(b"".join(parts))
        except (ValueError, UnicodeDecodeError) as error:
            text = f"We could not parse the JSON body of your request: {error}"
            raise Refusal(Failure("invalid_request", text)) from None

    def _refused(self, exchange: _Exchange, refusal: Refusal) -> _Sending:
        reply = exchange.face.error(refusal.failure, exchange.sent())
        return _Sending(reply, None, self._log(exchange, reply.status, None, refusal.failure))

    def _plain(self, exchange: _Exchange, body: Any) -> _Sending:
        reply = Reply(body=body, headers=exchange.face.headers(exchange.sent()))
        return _Sending(reply, None, self._log(exchange, 200, None))

    def _log(
        self, exchange: _Exchange, status: int, decision: Decision | None, failure: Failure | None = None
    ) -> Call:
        ask, answer = exchange.ask, decision.answer if decision else None
        failure = decision.failure if decision else failure
        fault = decision.script.fault if decision else None
        call = Call(
            number=exchange.number,
            provider=exchange.face.provider,
            endpoint=exchange.endpoint,
            status=0 if fault in ("reset", "hang") else status,
            model=ask.model if ask else str(exchange.body.get("model", "")),
            prompt=ask.prompt if ask else "",
            stream=bool(ask and ask.stream),
            usage=answer.usage if answer else Usage(),
            billed=bool(decision and decision.billed),
            rule=decision.rule if decision else None,
            fault=fault,
            error=failure.kind if failure else None,
            request_id=exchange.request_id,
            text=answer.text if answer else "",
            body=exchange.body,
            at=exchange.at,
        )
        self.calls.append(call)
        return call


_KEY_FACTS = {
    "data": {
        "label": "sandbox",
        "limit": None,
        "limit_remaining": None,
        "limit_reset": None,
        "usage": 0,
        "usage_daily": 0,
        "usage_weekly": 0,
        "usage_monthly": 0,
        "is_free_tier": True,
        "is_provisioning_key": False,
        "rate_limit": {"requests": -1, "interval": "10s", "note": "This field is deprecated"},
    }
}


def _owner_of_v1(headers: Mapping[str, str]) -> str:
    """`/v1/models` is Anthropic's, Gemini's and everyone's address: the headers tell."""
    if "x-goog-api-key" in headers:
        return "google-ai-studio"
    return "anthropic" if "anthropic-version" in headers or "x-api-key" in headers else "openai-compatible"


def _belongs(model: str, provider: str) -> bool:
    """Whether a model that a scenario names is one of `provider`'s."""
    if model in LISTED[provider]:
        return True
    if any(model in ids for ids in LISTED.values()):
        return False
    if model.startswith("claude-"):
        return provider == "anthropic"
    if model.startswith("gemini-"):
        return provider == "google-ai-studio"
    if "/" not in model:  # Ollama's names have a tag, but no maker: `qwen3:8b`
        return provider in ("groq", "openai-compatible")
    return provider == "openrouter" or (":" not in model and provider in ("groq", "openai-compatible"))


def _with_retry(headers: Mapping[str, str], script: Any) -> dict[str, str]:
    if script.retry_after is None:
        return dict(headers)
    wait = script.retry_after
    return {**headers, "retry-after": wait if isinstance(wait, str) else f"{wait:g}"}


@dataclass(frozen=True, slots=True)
class _Sending:
    """A reply with the faults and the time it shall have on the wire."""

    reply: Reply
    decision: Decision | None
    call: Call
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def send(self, scope: Scope, send: Send) -> None:
        script = self.decision.script if self.decision else None
        if self.decision and self.decision.latency:
            await self.sleep(self.decision.latency)
        reply, fault = self.reply, script.fault if script else None
        match fault:
            case "reset":
                return faults.reset(_transport(scope))
            case "hang":
                return await faults.hang()
            case "truncated":
                return await faults.truncate(send, reply, _transport(scope))
            case "garbage":
                reply = Reply(reply.status, faults.GARBAGE, headers=reply.headers)
            case "html":
                headers = {**reply.headers, "content-type": "text/html; charset=UTF-8"}
                reply = Reply(reply.status, faults.HTML, headers=headers)
            case "redirect" if script:
                status = script.status if script.status and 300 <= script.status < 400 else 307
                headers = {**reply.headers, "location": script.location or "/redirected"}
                reply = Reply(status, b"", headers=headers)
            case "gzip_bomb" if script:
                return await faults.gzip_bomb(send, reply, script.megabytes)
        if script and script.drip is not None:
            return await faults.drip(send, reply, script.drip)
        return await faults.send_reply(send, reply)


def _transport(scope: Scope) -> asyncio.Transport:
    transport: asyncio.Transport = scope["tta.transport"]
    return transport


class _Endpoint:
    """An ASGI endpoint around a function from request to reply."""

    def __init__(self, handle: Callable[[Request], Awaitable[_Sending]]) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            sending = await self._handle(Request(scope, receive))
        except ClientDisconnect:
            return
        await sending.send(scope, send)
