"""Batches in OpenAI's format (OpenAI, Groq, Together), and Mistral's batch jobs over the same files.

Source: the official SDKs' types of `files` and `batches`, and Mistral's OpenAPI description.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
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

METADATA_KEY = "tta_batch"
_CHAT = "/v1/chat/completions"
_ENDED = frozenset({"completed", "expired", "cancelled", "success", "timeout_exceeded"})
_NOT_RUN = ("batch_expired", "batch_cancelled", "cancelled", "expired")


class OpenAIBatches(BatchFormat):
    """Upload a file of requests, create a batch over it, read its output and error files."""

    jobs = "/batches"
    bare = False
    """A line of the file does not repeat method and address."""

    def __init__(self, prefix: str = "") -> None:
        """`prefix` stands before `/files` and `/batches`."""
        self.prefix, self.path = prefix, prefix + self.jobs

    @override
    def upload(self, lines: Sequence[BatchLine], key: str) -> HttpCall | None:
        return self._form("/files", lines, key, purpose="batch")

    def _form(self, path: str, lines: Sequence[BatchLine], key: str, **fields: str) -> HttpCall:
        rows = [self._row(line) for line in lines]
        file = f'name="file"; filename="{file_name(key)}"\r\nContent-Type: application/jsonl'
        parts = [
            *(_part(key, f'name="{name}"', value.encode()) for name, value in fields.items()),
            _part(key, file, b"\n".join(rows) + b"\n"),
            f"--{key}--\r\n".encode(),
        ]
        return HttpCall("POST", self.prefix + path, b"".join(parts), f"multipart/form-data; boundary={key}")

    def _row(self, line: BatchLine) -> bytes:
        row = {"custom_id": line.id, "body": dict(line.body)}
        return dumps(row if self.bare else {**row, "method": "POST", "url": _CHAT})

    @override
    def submit(self, target: Target, lines: Sequence[BatchLine], key: str, file: str | None) -> HttpCall:
        body = {
            "input_file_id": file,
            "endpoint": _CHAT,
            "completion_window": "24h",
            "metadata": {METADATA_KEY: key},
        }
        return HttpCall("POST", self.path, dumps(body))

    @override
    def status(self, payload: Any) -> BatchStatus:
        # Together puts a new one into `job`.
        node = obj(at(payload, "job")) or payload
        raw = text_of(at(node, "status")).lower()
        metadata = at(node, "metadata", METADATA_KEY)
        files = [at(node, f"{kind}_file_id") or at(node, f"{kind}_file") for kind in ("output", "error")]
        errors = seq(at(node, "errors", "data")) or seq(at(node, "errors"))
        error = text_of(at(errors[0], "message")) if errors else text_of(at(node, "error"))
        uploaded = text_of(at(node, "input_file_id")) or "".join(
            map(text_of, seq(at(node, "input_files"))[:1])
        )
        created = at(node, "created_at")
        return BatchStatus(
            id=required_id(node, "id"),
            state="failed" if raw == "failed" else "ended" if raw in _ENDED else "running",
            raw_state=flat(raw, limit=40),
            key=metadata if isinstance(metadata, str) else None,
            total=_count(node, ("request_counts", "total"), ("total_requests",)),
            succeeded=_count(node, ("request_counts", "completed"), ("succeeded_requests",)),
            created_at=float(created) if isinstance(created, int | Decimal) else parse_instant(created),
            error=flat(error, limit=300) or None,
            results=tuple(f"{self.file_path(f)}/content" for f in map(text_of, files) if f),
            file=uploaded or None,
        )

    def file_path(self, name: str) -> str:
        """The path of a file, relative to the base address."""
        return f"{self.prefix}/files/{quote(name, safe='')}"

    @override
    def result(self, line: Mapping[str, Any]) -> LineResult | None:
        name, response, error = text_of(at(line, "custom_id")), obj(line.get("response")), line.get("error")
        code = text_of(at(error, "code"))
        if code in _NOT_RUN:
            return LineResult(name, "not_run", note=code)
        if not response:
            return LineResult(name, "reply", 400, redumped({"error": error}))
        status = count_of(response.get("status_code")) or 200
        request_id = flat(text_of(response.get("request_id")), limit=120) or None
        return LineResult(name, "reply", status, redumped(response.get("body")), request_id=request_id)


class TogetherBatches(OpenAIBatches):
    """An address of its own for files, bare lines, and no metadata: a batch is known by the name of its file."""

    bare = True

    @override
    def upload(self, lines: Sequence[BatchLine], key: str) -> HttpCall | None:
        fields = {"purpose": "batch-api", "file_name": file_name(key), "file_type": "jsonl"}
        return self._form("/files/upload", lines, key, **fields)

    @override
    def submit(self, target: Target, lines: Sequence[BatchLine], key: str, file: str | None) -> HttpCall:
        body = {"input_file_id": file, "endpoint": _CHAT, "completion_window": "24h"}
        return HttpCall("POST", self.path, dumps(body))


class MistralBatches(OpenAIBatches):
    """The same files; the batch is a `job` that names its model."""

    jobs, page, bare = "/batch/jobs", "page_size=100", True

    @override
    def submit(self, target: Target, lines: Sequence[BatchLine], key: str, file: str | None) -> HttpCall:
        body = {
            "input_files": [file],
            "endpoint": _CHAT,
            "model": target.api_model,
            "metadata": {METADATA_KEY: key},
            "timeout_hours": 24,
        }
        return HttpCall("POST", self.path, dumps(body))


def file_name(key: str) -> str:
    """The name of the file of a batch's requests."""
    return f"{key}.jsonl"


def _part(boundary: str, name: str, content: bytes) -> bytes:
    return f"--{boundary}\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode() + content + b"\r\n"


def _count(node: Any, *paths: tuple[str, ...]) -> int | None:
    return next((count for path in paths if (count := count_of(at(node, *path))) is not None), None)
