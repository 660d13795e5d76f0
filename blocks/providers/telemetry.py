"""OpenTelemetry spans around provider calls, by the GenAI semantic conventions, without any prompt or answer.

Without the OpenTelemetry API nothing happens; without an SDK its spans are no-ops.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from tta_dev_primitives.blocks.providers.address_rules import Base
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest
from tta_dev_primitives.config.models.targets import Target, Usage
from tta_dev_primitives.config.provider_errors import ProviderError

# The conventions' own names; a provider without one goes by its name here.
_WELL_KNOWN = {"google-ai-studio": "gcp.gemini", "openai-compatible": "openai"}


class CallSpan:
    """The span of one call; tell it the reply."""

    def __init__(self, span: Any) -> None:
        self._span = span

    def reply(self, reply: ChatReply) -> None:
        """Record what came back: model, finish reason and token counts."""
        if self._span is None:
            return
        self._span.set_attribute("gen_ai.response.finish_reasons", [reply.finish])
        if reply.model_returned:
            self._span.set_attribute("gen_ai.response.model", reply.model_returned)
        if reply.reply_id:
            self._span.set_attribute("gen_ai.response.id", reply.reply_id)
        for name, tokens in _usage(reply.usage).items():
            self._span.set_attribute(name, tokens)


def _usage(usage: Usage) -> dict[str, int]:
    """Token counts; nothing when the provider's cannot be trusted. Parts of a sum stand there only when not zero."""
    if usage.flag is not None:
        return {}
    parts = {
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.thinking_tokens,
    }
    sums = {
        "gen_ai.usage.input_tokens": usage.total_input,
        "gen_ai.usage.output_tokens": usage.output_tokens,
    }
    return sums | {name: tokens for name, tokens in parts.items() if tokens}


def chat_span(target: Target, base: Base, request: ChatRequest) -> AbstractContextManager[CallSpan]:
    """Open a client span named `chat <model>`; a failure sets `error.type` to the error class."""
    try:
        from opentelemetry import trace
    except ImportError:
        return _NO_SPAN
    # No SDK is set up: a span that goes nowhere costs a twentieth of a call.
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return _NO_SPAN
    return _real_span(target, base, request)


_NO_SPAN = nullcontext(CallSpan(None))


@contextmanager
def _real_span(target: Target, base: Base, request: ChatRequest) -> Iterator[CallSpan]:
    from opentelemetry import trace

    tracer = trace.get_tracer("tta_dev_primitives")
    attributes: dict[str, str | int] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _WELL_KNOWN.get(target.provider, target.provider),
        "gen_ai.request.model": target.api_model,
        "gen_ai.request.max_tokens": request.max_output_tokens,
        "gen_ai.output.type": "text" if request.json_schema is None else "json",
        "server.address": base.host,
        "server.port": base.port,
    }
    with tracer.start_as_current_span(
        f"chat {target.api_model}",
        kind=trace.SpanKind.CLIENT,
        attributes=attributes,
        # The exception's text is recorded by neither: it may quote the provider, who may quote the prompt.
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield CallSpan(span)
        except BaseException as error:
            kind = str(error.error_class) if isinstance(error, ProviderError) else type(error).__name__
            span.set_attribute("error.type", kind)
            span.set_status(trace.StatusCode.ERROR, kind)
            raise
