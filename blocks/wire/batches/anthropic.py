"""Anthropic Message Batches. Source: the official SDK's types (`anthropic.types.messages`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from tta_dev_primitives.blocks.wire.batches.types import (
    BatchLine,
    BatchStatus,
    HttpCall,
    LineResult,
    dumps,
    json_lines,
    redumped,
    required_id,
)
from tta_dev_primitives.blocks.wire.reading import at, count_of, flat, seq, text_of
from tta_dev_primitives.blocks.wire.retry_after import parse_instant
from tta_dev_primitives.config.models.targets import Target

_PATH = "/v1/messages/batches"
_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}


class AnthropicBatches:
    """The requests travel with the creation; there is no metadata, so a lost batch is found by its ids."""

    most_lines = 10_000
    most_bytes = 32 * 1024 * 1024

    def upload(self, lines: Sequence[BatchLine], key: str) -> HttpCall | None:
        """Nothing is uploaded."""
        return None

    def submit(self, target: Target, lines: Sequence[BatchLine], key: str, file: str | None) -> HttpCall:
        """Create the batch."""
        requests = [{"custom_id": line.id, "params": dict(line.body)} for line in lines]
        return HttpCall("POST", _PATH, dumps({"requests": requests}))

    def look(self, batch: str) -> HttpCall:
        """Ask for the state."""
        return HttpCall("GET", f"{_PATH}/{quote(batch, safe='')}")

    def cancel(self, batch: str) -> HttpCall:
        """Stop it; what has run by then is billed."""
        return HttpCall("POST", f"{_PATH}/{quote(batch, safe='')}/cancel")

    def listing(self) -> HttpCall:
        """The newest hundred."""
        return HttpCall("GET", f"{_PATH}?limit=100")

    def status(self, payload: Any) -> BatchStatus:
        """Read a `message_batch`."""
        name, raw = required_id(payload, "id"), text_of(at(payload, "processing_status"))
        counts = [
            count_of(at(payload, "request_counts", kind))
            for kind in ("processing", "succeeded", "errored", "canceled", "expired")
        ]
        return BatchStatus(
            id=name,
            state="ended" if raw == "ended" else "running",
            raw_state=flat(raw, limit=40),
            total=None if None in counts else sum(count or 0 for count in counts),
            succeeded=counts[1],
            created_at=parse_instant(at(payload, "created_at")),
            # The address in `results_url` is not followed: a key goes to the configured host only.
            results=(f"{_PATH}/{quote(name, safe='')}/results",) if raw == "ended" else (),
        )

    def statuses(self, payload: Any) -> list[BatchStatus]:
        """Read a page of batches."""
        return [self.status(entry) for entry in seq(at(payload, "data"))]

    def results(self, body: bytes) -> Iterator[LineResult]:
        """Read the results."""
        for line in json_lines(body):
            name, kind = text_of(at(line, "custom_id")), text_of(at(line, "result", "type"))
            if kind == "succeeded":
                yield LineResult(name, "reply", 200, redumped(at(line, "result", "message")))
            elif kind == "errored":
                error = at(line, "result", "error")
                status = _STATUS_OF_TYPE.get(text_of(at(error, "error", "type")), 500)
                yield LineResult(name, "reply", status, redumped(error))
            elif kind in ("canceled", "expired"):
                yield LineResult(name, "not_run", note=kind)

    def inline_results(self, status: BatchStatus) -> Iterator[LineResult]:
        """There are none."""
        return iter(())
