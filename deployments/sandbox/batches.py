"""The batch APIs of the sandbox: a batch is answered when its delay has passed, and billed at half the price."""

from __future__ import annotations

import email
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from tta_dev_primitives.deployments.sandbox.chat import Failure, Refusal
from tta_dev_primitives.deployments.sandbox.http_reply import Reply, dumps, token
from tta_dev_primitives.deployments.sandbox.requests import parse_body, refuse
from tta_dev_primitives.deployments.sandbox.scenario.scenario import BatchScript, latency_of

if TYPE_CHECKING:
    from tta_dev_primitives.deployments.sandbox.app import App

_DAY = timedelta(hours=24)
Handler = Callable[[Request, str], Awaitable[Reply]]


@dataclass(slots=True)
class Batch:
    """One batch and its results."""

    id: str
    provider: str
    key: str
    """Opaque name of the caller's key: others do not see the batch."""
    lines: Sequence[tuple[str, Mapping[str, Any]]]
    created: float
    ready: float
    """When its results are there."""
    model: str = ""
    name: str = ""
    metadata: Any = None
    input_file: str | None = None
    canceled: bool = False
    results: list[tuple[str, str, Reply | None]] | None = None
    """Custom id, kind (answered, errored, expired, canceled) and what the chat endpoint would have said."""

    @property
    def state(self) -> str:
        """`running`, `canceled`, `expired` or `completed`."""
        if self.results is None:
            return "running"
        return "canceled" if self.canceled else "expired" if self.count("expired") else "completed"

    @property
    def failed(self) -> int:
        """Results without an answer."""
        return len(self.results or ()) - self.count("answered")

    def count(self, kind: str) -> int:
        """Results of a kind."""
        return sum(found == kind for _, found, _ in self.results or ())


@dataclass(slots=True)
class BatchRoutes:
    """Keeps the batches and files of one sandbox."""

    app: App
    batches: list[Batch] = field(default_factory=list)
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Caller and content of each uploaded file."""

    def table(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of every route."""
        found: list[tuple[str, str, Handler]] = [
            ("POST", "/v1/messages/batches", self._create_messages),
            ("GET", "/v1/messages/batches", self._list),
            ("GET", "/v1/messages/batches/{id:str}/results", self._message_results),
            ("POST", "/v1/messages/batches/{id:str}/cancel", self._cancel),
            ("GET", "/v1/messages/batches/{id:str}", self._look),
            ("POST", "/{version:str}/models/{model:path}:batchGenerateContent", self._create_gemini),
            ("GET", "/v1beta/batches", self._list),
            ("POST", "/v1beta/batches/{id:str}:cancel", self._cancel),
            ("GET", "/v1beta/batches/{id:str}", self._look),
            ("POST", "/v1/batches/{id:str}:cancel", self._cancel),
        ]
        for prefix in ("/v1", "/openai/v1"):
            found += [
                ("POST", f"{prefix}/files", self._upload),
                ("GET", f"{prefix}/files/{{id:str}}/content", self._content),
                ("POST", f"{prefix}/batches", self._create_chat),
                ("GET", f"{prefix}/batches", self._list),
                ("POST", f"{prefix}/batches/{{id:str}}/cancel", self._cancel),
                ("GET", f"{prefix}/batches/{{id:str}}", self._look),
            ]
        return found

    @property
    def script(self) -> BatchScript:
        """How batches go in this scenario."""
        return self.app.director.scenario.batches

    # --- create

    async def _create_messages(self, request: Request, key: str) -> Reply:
        body = parse_body(await request.body())
        lines = [(_named(one, "custom_id"), one.get("params") or {}) for one in _listed(body, "requests")]
        return self._opened(request, self._new("anthropic", key, lines, "msgbatch"))

    async def _create_gemini(self, request: Request, key: str) -> Reply:
        node = parse_body(await request.body()).get("batch") or {}
        inline = _listed((node.get("inputConfig") or {}).get("requests") or {}, "requests")
        lines = [
            (str((one.get("metadata") or {}).get("key", "")), one.get("request") or {}) for one in inline
        ]
        batch = self._new("google-ai-studio", key, lines, "batches/")
        batch.model, batch.name = request.path_params["model"], str(node.get("displayName", ""))
        return self._opened(request, batch)

    async def _create_chat(self, request: Request, key: str) -> Reply:
        body = parse_body(await request.body())
        provider = owner_of(request)
        if body.get("endpoint") != "/v1/chat/completions" or not body.get("completion_window"):
            refuse("endpoint must be /v1/chat/completions, with a completion_window.", "endpoint")
        content = self._file(str(body.get("input_file_id")), key)
        rows = [parse_body(row) for row in content.splitlines() if row.strip()]
        if any(row.get("method") != "POST" or row.get("url") != "/v1/chat/completions" for row in rows):
            refuse("each line needs method POST and the url of the batch's endpoint.", "input_file_id")
        lines = [(_named(row, "custom_id"), row.get("body") or {}) for row in rows]
        if len({name for name, _ in lines}) < len(lines):
            refuse("custom_id must be unique.", "custom_id")
        batch = self._new(provider, key, lines, "batch_")
        batch.metadata, batch.input_file = body.get("metadata"), body["input_file_id"]
        return self._opened(request, batch)

    def _new(self, provider: str, key: str, lines: Sequence[tuple[str, Any]], prefix: str) -> Batch:
        script, number, now = self.script, len(self.batches) + 1, self.app.now()
        if script.refuse is not None and number <= script.refuse_first:
            raise Refusal(Failure(script.refuse))
        if not lines:
            refuse("a batch needs at least one request.", "requests")
        name = f"{prefix}{'' if prefix.endswith('/') else '_'}{token('batch', number)}".replace("__", "_")
        batch = Batch(
            name, provider, key, lines, now, now + latency_of(script.delay, provider, "batch", number)
        )
        self.batches.append(batch)
        return batch

    def _opened(self, request: Request, batch: Batch) -> Reply:
        if len(self.batches) <= self.script.lose_reply_of_first:
            # Created, and the caller never learns of it.
            raise Refusal(Failure("timeout"))
        return Reply(body=self._shown(request, batch))

    # --- look

    async def _look(self, request: Request, key: str) -> Reply:
        return Reply(body=self._shown(request, self._of(request, key)))

    async def _list(self, request: Request, key: str) -> Reply:
        provider = owner_of(request)
        mine = [b for b in reversed(self.batches) if b.key == key and b.provider == provider]
        shown = [self._shown(request, batch) for batch in mine[:100]]
        if provider == "google-ai-studio":
            return Reply(body={"operations": shown})
        ends = {"first_id": mine[0].id if mine else None, "last_id": mine[-1].id if mine else None}
        return Reply(body={"object": "list", "data": shown, "has_more": False, **ends})

    async def _cancel(self, request: Request, key: str) -> Reply:
        batch = self._of(request, key)
        self._advance(batch)
        if batch.results is None:
            batch.canceled, batch.ready = True, self.app.now()
            self._advance(batch)
        return Reply(body=self._shown(request, batch) if batch.provider != "google-ai-studio" else {})

    async def _message_results(self, request: Request, key: str) -> Reply:
        batch = self._of(request, key)
        self._advance(batch)
        if batch.results is None:
            refuse("results are not available yet.")
        rows = []
        for name, kind, reply in self._sent(batch):
            result: dict[str, Any] = {"type": "succeeded" if kind == "answered" else kind}
            if reply is not None:
                result["message" if kind == "answered" else "error"] = reply.body
            rows.append(dumps({"custom_id": name, "result": result}))
        return Reply(200, b"\n".join(rows) + b"\n", headers={"content-type": "application/x-jsonl"})

    async def _upload(self, request: Request, key: str) -> Reply:
        head = f"Content-Type: {request.headers.get('content-type', '')}\r\n\r\n".encode()
        form = email.message_from_bytes(head + await request.body())
        parts = {
            p.get_param("name", header="content-disposition"): p.get_payload(decode=True) for p in form.walk()
        }
        content, purpose = parts.get("file"), parts.get("purpose")
        if not isinstance(content, bytes) or purpose not in (b"batch", b"batch-api"):
            refuse("a batch file needs `file` and the purpose `batch`.", "purpose")
        name = f"file-{token('file', len(self.files) + 1)}"
        self.files[name] = (key, content)
        return Reply(body={
            "id": name, "object": "file", "bytes": len(content), "created_at": int(self.app.now()),
            "filename": "batch.jsonl", "purpose": "batch", "status": "processed",
        })  # fmt: skip

    async def _content(self, request: Request, key: str) -> Reply:
        name = request.path_params["id"]
        kind, _, rest = name.partition("-")
        batch = next((b for b in self.batches if token(b.id) == rest and b.key == key), None)
        if batch is None:
            return Reply(200, self._file(name, key))
        rows = [
            dumps(_chat_row(name, found, reply))
            for name, found, reply in self._sent(batch)
            if (found == "answered") == (kind == "out")
        ]
        return Reply(200, b"\n".join(rows) + b"\n", headers={"content-type": "application/octet-stream"})

    def _file(self, name: str, key: str) -> bytes:
        """What the caller uploaded under this name."""
        owner, content = self.files.get(name, ("", b""))
        if owner != key:
            raise Refusal(Failure("model_gone", "No such File object.", "input_file_id"))
        return content

    # --- run

    def _advance(self, batch: Batch) -> None:
        """Answer the batch when its time has come."""
        if batch.results is not None or self.app.now() < batch.ready:
            return
        script, batch.results = self.script, []
        for number, (name, body) in enumerate(batch.lines):
            if batch.canceled:
                batch.results.append((name, "canceled", None))
            elif script.expire_after is not None and number >= script.expire_after:
                batch.results.append((name, "expired", None))
            else:
                reply = self.app.answer_line(batch.provider, batch.key, body, batch.model)
                batch.results.append((name, "answered" if reply.status == 200 else "errored", reply))

    def _sent(self, batch: Batch) -> list[tuple[str, str, Reply | None]]:
        """The results as they go out: in no order, some lost, some repeated, as the script says."""
        results = list(reversed(batch.results or []))[self.script.lose :]
        return results + results[: self.script.repeat]

    # --- shown

    def _shown(self, request: Request, batch: Batch) -> dict[str, Any]:
        self._advance(batch)
        if batch.provider == "anthropic":
            return self._message_batch(request, batch)
        return self._operation(batch) if batch.provider == "google-ai-studio" else self._chat_batch(batch)

    def _message_batch(self, request: Request, batch: Batch) -> dict[str, Any]:
        over = batch.results is not None
        kinds = {"succeeded": "answered", "errored": "errored", "canceled": "canceled", "expired": "expired"}
        return {
            "id": batch.id, "type": "message_batch", "processing_status": "ended" if over else "in_progress",
            "request_counts": {
                "processing": 0 if over else len(batch.lines), **{k: batch.count(v) for k, v in kinds.items()},
            },
            "created_at": _moment(batch.created), "expires_at": _moment(batch.created, _DAY),
            "ended_at": _moment(batch.ready) if over else None, "archived_at": None,
            "cancel_initiated_at": _moment(batch.ready) if batch.canceled else None,
            "results_url": f"{request.base_url}v1/messages/batches/{batch.id}/results" if over else None,
        }  # fmt: skip

    def _chat_batch(self, batch: Batch) -> dict[str, Any]:
        status = {"running": "in_progress", "canceled": "cancelled"}.get(batch.state, batch.state)
        answered, failed = batch.count("answered"), batch.failed
        return {
            "id": batch.id, "object": "batch", "endpoint": "/v1/chat/completions", "errors": None,
            "input_file_id": batch.input_file, "completion_window": "24h", "status": status,
            "output_file_id": f"out-{token(batch.id)}" if answered else None,
            "error_file_id": f"err-{token(batch.id)}" if failed else None,
            "created_at": int(batch.created), "expires_at": int(batch.created) + 86_400,
            "completed_at": int(batch.ready) if status == "completed" else None,
            "request_counts": {"total": len(batch.lines), "completed": answered, "failed": failed},
            "metadata": batch.metadata,
        }  # fmt: skip

    def _operation(self, batch: Batch) -> dict[str, Any]:
        over, words = batch.results is not None, {"canceled": "cancelled", "completed": "succeeded"}
        state = words.get(batch.state, batch.state).upper()
        metadata: dict[str, Any] = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "model": f"models/{batch.model}", "displayName": batch.name, "state": f"BATCH_STATE_{state}",
            "createTime": _moment(batch.created), "name": batch.id,
            "batchStats": {
                "requestCount": str(len(batch.lines)), "successfulRequestCount": str(batch.count("answered")),
                "failedRequestCount": str(batch.failed),
            },
        }  # fmt: skip
        shown: dict[str, Any] = {"name": batch.id, "metadata": metadata, "done": over}
        if over:
            rows = [_gemini_row(*result) for result in self._sent(batch)]
            metadata["endTime"] = _moment(batch.ready)
            metadata["output"] = {"inlinedResponses": {"inlinedResponses": rows}}
        return shown

    def _of(self, request: Request, key: str) -> Batch:
        name = request.path_params["id"]
        if owner_of(request) == "google-ai-studio":
            name = f"batches/{name}"
        found = next((b for b in self.batches if b.id == name and b.key == key), None)
        if found is None:
            raise Refusal(Failure("model_gone", f"No batch {name}."))
        return found


def owner_of(request: Request) -> str:
    """Whose format a request is in. `/v1/models` and `/v1/batches` are of several: the headers decide."""
    path, headers = request.url.path, request.headers
    if path.startswith("/v1beta") or "x-goog-api-key" in headers:
        return "google-ai-studio"
    for start, owner in (("/openai", "groq"), ("/api", "openrouter"), ("/v1/messages", "anthropic")):
        if path.startswith(start):
            return owner
    return "anthropic" if "anthropic-version" in headers or "x-api-key" in headers else "openai-compatible"


def _chat_row(name: str, kind: str, reply: Reply | None) -> dict[str, Any]:
    error = response = None
    if reply is None:
        words = "This request could not be executed before the completion window expired."
        error = {"code": "batch_expired" if kind == "expired" else "batch_cancelled", "message": words}
    else:
        response = {"status_code": reply.status, "request_id": token(name, "request"), "body": reply.body}
    return {"id": f"batch_req_{token(name)}", "custom_id": name, "response": response, "error": error}


def _gemini_row(name: str, kind: str, reply: Reply | None) -> dict[str, Any]:
    row: dict[str, Any] = {"metadata": {"key": name}}
    if reply is None:
        return {**row, "error": {"code": 1, "message": f"The request was {kind}."}}
    if kind == "answered":
        return {**row, "response": reply.body}
    error = reply.body.get("error", {}) if isinstance(reply.body, dict) else {}
    return {**row, "error": {"code": error.get("code", reply.status), "message": error.get("message", "")}}


def _listed(node: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = node.get(name)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        refuse(f"{name}: a list of objects is required", name)
    return found


def _named(node: Mapping[str, Any], name: str) -> str:
    found = node.get(name)
    if not isinstance(found, str) or not re.fullmatch(r"[\w-]{1,64}", found, re.ASCII):
        refuse(f"{name}: 1 to 64 letters, digits, - and _ are required; found {json.dumps(found)[:80]}", name)
    return found


def _moment(at: float, more: timedelta = timedelta()) -> str:
    return (datetime.fromtimestamp(at, UTC) + more).isoformat().replace("+00:00", "Z")
