"""Usage against the exchange it belongs to: counts that cannot be right are filled from the length of the text. Pure.

A prompt is never 0 tokens and a text never 0. What is missing is charged at one token a byte, the bound that the hold
was made of; so a charge never passes its hold because of what is filled in here.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from tta_dev_primitives.blocks.ledger.cost_bound import input_token_bound, text_token_bound
from tta_dev_primitives.blocks.wire.counting import fewest_tokens
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest
from tta_dev_primitives.config.models.usage import IMPLAUSIBLE, Usage

_SLACK = 32


def with_checked_usage(request: ChatRequest, reply: ChatReply) -> ChatReply:
    """The reply with counts that its text allows."""
    usage = checked_usage(
        request, reply.usage, text=reply.text, thoughts=reply.reasoning, cut=reply.finish == "length"
    )
    return reply if usage is reply.usage else replace(reply, usage=usage)


def checked_usage(
    request: ChatRequest, usage: Usage, *, text: str = "", thoughts: str = "", cut: bool = False
) -> Usage:
    """`usage`, or the same with what is missing filled in and the flag `usage_implausible`.

    Args:
        request: What was sent.
        usage: What the provider reported.
        text: The answer.
        thoughts: What the provider shows of the model's thoughts.
        cut: The answer ended at its token limit, so some tokens were made.
    """
    if usage_problem(usage) is not None or usage.reported_cost_usd:
        # Without any counts the whole bound is charged; a cost that the provider states needs none.
        return usage
    prompt = "\n".join([request.system or "", *(message.content for message in request.messages)])
    asked, written = usage.total_input, usage.output_tokens
    if not asked or asked < fewest_tokens(prompt) // 8 - _SLACK:
        asked = max(asked, input_token_bound(request))
    if not written and cut:
        written = request.max_output_tokens
    elif written < max(bool(text or thoughts), fewest_tokens(text) // 4 - _SLACK):
        written = max(written, min(text_token_bound(text + thoughts), request.max_output_tokens))
    if (asked, written) == (usage.total_input, usage.output_tokens):
        return usage
    fresh = asked - usage.cache_read_tokens - usage.cache_write_tokens
    return replace(usage, input_tokens=fresh, output_tokens=written, flag=IMPLAUSIBLE)


def usage_problem(usage: Usage) -> str | None:
    """Why a usage cannot be charged. The wire formats flag theirs; this holds for any other source too."""
    if usage.flag not in (None, IMPLAUSIBLE):
        return usage.flag
    counts = (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens, usage.output_tokens)
    if any(type(count) is not int or count < 0 for count in (*counts, usage.cache_write_1h_tokens)):
        return "usage_invalid"
    cost = usage.reported_cost_usd
    if cost is not None and (not isinstance(cost, Decimal) or not cost.is_finite() or cost < 0):
        return "usage_invalid"
    # A request has a prompt, so its tokens are never none: the figures were left at zero.
    return "usage_missing" if cost is None and not sum(counts) else None
