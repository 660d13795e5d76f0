"""Anthropic Message Batches. Source: the official SDK's types (`anthropic.types.messages`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from typing_extensions import override

from tta_dev_primitives.blocks.wire.anthropic import STATUS_OF_TYPE
from tta_dev_primitives.blocks.wire.batches.types import (
    BatchFormat,
    BatchLine,
    BatchStatus,
    HttpCall,
    LineResult,
    dumps,
    redumped,
    required_id,
)
from tta_dev_primitives.blocks.wire.reading import at, count_of, flat, text_of
from tta_dev_primitives.blocks.wire.retry_after import parse_instant
from tta_dev_primitives.config.models.targets import Target

_PATH = "/v1/messages/batches"


class AnthropicBatches(BatchFormat):
    """The requests travel with the creation; there is no metadata, so a lost batch is found by its ids."""

    path = _PATH
    most_bytes = 32 * 1024 * 1024

    @override
    def submit(self, target: Target, lines: Sequence[BatchLine], key: str, file: str | None) -> HttpCall:
        requests = [{"custom_id": line.id, "params": dict(line.body)} for line in lines]
        return HttpCall("POST", _PATH, dumps({"requests": requests}))

    @override
    def status(self, payload: Any) -> BatchStatus:
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

    @override
    def result(self, line: Mapping[str, Any]) -> LineResult | None:
        name, kind = text_of(at(line, "custom_id")), text_of(at(line, "result", "type"))
        if kind == "succeeded":
            return LineResult(name, "reply", 200, redumped(at(line, "result", "message")))
        if kind == "errored":
            error = at(line, "result", "error")
            status = STATUS_OF_TYPE.get(text_of(at(error, "error", "type")), 500)
            return LineResult(name, "reply", status, redumped(error))
        return LineResult(name, "not_run", note=kind) if kind in ("canceled", "expired") else None
