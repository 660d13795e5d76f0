"""What every batch format translates from and to: lines, HTTP calls, states."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Literal
from urllib.parse import quote

from tta_dev_primitives.blocks.wire.reading import Unreadable, at, decode_json, obj, seq, text_of
from tta_dev_primitives.config.models.targets import Target

Progress = Literal["running", "ended", "failed"]


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request of a batch."""

    id: str
    """Comes back with the result: letters, digits, `-` and `_`, at most 64."""
    body: Mapping[str, Any]
    """As the chat endpoint takes it."""


@dataclass(frozen=True, slots=True)
class HttpCall:
    """One HTTP request of a batch API; the client adds address and key."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    body: bytes = b""
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """A batch as its provider sees it now."""

    id: str
    state: Progress
    """`failed`: the batch as a whole was refused, and none of its requests ran."""
    raw_state: str
    key: str | None = None
    """Our key, where the provider keeps metadata."""
    total: int | None = None
    succeeded: int | None = None
    """Requests that were answered, and are billed."""
    created_at: float | None = None
    error: str | None = None
    results: Sequence[str] = ()
    """Where the results are: paths, relative to the base address."""
    inline: Sequence[Any] = field(default=(), repr=False)
    """Results that came with the status (Gemini)."""
    file: str | None = None
    """Id of the uploaded requests."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state != "running"


@dataclass(frozen=True, slots=True)
class LineResult:
    """The result of one request. `status` and `body` are what the chat endpoint would have sent."""

    id: str
    kind: Literal["reply", "not_run"]
    """`not_run`: canceled or expired before it ran; it costs nothing."""
    status: int = 200
    body: bytes = field(default=b"", repr=False)
    note: str = ""
    request_id: str | None = None


class BatchFormat(ABC):
    """How one provider's batch API is spoken to; what most of them share is written here. Every function is pure."""

    path: str
    """Of the batches, relative to the base address."""
    page = "limit=100"
    """The query for the newest batches."""
    entries = "data"
    """Where a page keeps its batches."""
    most_lines = 10_000
    """Requests of one batch at most."""
    most_bytes = 64 * 1024 * 1024
    """Bytes of one batch at most."""

    def upload(self, lines: Sequence[BatchLine], key: str) -> HttpCall | None:
        """The upload of the lines; None where they travel with `submit`."""
        return None

    @abstractmethod
    def submit(self, target: Target, lines: Sequence[BatchLine], key: str, file: str | None) -> HttpCall:
        """Create the batch: from here on the provider may run it."""

    def look(self, batch: str) -> HttpCall:
        """Ask for the state of a batch."""
        return HttpCall("GET", f"{self.path}/{quote(batch, safe='')}")

    def cancel(self, batch: str) -> HttpCall:
        """Stop a batch; what has run by then is billed and comes back."""
        return HttpCall("POST", f"{self.path}/{quote(batch, safe='')}/cancel")

    def listing(self) -> HttpCall:
        """The newest batches of the account."""
        return HttpCall("GET", f"{self.path}?{self.page}")

    @abstractmethod
    def status(self, payload: Any) -> BatchStatus:
        """Read the reply of `submit`, `look` and `cancel`."""

    def statuses(self, payload: Any) -> list[BatchStatus]:
        """Read the reply of `listing`; Together sends a bare list."""
        entries = payload if isinstance(payload, list) else seq(at(payload, self.entries))
        return [self.status(entry) for entry in entries]

    @abstractmethod
    def result(self, line: Mapping[str, Any]) -> LineResult | None:
        """Read one line of a results file; None when it is no result."""

    def results(self, body: bytes) -> Iterator[LineResult]:
        """Read one results file."""
        return (found for line in json_lines(body) if (found := self.result(line)) is not None)

    def inline_results(self, status: BatchStatus) -> Iterator[LineResult]:
        """Read the results that came with the status."""
        return iter(())


def dumps(value: Any) -> bytes:
    """Compact JSON; a lone surrogate, which UTF-8 cannot carry, becomes `?`."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


def redumped(value: Any) -> bytes:
    """A part of a reply as JSON again, for the parser of the chat endpoint."""
    return json.dumps(value, ensure_ascii=False, default=float).encode("utf-8", "replace")


def json_lines(body: bytes) -> Iterator[Mapping[str, Any]]:
    """The objects of a JSONL file; a line that is none is left out, and its request counts as missing."""
    for line in BytesIO(body):
        if not line.strip():
            continue
        try:
            found = obj(decode_json(line))
        except Unreadable:
            continue
        if found:
            yield found


def required_id(payload: Any, *path: str) -> str:
    """The id of a batch or file."""
    found = text_of(at(payload, *path))
    if not found or len(found) > 400 or not found.isprintable():
        raise Unreadable(f"it holds no {'.'.join(path)}")
    return found
