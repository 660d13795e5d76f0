"""Scenario files: what the sandbox answers, scripted by rules. Pure: text in, decisions out.

defaults: {latency: 0.05, verdict: accept}
models:
  claude-opus-4-0: {gone: true}
quotas:
  - {provider: groq, model: "llama-*", rpm: 30, tpm: 6000, rpd: 1000, reset: utc-day}
rules:                                   # the first that matches and is not used up answers
  - name: the first call is turned away
    match: {model: gemini-2.5-pro, prompt: solve, nth: 1}
    reply: {error: rate_limit, retry_after: 0.2}
  - match: {contains: "capital of France"}
    reply: {text: "Paris", usage: {input: 12, output: 1}}
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from tta_dev_primitives.deployments.sandbox.chat import Ask, ErrorKind, Finish

Provider = Literal["anthropic", "google-ai-studio", "groq", "openrouter", "openai-compatible"]
_SPAN = re.compile(r"(?:(\d{1,9})(?:\s*-\s*(\d{1,9})|\s*(\+))?|every\s+(\d{1,9}))", re.ASCII)
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def _pattern(value: str | None) -> str | None:
    if value is not None:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
    return value


Regex = Annotated[str, BeforeValidator(_pattern)]


def _span(text: object) -> tuple[int, int, int]:
    """`3` -> only the third; `2-4`; `5+`; `every 3`. As (first, last, step), with last 0 for no end."""
    found = _SPAN.fullmatch(str(text).strip())
    if not found:
        raise ValueError("write 3, '2-4', '5+', 'every 3' or a list of these")
    first, last, plus, every = found.groups()
    low = int(every or first)
    high = int(last) if last else 0 if plus or every else low
    if low < 1 or (high and high < low):
        raise ValueError("calls are counted from 1, the smaller first")
    return low, high, int(every or 1)


def _spans(value: Any) -> Any:
    return tuple(_span(one) for one in (value if isinstance(value, list) else [value]))


class Match(_Part):
    """What a call must be for a rule to answer it; every key given must hold."""

    provider: Provider | None = None
    model: str | None = None
    """API model id; `*` and `?` stand for anything."""
    prompt: Literal["plan", "verdict", "solve"] | None = None
    contains: str | None = None
    """In the last user message; upper and lower case alike."""
    regex: Regex | None = None
    nth: Annotated[tuple[tuple[int, int, int], ...], BeforeValidator(_spans)] | None = None
    """Which calls of that model, counted from 1: 3, "2-4", "5+", "every 3", or a list."""
    share: float | None = Field(default=None, gt=0, le=1)
    """This share of the calls, chosen by a hash of model and call number: the same in each run."""

    def holds(self, ask: Ask, nth: int) -> bool:
        """Whether `ask`, the `nth` call of its model, is meant."""
        return (
            self.provider in (None, ask.provider)
            and (self.model is None or fnmatch.fnmatchcase(ask.model, self.model))
            and self.prompt in (None, ask.prompt)
            and (self.contains is None or self.contains.casefold() in ask.user.casefold())
            and (self.regex is None or re.search(self.regex, ask.user) is not None)
            and (self.nth is None or any(_in(nth, span) for span in self.nth))
            and (self.share is None or _fraction(ask.provider, ask.model, nth) < self.share)
        )


def _in(nth: int, span: tuple[int, int, int]) -> bool:
    first, last, step = span
    return nth >= first and (not last or nth <= last) and (nth - first) % step == 0


def _fraction(*parts: object) -> float:
    digest = hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


class UsageScript(_Part):
    """Token counts that the reply reports and that are billed."""

    input: int = Field(default=0, ge=0)
    output: int = Field(default=0, ge=0)
    thinking: int = Field(default=0, ge=0)
    """Of `output`, so many are hidden thoughts."""
    cache_read: int = Field(default=0, ge=0)
    cache_write: int = Field(default=0, ge=0)
    cost: Decimal | None = Field(default=None, ge=0)
    """OpenRouter's own cost in USD."""
    raw: dict[str, Any] | None = None
    """Merged over the provider's usage object as it goes out: may say anything, also nonsense."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.thinking > self.output:
            raise ValueError("thinking is a part of output, so it cannot be larger")
        return self


class Reply(_Part):
    """An answer or an error, and the time it takes."""

    text: str | None = None
    json_: Any = Field(default=None, alias="json")
    verdict: Literal["accept", "reject"] | None = None
    thinking: str = ""
    finish: Finish | None = None
    usage: Literal["missing", "invalid"] | UsageScript | None = None

    error: ErrorKind | None = None
    message: str | None = None
    status: int | None = Field(default=None, ge=200, le=599)
    body: Any = None
    retry_after: float | str | None = None

    latency: Seconds | tuple[Seconds, Seconds] | None = None

    @field_validator("json_", "body", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return json.loads(json.dumps(value, allow_nan=False, default=_number))

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [n for n in ("text", "verdict", "error", "status") if getattr(self, n) is not None]
        given += ["json"] if self.json_ is not None else []
        given = [n for n in given if not (n == "status" and "error" in given)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        if self.body is not None and self.status is None and self.error is None:
            raise ValueError("body needs a status")
        if isinstance(self.retry_after, str) and (not self.retry_after.isascii() or "\n" in self.retry_after):
            raise ValueError("retry_after must be seconds or the text of a header")
        return self


def _number(value: Any) -> float:
    if isinstance(value, Decimal):  # how the strict YAML reader gives fractions
        return float(value)
    raise ValueError(f"{type(value).__name__} is no JSON value")


class Rule(_Part):
    """The calls that `match` means get `reply`, at most `times` of them."""

    name: str = ""
    match: Match = Match()
    reply: Reply = Reply()
    times: int | None = Field(default=None, ge=1)


class Quota(_Part):
    """Limits of one key, for each model that matches."""

    provider: Provider | None = None
    model: str = "*"
    rpm: int | None = Field(default=None, ge=0)
    rpd: int | None = Field(default=None, ge=0)
    tpm: int | None = Field(default=None, ge=0)
    tpd: int | None = Field(default=None, ge=0)
    reset: Literal["sliding", "utc-day", "pacific-day"] | None = None
    """How rpd and tpd come back: each call after 24 hours, or all at midnight. Unsaid: as Gemini does it for
    google-ai-studio (midnight US/Pacific), sliding for the others. Minutes always slide."""

    def holds(self, provider: str, model: str) -> bool:
        """Whether this limit is about `model`."""
        return self.provider in (None, provider) and fnmatch.fnmatchcase(model, self.model)


class Model(_Part):
    """State of one model id (or pattern)."""

    gone: bool = False
    """The provider no longer serves it, nor shows it in its list."""


class BatchScript(_Part):
    """How batches go."""

    delay: Seconds | tuple[Seconds, Seconds] = 0.0
    """Seconds until a batch has its results."""
    expire_after: int | None = Field(default=None, ge=0)
    """So many requests of each batch are answered; the others expire."""
    lose: int = Field(default=0, ge=0)
    """Results that are answered and billed, and missing from what is sent."""
    repeat: int = Field(default=0, ge=0)
    """Results that are sent twice."""
    refuse: ErrorKind | None = None
    """How the first batches are refused."""
    refuse_first: int = Field(default=1_000_000, ge=0)
    lose_reply_of_first: int = Field(default=0, ge=0)
    """So many batches are created and answered with a gateway's timeout."""


class Defaults(_Part):
    """What rules do not say."""

    latency: Seconds | tuple[Seconds, Seconds] = 0.0
    verdict: Literal["accept", "reject"] = "accept"


class Scenario(_Part):
    """A whole scenario file."""

    version: Literal[1] = 1
    defaults: Defaults = Defaults()
    models: dict[str, Model] = Field(default_factory=dict)
    quotas: tuple[Quota, ...] = ()
    rules: tuple[Rule, ...] = ()
    batches: BatchScript = BatchScript()

    @field_validator("rules")
    @classmethod
    def _named(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        return tuple(
            r if r.name else r.model_copy(update={"name": f"rules[{n}]"}) for n, r in enumerate(rules)
        )

    def state(self, model: str) -> Model:
        """The first entry of `models` that means `model`."""
        for pattern, state in self.models.items():
            if fnmatch.fnmatchcase(model, pattern):
                return state
        return Model()


def latency_of(latency: float | tuple[float, float], *parts: object) -> float:
    """Seconds to wait: a fixed value, or one of the range that is the same in each run."""
    if isinstance(latency, tuple):
        low, high = latency
        return low + (high - low) * _fraction("latency", *parts)
    return latency
