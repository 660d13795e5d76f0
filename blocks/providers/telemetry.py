"""OpenTelemetry spans around provider calls, by the GenAI semantic conventions, without any prompt or answer.

Without an SDK nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from tta_dev_primitives.blocks.providers.address_rules import Base
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ProviderError

# The conventions' own names; a provider without one goes by its name here.
_WELL_KNOWN = {"google-ai-studio": "gcp.gemini", "openai-compatible": "openai"}


Record = Callable[[ChatReply], None]


def chat_span(target: Target, base: Base, request: ChatRequest) -> AbstractContextManager[Record]:
    """Open a client span named `chat <model>`, which takes the reply; a failure sets `error.type` to its class."""
    from opentelemetry import trace

    # No SDK is set up: a span that goes nowhere costs a twentieth of a call.
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return nullcontext(lambda _: None)
    return _real_span(target, base, request)


@contextmanager
def _real_span(target: Target, base: Base, request: ChatRequest) -> Iterator[Record]:
    from opentelemetry import trace

    attributes: dict[str, str | int] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _WELL_KNOWN.get(target.provider, target.provider),
        "gen_ai.request.model": target.api_model,
        "gen_ai.request.max_tokens": request.max_output_tokens,
        "gen_ai.output.type": "text" if request.json_schema is None else "json",
        "server.address": base.host,
        "server.port": base.port,
    }
    with trace.get_tracer("tta_dev_primitives").start_as_current_span(
        f"chat {target.api_model}",
        kind=trace.SpanKind.CLIENT,
        attributes=attributes,
        # The exception's text is recorded by neither: it may quote the provider, who may quote the prompt.
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield lambda reply: span.set_attributes(_of_reply(reply))
        except BaseException as error:
            kind = str(error.error_class) if isinstance(error, ProviderError) else type(error).__name__
            span.set_attribute("error.type", kind)
            span.set_status(trace.StatusCode.ERROR, kind)
            raise


def _of_reply(reply: ChatReply) -> dict[str, Any]:
    """Model, finish reason, and token counts where the provider's can be trusted; what is absent is left out."""
    usage = reply.usage
    found: dict[str, Any] = {
        "gen_ai.response.finish_reasons": [reply.finish],
        "gen_ai.response.model": reply.model_returned,
        "gen_ai.response.id": reply.reply_id,
    }
    if usage.flag is None:
        found |= {
            "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
            "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.thinking_tokens,
        }
    found = {name: value for name, value in found.items() if value}
    if usage.flag is None:
        found["gen_ai.usage.input_tokens"] = usage.total_input
        found["gen_ai.usage.output_tokens"] = usage.output_tokens
    return found
