"""The HTTP application: routes of the four wire formats, keys, and the steps from request to reply."""

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

from tta_dev_primitives.config.models.targets import Usage
from tta_dev_primitives.deployments.sandbox.anthropic.requests import parse_messages
from tta_dev_primitives.deployments.sandbox.anthropic.responses import AnthropicResponses, check_version
from tta_dev_primitives.deployments.sandbox.batches import BatchRoutes
from tta_dev_primitives.deployments.sandbox.calls import Call, PriceOf, catalogue_price
from tta_dev_primitives.deployments.sandbox.chat import Ask, Failure, Refusal
from tta_dev_primitives.deployments.sandbox.gemini.requests import parse_generate
from tta_dev_primitives.deployments.sandbox.gemini.responses import GeminiResponses
from tta_dev_primitives.deployments.sandbox.http_reply import RateLimit, Reply, Sent, token
from tta_dev_primitives.deployments.sandbox.openai import responses as openai
from tta_dev_primitives.deployments.sandbox.openai.requests import parse_chat
from tta_dev_primitives.deployments.sandbox.requests import parse_body, refuse
from tta_dev_primitives.deployments.sandbox.scenario.director import Decision, Director
from tta_dev_primitives.deployments.sandbox.scenario.scenario import Reply as Script

Keys = Mapping[str, str | Sequence[str]]
Reader = Callable[["_Exchange", Request], Ask]
Responses = AnthropicResponses | GeminiResponses | openai.OpenAIResponses
_MAX_BODY = 32 * 1_048_576
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
LISTED: Mapping[str, tuple[str, ...]] = {
    "anthropic": ("claude-sonnet-4-5", "claude-sonnet-4-6", "claude-sonnet-5-5", "claude-opus-5-5",
                  "claude-haiku-4-5"),
    "google-ai-studio": ("gemini-2.5-pro", "gemini-3.8-flash", "gemini-3.5-flash-lite"),
    "groq": ("llama-3.3-70b-versatile", "openai/gpt-oss-120b", "openai/gpt-oss-20b"),
    "openrouter": ("deepseek/deepseek-r1:free", "openai/gpt-oss-120b:free", "openrouter/free",
                   "deepseek/deepseek-r1-0528"),
    "openai-compatible": ("sandbox-model",),
}  # fmt: skip
"""What the model lists show; any other well-formed id is answered too, unless the scenario retires it."""


@dataclass(slots=True)
class _Exchange:
    """One request and what is known of it so far."""

    responses: Responses
    endpoint: str
    number: int
    at: float
    body: Mapping[str, Any] = field(default_factory=dict)
    ask: Ask | None = None
    batch: bool = False

    @property
    def request_id(self) -> str:
        return f"req_{token('request', self.number)}"

    def sent(self, *, cost: Decimal | None = None, limits: Sequence[RateLimit] = ()) -> Sent:
        return Sent(self.number, self.at, self.request_id, cost, limits)


@dataclass(frozen=True, slots=True)
class _Sending:
    """A reply, and how long it is held back."""

    reply: Reply
    latency: float = 0.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def send(self, send: Send) -> None:
        if self.latency:
            await self.sleep(self.latency)
        reply, chunks = self.reply, self.reply.chunks
        headers = {"content-type": "application/json", **reply.headers}
        if chunks is None:
            headers["content-length"] = str(len(reply.content))
        pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": pairs})
        for part in [reply.content] if chunks is None else chunks:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class App:
    """The sandbox's application. It belongs to one event loop."""

    def __init__(
        self,
        director: Director,
        *,
        keys: Keys | None = None,
        calls: list[Call] | None = None,
        price_of: PriceOf = catalogue_price,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.director = director
        self._clock, self._sleep = clock, sleep
        self.calls = [] if calls is None else calls
        self._price_of = price_of
        self._keys = {p: (k,) if isinstance(k, str) else tuple(k) for p, k in (keys or {}).items()}
        self._count = 0
        kinds = (
            AnthropicResponses, GeminiResponses,
            openai.GroqResponses, openai.OpenRouterResponses, openai.OpenAIResponses,
        )  # fmt: skip
        self._responses: dict[str, Responses] = {kind.provider: kind() for kind in kinds}
        self.batches = BatchRoutes(self)
        self.asgi = Starlette(routes=self._routes())

    def _routes(self) -> list[Route]:
        routes: list[Route] = []

        def post(path: str, provider: str, read: Reader) -> None:
            async def handle(request: Request) -> _Sending:
                return await self._post(request, provider, read)

            routes.append(Route(path, _Endpoint(handle), methods=["POST"]))

        def listing(path: str, provider: str | None, what: str = "models") -> None:
            async def handle(request: Request) -> _Sending:
                return self._get(request, provider, what)

            routes.append(Route(path, _Endpoint(handle), methods=["GET"]))

        for method, path, handler in self.batches.table():
            routes.append(Route(path, _Endpoint(self._batch_call(handler)), methods=[method]))
        post("/v1/messages", "anthropic", _read_messages)
        routes.append(Route("/v1/messages/count_tokens", _Endpoint(self._count_tokens), methods=["POST"]))
        post("/v1/chat/completions", "openai-compatible", _read_chat)
        post("/openai/v1/chat/completions", "groq", _read_chat)
        post("/api/v1/chat/completions", "openrouter", _read_chat)
        post("/{version:str}/models/{call:path}", "google-ai-studio", _read_generate)
        for prefix, provider in (
            ("/v1", None), ("/openai/v1", "groq"), ("/api/v1", "openrouter"), ("/v1beta", "google-ai-studio"),
        ):  # fmt: skip
            listing(f"{prefix}/models", provider)
            listing(f"{prefix}/models/{{model:path}}", provider, "model")
        routes.append(Route("/{path:path}", _Endpoint(self._unknown), methods=_METHODS))
        return routes

    async def _post(self, request: Request, provider: str, read: Reader) -> _Sending:
        exchange = self._exchange(provider, "chat")
        try:
            key = self._authorize(exchange.responses, request)
            exchange.body = await _body(request)
            ask = exchange.ask = read(exchange, request)
        except Refusal as refusal:
            return self._refused(exchange, refusal)
        return self._reply(exchange, ask, self.director.decide(ask, key))

    async def _count_tokens(self, request: Request) -> _Sending:
        exchange = self._exchange("anthropic", "count_tokens")
        try:
            self._authorize(exchange.responses, request)
            exchange.body = await _body(request)
            ask = parse_messages({"max_tokens": 1, **exchange.body}, version="2023-06-01")
        except Refusal as refusal:
            return self._refused(exchange, refusal)
        return self._plain(exchange, {"input_tokens": ask.input_tokens})

    def _batch_call(
        self, handler: Callable[[Request, str], Awaitable[Reply]]
    ) -> Callable[[Request], Awaitable[_Sending]]:
        async def handle(request: Request) -> _Sending:
            exchange = self._exchange(self.batches.provider_of(request), "batches")
            try:
                reply = await handler(request, self._authorize(exchange.responses, request))
            except Refusal as refusal:
                return self._refused(exchange, refusal)
            self._log(exchange, reply.status)
            headers = {**exchange.responses.headers(exchange.sent()), **reply.headers}
            return _Sending(Reply(reply.status, reply.body, headers=headers))

        return handle

    def now(self) -> float:
        """Epoch seconds of the sandbox's clock."""
        return self._clock()

    def answer_line(
        self, provider: str, key: str, body: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Ask]
    ) -> Reply:
        """What the chat endpoint would have said to one request of a batch."""
        exchange = self._exchange(provider, "chat")
        exchange.body, exchange.batch = body, True
        try:
            ask = exchange.ask = read(body)
        except Refusal as refusal:
            return self._refused(exchange, refusal).reply
        return self._reply(exchange, ask, self.director.decide(ask, key, batched=True)).reply

    def _reply(self, exchange: _Exchange, ask: Ask, decision: Decision) -> _Sending:
        """A decision as the provider's reply."""
        responses, script = exchange.responses, decision.script
        sent = exchange.sent(cost=self._cost(ask, decision), limits=decision.limits)
        if decision.failure is not None:
            reply = responses.error(decision.failure, sent)
        elif decision.answer is None:
            reply = Reply(headers=responses.headers(sent))
        else:
            reply = responses.answer(ask, decision.answer, sent)
        if script.status is not None:
            body = reply.body if decision.failure is not None and script.body is None else script.body
            raw = body.encode() if isinstance(body, str) else {} if body is None else body
            reply = Reply(script.status, raw, headers=_with_retry(reply.headers, script))
        self._log(exchange, reply.status, decision)
        return _Sending(reply, decision.latency, self._sleep)

    def _cost(self, ask: Ask, decision: Decision) -> Decimal | None:
        """List price of the call, for OpenRouter's `usage.cost`."""
        if decision.answer is None or ask.provider != "openrouter":
            return None
        price = self._price_of(ask.provider, ask.model)
        return price.cost(decision.answer.usage) if price else None

    def _get(self, request: Request, provider: str | None, what: str) -> _Sending:
        provider = provider or _owner_of_v1(request.headers)
        exchange = self._exchange(provider, "models")
        responses, scenario = exchange.responses, self.director.scenario
        try:
            if provider != "openrouter":  # OpenRouter's model list is public
                self._authorize(responses, request)
            if isinstance(responses, AnthropicResponses):
                check_version(request.headers)
            named = [m for m in scenario.models if "*" not in m]
            states = {m: scenario.state(m) for m in (*LISTED[provider], *named)}
            ids = [m for m, state in states.items() if state.listed and not state.gone]
            if what == "models":
                return self._plain(exchange, responses.models([i for i in ids if _belongs(i, provider)]))
            model = request.path_params["model"]
            if model not in ids:
                raise Refusal(Failure("model_gone", facts={"model": model}))
        except Refusal as refusal:
            return self._refused(exchange, refusal)
        return self._plain(exchange, responses.model(model))

    async def _unknown(self, request: Request) -> _Sending:
        self._log(self._exchange("openai-compatible", "unknown"), 404)
        message = f"Unknown request URL: {request.method} {request.url.path}"
        return _Sending(Reply(404, {"error": {"message": message}}))

    def _exchange(self, provider: str, endpoint: str) -> _Exchange:
        self._count += 1
        return _Exchange(self._responses[provider], endpoint, self._count, self._clock())

    def _authorize(self, responses: Responses, request: Request) -> str:
        """An opaque name for the caller's key, or a refusal."""
        key, accepted = responses.key_of(request.headers), self._keys.get(responses.provider)
        if key is None and accepted is None and responses.provider == "openai-compatible":
            return "anonymous"  # local servers ask for none
        if key is None:
            raise responses.missing_key()
        if accepted is not None and not any(hmac.compare_digest(key.encode(), a.encode()) for a in accepted):
            raise Refusal(Failure("bad_key"))
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    def _refused(self, exchange: _Exchange, refusal: Refusal) -> _Sending:
        reply = exchange.responses.error(refusal.failure, exchange.sent())
        self._log(exchange, reply.status, failure=refusal.failure)
        return _Sending(reply)

    def _plain(self, exchange: _Exchange, body: Any) -> _Sending:
        self._log(exchange, 200)
        return _Sending(Reply(body=body, headers=exchange.responses.headers(exchange.sent())))

    def _log(
        self,
        exchange: _Exchange,
        status: int,
        decision: Decision | None = None,
        failure: Failure | None = None,
    ) -> None:
        ask, answer = exchange.ask, decision.answer if decision else None
        failure = decision.failure if decision else failure
        self.calls.append(Call(
            number=exchange.number, provider=exchange.responses.provider, endpoint=exchange.endpoint,
            status=status, model=ask.model if ask else str(exchange.body.get("model", "")),
            prompt=ask.prompt if ask else "",
            stream=bool(ask and ask.stream), usage=answer.usage if answer else Usage(),
            billed=bool(decision and decision.billed), rule=decision.rule if decision else None,
            error=failure.kind if failure else None, request_id=exchange.request_id,
            text=answer.text if answer else "", body=exchange.body, at=exchange.at, batch=exchange.batch,
        ))  # fmt: skip


async def _body(request: Request) -> dict[str, Any]:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _MAX_BODY:
            raise Refusal(Failure("too_large"))
        parts.append(part)
    try:
        return parse_body(b"".join(parts))
    except ValueError as error:
        text = f"We could not parse the JSON body of your request: {error}"
        raise Refusal(Failure("invalid_request", text)) from None


def _read_messages(exchange: _Exchange, request: Request) -> Ask:
    return parse_messages(exchange.body, version=check_version(request.headers))


def _read_chat(exchange: _Exchange, request: Request) -> Ask:
    return parse_chat(exchange.body, provider=exchange.responses.provider)


def _read_generate(exchange: _Exchange, request: Request) -> Ask:
    version = request.path_params["version"]
    model, _, method = request.path_params["call"].rpartition(":")
    streamed = method == "streamGenerateContent"
    if streamed and request.query_params.get("alt") != "sse":
        refuse("The sandbox streams with alt=sse only.", "alt")
    if version not in ("v1", "v1beta") or not (streamed or method == "generateContent"):
        raise Refusal(Failure("model_gone", "Requested entity was not found."))
    return parse_generate(exchange.body, model=model, version=version, stream=streamed)


def _owner_of_v1(headers: Mapping[str, str]) -> str:
    """`/v1/models` is an address of three formats: the headers decide."""
    if "x-goog-api-key" in headers:
        return "google-ai-studio"
    return "anthropic" if "anthropic-version" in headers or "x-api-key" in headers else "openai-compatible"


def _belongs(model: str, provider: str) -> bool:
    """Whether a model that a scenario names is one of `provider`'s."""
    if any(model in ids for ids in LISTED.values()):
        return model in LISTED[provider]
    for start, owner in (("claude-", "anthropic"), ("gemini-", "google-ai-studio")):
        if model.startswith(start):
            return provider == owner
    if "/" not in model:  # Ollama's names have a tag, but no maker: `qwen3:8b`
        return provider in ("groq", "openai-compatible")
    return provider == "openrouter" or (":" not in model and provider in ("groq", "openai-compatible"))


def _with_retry(headers: Mapping[str, str], script: Script) -> dict[str, str]:
    wait = script.retry_after
    if wait is None:
        return dict(headers)
    return {**headers, "retry-after": wait if isinstance(wait, str) else f"{wait:g}"}


class _Endpoint:
    """An ASGI endpoint around a function from request to reply."""

    def __init__(self, handle: Callable[[Request], Awaitable[_Sending]]) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            sending = await self._handle(Request(scope, receive))
        except ClientDisconnect:
            return
        await sending.send(send)
