"""What a reply's usage means for its hold: the true cost, the bound, or a bill that cannot be right."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache

from tta_dev_primitives.blocks.ledger.cost_bound import (
    input_token_bound,
    plausible_usd,
    text_token_bound,
    token_ceiling,
)
from tta_dev_primitives.blocks.ledger.money import MAX_USD
from tta_dev_primitives.blocks.ledger.types import provider_key
from tta_dev_primitives.blocks.wire.reading import fewest_tokens
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest
from tta_dev_primitives.config.errors import UnknownPriceError
from tta_dev_primitives.config.models.catalogue import load_catalogue, today_utc
from tta_dev_primitives.config.models.price_lookup import OWN_PRICE, list_price
from tta_dev_primitives.config.models.targets import IMPLAUSIBLE, Target, Usage

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


@dataclass(frozen=True, slots=True)
class Bill:
    """How a reply is charged. `charge` None: what was billed is unknown, the bound is charged."""

    charge: Decimal | None
    flag: str | None = None
    note: str | None = None
    close_key: str | None = None
    """A model or provider that gets no paid call until a person has looked at its bill."""


def bill_of(
    target: Target, request: ChatRequest, usage: Usage, bound: Decimal, *, answered: str | None = None
) -> Bill:
    """Decide the charge of a paid call.

    Args:
        bound: What was reserved, USD.
        answered: The model that answered, when it is not the one that was asked: the dearer of the two counts.
    """
    problem = usage_problem(usage)
    if problem is not None:
        return Bill(None, flag=problem, note="no usable usage in the reply: charged at the bound")
    tokens = usage.total_input + usage.output_tokens
    usage = _without_false_zero(target, usage)
    cost = _cost(target, usage)
    if tokens > token_ceiling(target, request) or cost > plausible_usd(target, request) or cost > MAX_USD:
        return Bill(
            None,
            flag="disputed",
            note=f"{target.name} reported {tokens} tokens, more than it can take: charged at the bound",
            close_key=provider_key(target),
        )
    if answered is not None and usage.reported_cost_usd is None:
        cost = max(cost, min(_cost_at(target, answered, usage), MAX_USD))
    if cost > bound:
        return Bill(
            cost,
            flag="bound_broken",
            note=f"{target.name} billed {cost:f} USD for a call that was bounded at {bound:f}",
            close_key=target.key,
        )
    return Bill(cost, flag=usage.flag, note=None if usage.flag is None else _IMPLAUSIBLE_NOTE)


_IMPLAUSIBLE_NOTE = (
    "the usage in the reply cannot be right: what is missing is charged by the length of the text, "
    "at list price"
)


def _without_false_zero(target: Target, usage: Usage) -> Usage:
    """A reported cost of 0 for tokens of a paid model is no cost: the list price holds."""
    if usage.reported_cost_usd is None or usage.reported_cost_usd or target.api_model.endswith(":free"):
        return usage
    listed = replace(usage, reported_cost_usd=None)
    return replace(listed, flag=IMPLAUSIBLE) if _cost(target, listed) else usage


def free_bill_of(target: Target, request: ChatRequest, usage: Usage) -> Bill:
    """Decide the charge of a free call: nothing, unless the provider says that it took money."""
    problem = usage_problem(usage)
    if problem is not None:
        return Bill(Decimal(0), flag=problem)
    if usage.reported_cost_usd:
        cost = min(usage.reported_cost_usd, MAX_USD)
        note = f"{target.name} is declared free and billed {cost:f} USD"
        return Bill(cost, flag="free_billed", note=note, close_key=target.key)
    impossible = usage.total_input + usage.output_tokens > token_ceiling(target, request)
    return Bill(Decimal(0), flag="disputed" if impossible else usage.flag)


def list_value_of(target: Target, request: ChatRequest, usage: Usage) -> Decimal | None:
    """What the tokens cost at list price, USD; None when price or figures are not known."""
    if target.price is None or usage_problem(usage) is not None:
        return None
    if usage.total_input + usage.output_tokens > token_ceiling(target, request):
        return None
    return min(target.price.cost(usage), MAX_USD)


def other_model(target: Target, returned: str | None) -> str | None:
    """`returned` when it is another model than was asked for; a dated, prefixed or older spelling is not."""
    if not returned or returned == target.api_model or _words(target.api_model) == _words(returned):
        return None
    catalogue = load_catalogue()
    entry = catalogue.find(target.api_model, target.provider)
    return None if entry is not None and catalogue.find(returned, target.provider) is entry else returned


@lru_cache(maxsize=256)
def _words(model: str) -> tuple[str, ...]:
    """The words of a model name, in any order and without dates (OpenRouter: `claude-4.5-sonnet`)."""
    name = model.rpartition("/")[2].partition(":")[0].lower()
    return tuple(sorted(word for word in re.split(r"[-._@]", name) if not _NO_DIFFERENCE.fullmatch(word)))


_NO_DIFFERENCE = re.compile(
    r"[0-9]{6,8}|2[0-9][01][0-9]|20[2-9][0-9]|[01][0-9]{1,3}|2[0-9]|3[01]|latest|preview|"
)
"""Dates in all their spellings, revision numbers (`001`), nothing between two separators."""


def _cost_at(target: Target, model: str, usage: Usage) -> Decimal:
    """What another model of the provider asks for the same tokens, USD; 0 when unknown."""
    if target.price is not None and target.price.source == OWN_PRICE:
        return Decimal(
            0
        )  # a price that the user gave is what that address asks, whatever model answers there
    try:
        price = list_price(target.provider, model, catalogue=load_catalogue(), today=today_utc())
    except UnknownPriceError:
        return Decimal(0)
    return price.cost(usage)


def _cost(target: Target, usage: Usage) -> Decimal:
    if usage.reported_cost_usd is not None:
        return usage.reported_cost_usd
    return target.price.cost(usage) if target.price is not None else Decimal(0)
