"""Read what a provider sent without trusting it: tolerant where shapes drift, strict where money depends.

Nothing here raises on odd shapes: a wrong type reads as "not there". Only `decode_json` and `read_events`
raise, and only `Unreadable`, which the wire formats turn into a `ProviderError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from tta_dev_primitives.config.models.usage import Usage

__all__ = [
    "Unreadable",
    "at",
    "cost_of",
    "count_of",
    "decode_json",
    "flat",
    "is_event_stream",
    "json_or_none",
    "lower_headers",
    "obj",
    "rate_headers",
    "read_events",
    "seq",
    "settled",
    "text_of",
    "usage_of",
]

_MAX_COUNT = 10**15
"""Above this a token count is not a count; it also keeps products inside the ledger's 64-bit range."""
_RATE_HEADERS = ("anthropic-ratelimit-", "x-ratelimit-", "ratelimit-")
_KEPT_HEADERS = frozenset({"date", "retry-after", "retry-after-ms"})


class Unreadable(Exception):
    """The reply is not what its format promises; the text says how, without the body."""


def decode_json(body: bytes | str) -> Any:
    """Decode a JSON body; fractions stay exact (`Decimal`), NaN and Infinity become floats no reader takes.

    Raises:
        Unreadable: Not UTF-8, not JSON, nested too deep, or a number with thousands of digits.
    """
    try:
        text = body.decode("utf-8-sig") if isinstance(body, bytes) else body
        if not text.strip():
            raise Unreadable("the body is empty")
        return json.loads(text, parse_float=Decimal)
    except UnicodeDecodeError:
        raise Unreadable("the body is not UTF-8") from None
    except RecursionError:
        raise Unreadable("the JSON is nested too deep") from None
    except (ValueError, ArithmeticError):
        kind = "HTML" if text.lstrip()[:1] == "<" else "text that is not JSON"
        raise Unreadable(f"the body is {kind}") from None


def json_or_none(body: bytes) -> Any:
    """Decode the body of an error reply; None when a gateway answered in HTML or not at all."""
    try:
        return decode_json(body)
    except Unreadable:
        return None


def is_event_stream(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a reply is a stream of events: by its header, or, where a proxy lost that, by how it begins."""
    if "text/event-stream" in headers.get("content-type", ""):
        return True
    return body[:200].removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"data:", b"event:", b": "))


def read_events(text: str) -> Iterator[tuple[str, str]]:
    """Split server-sent events into (event name, data); comment lines and empty events are skipped."""
    name = ""
    text = text.removeprefix("\ufeff")
    data: list[str] = []
    for line in [*text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""]:
        if not line:
            if any(data):
                yield name, "\n".join(data)
            name, data = "", []
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line.startswith("event:"):
            name = line[6:].strip()


def obj(value: Any) -> Mapping[str, Any]:
    """Return `value` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def seq(value: Any) -> Sequence[Any]:
    """Return `value` if it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else ()


def at(value: Any, *path: str) -> Any:
    """Follow object keys; None where the path ends early."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def text_of(value: Any) -> str:
    """Return `value` if it is a string, else "". Lone surrogates (JSON allows them) become U+FFFD."""
    if not isinstance(value, str):
        return ""
    if value.isascii():
        return value
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def flat(value: Any, *, limit: int = 300) -> str:
    """One printable line of at most `limit` characters, for messages, ids and ledger columns."""
    line = " ".join(text_of(value).split())
    if not line.isprintable():
        line = "".join(c for c in line if c.isprintable())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def lower_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Header names in lower case; what is not ASCII in a value may be half a character and becomes `?`."""
    return {
        k.lower(): v if v.isascii() else v.encode("ascii", "replace").decode() for k, v in headers.items()
    }


def rate_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Keep the headers that tell quota and clock; all others may hold anything and are dropped."""
    return {k: v[:200] for k, v in headers.items() if k.startswith(_RATE_HEADERS) or k in _KEPT_HEADERS}


def count_of(value: Any) -> int | None:
    """Return a token count, or None for all that is not one: bool, fraction, string, negative, absurd."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT:
        return value
    return None


def cost_of(value: Any) -> Decimal | None:
    """Return a reported cost in USD as an exact decimal, or None for all that is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        return None
    try:
        cost = Decimal(value)
        usable = cost.is_finite() and 0 <= cost <= 1_000_000 and cost.adjusted() >= -30
    except InvalidOperation:
        return None
    return cost if usable or cost.is_zero() else None


def usage_of(
    *,
    required: Sequence[Any],
    optional: Sequence[Any] = (),
) -> str | None:
    """Return the flag of a usage block: required figures must be counts, optional ones may be absent."""
    if all(v is None for v in (*required, *optional)):
        return "usage_missing"
    good = all(count_of(v) is not None for v in required)
    good = good and all(v is None or count_of(v) is not None for v in optional)
    return None if good else "usage_invalid"


def settled(usage: Usage | None) -> bool:
    """Say whether `usage` can be charged as it stands."""
    return usage is not None and usage.flag is None
