"""Read what a provider sent without trusting it: tolerant where shapes drift, strict where money depends.

Nothing here raises on odd shapes: a wrong type reads as "not there". Only `decode_json` and `read_body` raise, and
only `Unreadable`, which the wire formats turn into a `ProviderError`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from html import unescape
from typing import Any

from tta_dev_primitives.config.models.targets import IMPLAUSIBLE, Usage

_MAX_COUNT = 10**15
"""Above this a token count is not a count; it also keeps products inside the ledger's 64-bit range."""
_RATE_HEADERS = ("anthropic-ratelimit-", "x-ratelimit-", "ratelimit-")
_KEPT_HEADERS = frozenset({"date", "retry-after", "retry-after-ms"})


class Unreadable(Exception):
    """The reply is not what its format promises; the text says how, without the body."""


@dataclass(frozen=True, slots=True)
class Body:
    """What a reply's bytes are, whatever its headers call them: one JSON value, or the text of an event stream."""

    value: Any = None
    stream: str | None = None


def read_body(headers: Mapping[str, str], body: bytes) -> Body:
    """Read the body of a good reply. The bytes decide; headers only break ties (`headers` in lower case).

    A stream may stand under the label of JSON and JSON under that of a stream; JSON may be followed by the marks
    of a stream, and JSON lines are a stream without its marks.

    Raises:
        Unreadable: It is neither JSON nor a stream of events.
    """
    text = decode_text(headers, body)
    bare = _COMMENTS.sub("", text).lstrip()
    if bare.startswith(("{", "[")):
        try:
            value, end = _DECODER.raw_decode(bare)
        except (ValueError, ArithmeticError, RecursionError):
            return Body(decode_json(bare))
        if all(map(_is_mark, bare[end:].splitlines())):
            return Body(value)
        lines = bare.splitlines()
        if all(line.strip()[:1] in ("{", "") for line in lines):
            return Body(stream="".join(f"data: {line}\n\n" for line in lines if line.strip()))
        return Body(decode_json(bare))
    if _STREAM_BEGINS.match(text) or (bare and "text/event-stream" in headers.get("content-type", "")):
        return Body(stream=text)
    return Body(decode_json(text))


_DECODER = json.JSONDecoder(parse_float=Decimal)
_COMMENTS = re.compile(r"\A(?:\s*:[^\n]*(?:\n|\Z))+")
_STREAM_BEGINS = re.compile(r"\s*(?:data|event|id|retry|):")


def _is_mark(line: str) -> bool:
    """Whether a line after the JSON says nothing: empty, a comment, or the end of a stream."""
    bare = line.strip()
    return not bare or bare.startswith((":", "event:")) or bare.removeprefix("data:").strip() == "[DONE]"


def decode_text(headers: Mapping[str, str], body: bytes) -> str:
    """The body as text: UTF-8 where it is that, else by its byte order mark or its charset, else as near as can be."""
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return body.decode("utf-16", "replace")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    named = _CHARSET.search(headers.get("content-type", ""))
    try:
        return body.decode(named[1] if named else "utf-8")
    except (LookupError, UnicodeError):
        text = body.decode("utf-8-sig", "replace")
    # One broken character in good UTF-8 stays one; a text of other bytes is what most old servers write.
    broken = text.count("\ufffd")
    good = sum(not c.isascii() for c in text) - broken
    return text if good >= broken else body.decode("cp1252", "replace")


_CHARSET = re.compile(r"charset=[\"']?([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)


def decode_json(body: bytes | str) -> Any:
    """Decode a JSON body; fractions stay exact (`Decimal`), NaN and Infinity become floats no reader takes.

    Raises:
        Unreadable: Not JSON, nested too deep, or a number with thousands of digits.
    """
    text = decode_text({}, body) if isinstance(body, bytes) else body
    try:
        if not text.strip():
            raise Unreadable("the body is empty")
        return json.loads(text, parse_float=Decimal)
    except RecursionError:
        raise Unreadable("the JSON is nested too deep") from None
    except (ValueError, ArithmeticError):
        kind = "HTML" if text.lstrip()[:1] == "<" else "text that is not JSON"
        raise Unreadable(f"the body is {kind}") from None


HTML = "html"
"""The `type` of an error that stands in a page for people: it comes from a gateway, not from the provider's API."""


def error_payload(headers: Mapping[str, str], body: bytes) -> Any:
    """The body of an error reply: its JSON, else its text or the title of its page in the shape of an error."""
    try:
        read = read_body(headers, body)
        if read.stream is None:
            return read.value
        events = [decode_json(data) for _, data in read_events(read.stream) if data.strip() != "[DONE]"]
        return events[0] if events else None
    except Unreadable:
        text = decode_text(headers, body).strip()
    if not text:
        return None
    if not text.startswith("<"):
        return {"error": {"message": text[:2000]}}
    shown = (_TITLE.search(text[:65_536]) or _HEADING.search(text[:65_536]) or ("", ""))[1]
    title = unescape(_TAG.sub(" ", shown))
    return {"error": {"message": title or "a page in HTML without a title", "type": HTML}}


_TITLE = re.compile(r"<title[^>]{0,200}>(.{1,300}?)</title", re.DOTALL | re.IGNORECASE)
_HEADING = re.compile(r"<h1[^>]{0,200}>(.{1,300}?)</h1", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<[^>]*>")


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


def usage_flag(*figures: Any) -> str | None:
    """The flag of a usage block: figures that are there must be counts; one that is left out reads as 0."""
    given = [figure for figure in figures if figure is not None]
    if not given:
        return "usage_missing"
    return None if all(count_of(figure) is not None for figure in given) else "usage_invalid"


def settled(usage: Usage | None) -> bool:
    """Say whether `usage` can be charged."""
    return usage is not None and usage.flag in (None, IMPLAUSIBLE)


# Tokenizers split at blanks and before marks; one mark may belong to the word after it (`.name`, `"The`), and a run of
# one character may be one token.
_PIECE = re.compile(r"[^\w\s]?[^\W_]+(?:['’][^\W_]+)*|[^\w\s]+")
_RUN = re.compile(r"(.)\1+")
_LONGEST_TOKEN = 24
"""Characters; longer words are made of several tokens by every known vocabulary."""


def fewest_tokens(text: str) -> int:
    """Tokens that no vocabulary comes below: one a word or group of marks, more for words of unusual length."""
    return sum(1 + len(_RUN.sub(r"\1", piece)) // _LONGEST_TOKEN for piece in _PIECE.findall(text))
