"""The HTTP application: routes of the four wire formats, keys, and the steps from request to reply."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tta_dev_primitives.deployments.sandbox.anthropic.requests import parse_messages
from tta_dev_primitives.deployments.sandbox.anthropic.responses import AnthropicResponses, check_version
from tta_dev_primitives.deployments.sandbox.batches import BatchRoutes, owner_of
from tta_dev_primitives.deployments.sandbox.batches import Handler as BatchHandler
from tta_dev_primitives.deployments.sandbox.calls import Call, PriceOf, catalogue_price
from tta_dev_primitives.deployments.sandbox.chat import Ask, Failure, Refusal
from tta_dev_primitives.deployments.sandbox.gemini.requests import parse_generate
from tta_dev_primitives.deployments.sandbox.gemini.responses import GeminiResponses
from tta_dev_primitives.deployments.sandbox.http_reply import RateLimit, Reply, Sent, data, retry_after
from tta_dev_primitives.deployments.sandbox.openai import responses as openai
from tta_dev_primitives.deployments.sandbox.openai.requests import parse_chat
from tta_dev_primitives.deployments.sandbox.requests import parse_body, refuse
from tta_dev_primitives.deployments.sandbox.scenario.director import Decision, Director

Keys = Mapping[str, str | Sequence[str]]
Responses = AnthropicResponses | GeminiResponses | openai.OpenAIResponses
_MAX_BODY = 32 * 1_048_576


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
        self.director, self.now = director, clock
        self.calls = [] if calls is None else calls
        self._sleep, self._price_of = sleep, price_of
        self._keys = {p: (k,) if isinstance(k, str) else tuple(k) for p, k in (keys or {}).items()}
        self._count = 0
        kinds = (
            AnthropicResponses, GeminiResponses,
            openai.GroqResponses, openai.OpenRouterResponses, openai.OpenAIResponses,
        )  # fmt: skip
        self._responses: dict[str, Responses] = {kind.provider: kind() for kind in kinds}
        self.batches = BatchRoutes(self)
        ends: dict[Any, Any] = {
            Refusal: self._refused, ClientDisconnect: _hung_up, 404: self._unknown, 405: self._unknown,
        }  # fmt: skip
        self.asgi = Starlette(routes=self._routes(), exception_handlers=ends)
        self.asgi.router.redirect_slashes = False

    def _routes(self) -> list[Route]:
        chats = {
            "/v1/messages": "anthropic", "/v1/chat/completions": "openai-compatible",
            "/openai/v1/chat/completions": "groq", "/api/v1/chat/completions": "openrouter",
            "/{version:str}/models/{call:path}": "google-ai-studio",
        }  # fmt: skip
        lists = ("/v1", "/openai/v1", "/api/v1", "/v1beta")
        return [
            *(Route(path, partial(self._batch, answer), methods=[m]) for m, path, answer in self.batches.table()),
            *(Route(path, partial(self._chat, provider), methods=["POST"]) for path, provider in chats.items()),
            *(Route(f"{prefix}/models", self._models) for prefix in lists),
        ]  # fmt: skip

    async def _chat(self, provider: str, request: Request) -> Response:
        call = request.state.call = self._call(provider, "chat")
        key = self._authorize(provider, request)
        call.body = await _body(request)
        ask = _read(provider, call.body, **_addressed(provider, request))
        decision = self.director.decide(ask, key)
        reply = self._reply(call, ask, decision)
        if decision.latency:
            await self._sleep(decision.latency)
        return reply.http()

    async def _batch(self, answer: BatchHandler, request: Request) -> Response:
        provider = owner_of(request)
        call = request.state.call = self._call(provider, "batches")
        return self._logged(call, await answer(request, self._authorize(provider, request))).http()

    def answer_line(self, provider: str, key: str, body: Mapping[str, Any], model: str) -> Reply:
        """What the chat endpoint would have said to one request of a batch."""
        call = self._call(provider, "chat")
        call.body, call.batch = body, True
        try:
            ask = _read(provider, body, model=model)
        except Refusal as refusal:
            return self._refusal(call, refusal)
        return self._reply(call, ask, self.director.decide(ask, key, batched=True))

    def _reply(self, call: Call, ask: Ask, decision: Decision) -> Reply:
        """A decision as the provider's reply."""
        responses, script, answer = self._responses[call.provider], decision.script, decision.answer
        price = self._price_of(ask.provider, ask.model) if answer and ask.provider == "openrouter" else None
        cost = price.cost(answer.usage) if price and answer else None
        sent = _sent(call, cost, decision.limits)
        if decision.failure is not None:
            reply = responses.error(decision.failure, sent)
            call.error = decision.failure.kind
        elif answer is None:
            reply = Reply()
        else:
            reply = responses.answer(ask, answer, sent)
            call.usage, call.text = answer.usage, answer.text
        if script.status is not None:
            body = reply.body if decision.failure is not None and script.body is None else script.body
            raw = body.encode() if isinstance(body, str) else {} if body is None else body
            reply = Reply(script.status, raw, headers={**reply.headers, **retry_after(script.retry_after)})
        call.model, call.prompt, call.stream = ask.model, ask.prompt, ask.stream
        call.billed, call.rule = answer is not None, decision.rule
        return self._logged(call, reply, sent)

    async def _models(self, request: Request) -> Response:
        provider = owner_of(request)
        call = request.state.call = self._call(provider, "models")
        if provider != "openrouter":  # OpenRouter's model list is public
            self._authorize(provider, request)
        if provider == "anthropic":
            check_version(request.headers)
        scenario = self.director.scenario
        named = [m for m in scenario.models if "*" not in m and _belongs(m, provider)]
        ids = [
            m
            for m in dict.fromkeys((*data("models.yaml")[provider]["ids"], *named))
            if not scenario.state(m).gone
        ]
        return self._logged(call, Reply(body=self._responses[provider].models(ids))).http()

    async def _unknown(self, request: Request, _: Exception) -> Response:
        message = f"Unknown request URL: {request.method} {request.url.path}"
        call = self._call("openai-compatible", "unknown")
        return self._logged(call, Reply(404, {"error": {"message": message}})).http()

    def _call(self, provider: str, endpoint: str) -> Call:
        self._count += 1
        return Call(self._count, provider, endpoint, at=self.now())

    def _authorize(self, provider: str, request: Request) -> str:
        """An opaque name for the caller's key, or a refusal."""
        responses, accepted = self._responses[provider], self._keys.get(provider)
        key = responses.key_of(request.headers)
        if key is None and accepted is None and provider == "openai-compatible":
            return "anonymous"  # local servers ask for none
        if key is None:
            raise Refusal(responses.no_key)
        if accepted is not None and not any(hmac.compare_digest(key.encode(), a.encode()) for a in accepted):
            raise Refusal(Failure("bad_key"))
        return hashlib.sha256(key.encode()).hexdigest()[:16]

    async def _refused(self, request: Request, refusal: Refusal) -> Response:
        return self._refusal(request.state.call, refusal).http()

    def _refusal(self, call: Call, refusal: Refusal) -> Reply:
        call.model, call.error = call.model or str(call.body.get("model", "")), refusal.failure.kind
        return self._logged(call, self._responses[call.provider].error(refusal.failure, _sent(call)))

    def _logged(self, call: Call, reply: Reply, sent: Sent | None = None) -> Reply:
        """The reply, with the provider's headers, and its call in the books."""
        call.status = reply.status
        self.calls.append(call)
        headers = self._responses[call.provider].headers(sent or _sent(call))
        return replace(reply, headers={**headers, **reply.headers})


def _sent(call: Call, cost: Decimal | None = None, limits: Sequence[RateLimit] = ()) -> Sent:
    return Sent(call.number, call.at, call.request_id, cost, limits)


async def _hung_up(request: Request, _: Exception) -> Response:
    return Response(status_code=499)


async def _body(request: Request) -> dict[str, Any]:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _MAX_BODY:
            raise Refusal(Failure("too_large"))
        parts.append(part)
    return parse_body(b"".join(parts))


def _addressed(provider: str, request: Request) -> dict[str, Any]:
    """What the address and the headers say of a chat request."""
    if provider == "anthropic":
        return {"version": check_version(request.headers)}
    if provider != "google-ai-studio":
        return {}
    version, (model, _, method) = request.path_params["version"], request.path_params["call"].rpartition(":")
    streamed = method == "streamGenerateContent"
    if streamed and request.query_params.get("alt") != "sse":
        refuse("The sandbox streams with alt=sse only.", "alt")
    if version not in ("v1", "v1beta") or not (streamed or method == "generateContent"):
        raise Refusal(Failure("model_gone", "Requested entity was not found."))
    return {"model": model, "version": version, "stream": streamed}


def _read(
    provider: str, body: Mapping[str, Any], *, version: str = "", model: str = "", stream: bool = False
) -> Ask:
    """A request body in its provider's format; without a version, one of a batch."""
    if provider == "anthropic":
        return parse_messages(body, version=version or "2023-06-01")
    if provider == "google-ai-studio":
        return parse_generate(body, model=model, version=version or "v1beta", stream=stream)
    return parse_chat(body, provider=provider)


def _belongs(model: str, provider: str) -> bool:
    """Whether a model that a scenario names is one of `provider`'s."""
    if owners := [name for name, listed in data("models.yaml").items() if model in listed["ids"]]:
        return provider in owners
    for start, owner in (("claude-", "anthropic"), ("gemini-", "google-ai-studio")):
        if model.startswith(start):
            return provider == owner
    if "/" not in model:  # Ollama's names have a tag, but no maker: `qwen3:8b`
        return provider in ("groq", "openai-compatible")
    return provider == "openrouter" or (":" not in model and provider in ("groq", "openai-compatible"))
