"""Gemini API batches with inline requests. Source: the mappings of the official SDK (`google.genai.batches`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from typing_extensions import override

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
from tta_dev_primitives.blocks.wire.reading import at, count_of, flat, obj, seq, text_of
from tta_dev_primitives.blocks.wire.retry_after import parse_instant
from tta_dev_primitives.config.models.targets import Target

_NAME = re.compile(r"(?:batches|files)/[A-Za-z0-9_-]{1,200}")
_STATES = {"SUCCEEDED": "ended", "PARTIALLY_SUCCEEDED": "ended", "CANCELLED": "ended", "EXPIRED": "ended"}
_HTTP_OF_CODE = {1: 499, 3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 13: 500, 14: 503, 16: 401}


class GeminiBatches(BatchFormat):
    """Requests and answers travel inside the batch; a request has a key of ours in its metadata."""

    path = "/v1beta/batches"
    page = "pageSize=100"
    entries = "operations"
    most_lines = 5_000
    most_bytes = 16 * 1024 * 1024
    """The API takes 20 MB of inline requests."""

    @override
    def submit(self, target: Target, lines: Sequence[BatchLine], key: str, file: str | None) -> HttpCall:
        model = quote(target.api_model.removeprefix("models/"), safe="")
        requests = [{"request": dict(line.body), "metadata": {"key": line.id}} for line in lines]
        batch = {"displayName": key, "inputConfig": {"requests": {"requests": requests}}}
        return HttpCall("POST", f"/v1beta/models/{model}:batchGenerateContent", dumps({"batch": batch}))

    @override
    def look(self, batch: str) -> HttpCall:
        return HttpCall("GET", f"/v1beta/{batch}")

    @override
    def cancel(self, batch: str) -> HttpCall:
        return HttpCall("POST", f"/v1beta/{batch}:cancel", b"{}")

    @override
    def status(self, payload: Any) -> BatchStatus:
        name, node = required_id(payload, "name"), obj(at(payload, "metadata"))
        if not _NAME.fullmatch(name):
            name = required_id({}, "name")
        raw = text_of(node.get("state")).removeprefix("JOB_STATE_").removeprefix("BATCH_STATE_")
        output = obj(node.get("output")) or obj(at(payload, "response"))
        file = text_of(output.get("responsesFile"))
        stats = obj(node.get("batchStats"))
        return BatchStatus(
            id=name,
            state="failed" if raw == "FAILED" else "ended" if raw in _STATES else "running",
            raw_state=flat(raw, limit=40),
            key=text_of(node.get("displayName")) or None,
            total=_number(stats.get("requestCount")),
            succeeded=_number(stats.get("successfulRequestCount")),
            created_at=parse_instant(node.get("createTime")),
            error=flat(text_of(at(payload, "error", "message")), limit=300) or None,
            results=(f"/download/v1beta/{file}:download?alt=media",) if _NAME.fullmatch(file) else (),
            inline=seq(at(output, "inlinedResponses", "inlinedResponses")),
        )

    @override
    def result(self, line: Mapping[str, Any]) -> LineResult | None:
        return _result(text_of(line.get("key")), line)

    @override
    def inline_results(self, status: BatchStatus) -> Iterator[LineResult]:
        for entry in status.inline:
            yield _result(text_of(at(entry, "metadata", "key")), obj(entry))


def _result(name: str, entry: Any) -> LineResult:
    if at(entry, "response") is not None:
        return LineResult(name, "reply", 200, redumped(at(entry, "response")))
    code = count_of(at(entry, "error", "code")) or 13
    said = flat(text_of(at(entry, "error", "message")), limit=200)
    if code == 1 or "expired" in said.lower():
        return LineResult(name, "not_run", note=said or "canceled")
    status = code if code >= 400 else _HTTP_OF_CODE.get(code, 500)
    return LineResult(name, "reply", status, redumped({"error": at(entry, "error")}))


def _number(value: Any) -> int | None:
    """Counts are int64, which JSON carries as text."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 12:
        return int(value)
    return count_of(value)
