"""What the responses of all providers share: facts of a call, whole replies, small writing helpers."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.resources import files
from typing import Any, ClassVar, NamedTuple

import yaml
from starlette.responses import Response, StreamingResponse

from tta_dev_primitives.deployments.sandbox.chat import Answer, Failure


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What is left of one limit (`metric` is rpm, rpd, tpm or tpd), full again in `reset_s` seconds."""

    metric: str
    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Sent:
    """Facts of one call that go into its reply."""

    number: int
    at: float
    """Unix time."""
    request_id: str
    cost: Decimal | None = None
    """List price of the call in USD, if known (OpenRouter's `usage.cost`)."""
    limits: Sequence[RateLimit] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole HTTP reply: a JSON body, or a list of chunks to stream."""

    status: int = 200
    body: Any = None
    chunks: Sequence[bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def http(self) -> Response:
        """The reply as it goes out."""
        if self.chunks is not None:
            return StreamingResponse(_each(self.chunks), self.status, self.headers, "text/event-stream")
        content = self.body if isinstance(self.body, bytes) else dumps(self.body)
        return Response(content, self.status, self.headers, "application/json")


async def _each(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def token(*parts: object, length: int = 24) -> str:
    """An id that is the same for the same parts."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode("utf-8", "replace")).hexdigest()
    return digest[:length]


def pieces(text: str, *, most: int = 8) -> Iterator[str]:
    """Cut `text` into up to `most` pieces for a stream; nothing for an empty text."""
    size = max(12, -(-len(text) // most))
    for start in range(0, len(text), size):
        yield text[start : start + size]


def overridden(usage: dict[str, Any], answer: Answer, invalid: Mapping[str, Any]) -> dict[str, Any]:
    """The usage object as it goes out: as it is, made `invalid`, or with the script's own fields."""
    if answer.usage_override == "invalid":
        return usage | dict(invalid)
    return usage | answer.usage_override if isinstance(answer.usage_override, dict) else usage


METRIC = {"rate_limit": "rpm", "token_limit": "tpm", "daily_limit": "rpd", "request_over_limit": "tpm"}
"""The limit that an error kind means when the failure names none."""


class ErrorForm(NamedTuple):
    """One failure in the words of one provider."""

    status: int
    type: str
    code: str | None
    message: str


@functools.cache
def data(name: str) -> dict[str, dict[str, Any]]:
    """A data file of the sandbox, by provider."""
    text = files("tta_dev_primitives.deployments.sandbox").joinpath(name).read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return found


def error_form(provider: str, failure: Failure) -> ErrorForm:
    """The row of `failure` with its message; a failure's own message wins over the table's."""
    status, kind, code, text = data("errors.yaml")[provider][failure.kind]
    facts = {"model": "", "version": "v1beta", "limit": failure.limit or 50, **failure.facts}
    return ErrorForm(status, kind, code, failure.message or text.format(**facts))


def retry_after(wait: float | str | None) -> dict[str, str]:
    """The header of a wait in seconds, or of the text that shall be sent; none of None."""
    return {} if wait is None else {"retry-after": wait if isinstance(wait, str) else f"{wait:g}"}


class ProviderResponses:
    """What the responses of all providers do alike: the key of a request, the model list."""

    provider: ClassVar[str]
    key_header: ClassVar[str] = "authorization"
    """Where a key stands, before a bearer token is looked for."""
    no_key: ClassVar[Failure]
    """How a request without a key is refused."""

    def shown(self, ids: Sequence[str], **more: Callable[[str], Any]) -> list[dict[str, Any]]:
        """The entries of the model list, with the fields that depend on a model's id."""
        fields = data("models.yaml")[self.provider]["shown"]
        return [fields | {name: of(model) for name, of in more.items()} for model in ids]

    def key_of(self, headers: Mapping[str, str]) -> str | None:
        """The caller's key: of the provider's own header, or a bearer token."""
        if self.key_header != "authorization" and self.key_header in headers:
            return headers[self.key_header] or None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        return key.strip() or None if scheme.lower() == "bearer" else None
