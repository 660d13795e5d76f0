"""Together and Mistral on loopback: files and batches as their official SDKs describe them, strict about requests.

`python tests/support/batch_servers.py SDK` lets an official SDK ("together", "mistralai") run its calls against it.
"""

from __future__ import annotations

import email
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NOW = 1_790_000_000
TOGETHER_JOB = ("input_file_id", "endpoint", "completion_window", "model_id", "priority")
MISTRAL_JOB = ("input_files", "requests", "endpoint", "model", "agent_id", "metadata", "timeout_hours")
CHAT = {
    "id": "c", "object": "chat.completion", "created": NOW, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "391"}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}  # fmt: skip


class BatchServer(ThreadingHTTPServer):
    """One provider's files and batches. A batch is done when it is looked at for the second time."""

    def __init__(self, provider: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.provider = provider
        self.files: dict[str, tuple[str, bytes]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.looks: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def upload(self, form: dict[str, bytes], name: str) -> dict[str, Any]:
        wanted = (
            {"purpose", "file_name", "file_type", "file"}
            if self.provider == "together"
            else {"purpose", "file"}
        )
        purpose = b"batch-api" if self.provider == "together" else b"batch"
        assert (set(form) - {"visibility", "expiry"}, form["purpose"]) == (wanted, purpose), (
            f"form of {sorted(form)}"
        )
        for row in map(json.loads, form["file"].splitlines()):
            assert set(row) == {"custom_id", "body"}, f"line of {sorted(row)}"
        key = f"file-{len(self.files)}"
        self.files[key] = (name, form["file"])
        return self.described(key)

    def described(self, key: str) -> dict[str, Any]:
        name, content = self.files[key]
        shown = {"id": key, "object": "file", "created_at": NOW, "filename": name, "bytes": len(content)}
        if self.provider == "together":
            return shown | {"purpose": "batch-api", "Processed": True, "FileType": "jsonl", "LineCount": 0}
        return shown | {
            "purpose": "batch",
            "sample_type": "batch_request",
            "source": "upload",
            "deleted": False,
        }

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        known = TOGETHER_JOB if self.provider == "together" else MISTRAL_JOB
        assert body["endpoint"] == "/v1/chat/completions"
        assert set(body) <= set(known), f"fields {sorted(set(body) - set(known))} are unknown"
        name = f"job-{len(self.jobs)}"
        if self.provider == "together":
            assert body["input_file_id"] in self.files
            self.jobs[name] = {
                "id": name, "user_id": "u", "input_file_id": body["input_file_id"], "file_size_bytes": 1,
                "status": "VALIDATING", "job_deadline": "2026-11-29T00:00:00Z", "created_at": "2026-09-21T15:33:20Z",
                "endpoint": body["endpoint"], "progress": 0.0, "model_id": "m",
            }  # fmt: skip
            return {"job": self.jobs[name]}
        lines = self.files[body["input_files"][0]][1].count(b"\n")
        self.jobs[name] = {
            "id": name, "object": "batch", "input_files": body["input_files"], "endpoint": body["endpoint"],
            "model": body.get("model"), "metadata": body.get("metadata"), "errors": [], "status": "QUEUED",
            "created_at": NOW, "total_requests": lines, "completed_requests": 0, "succeeded_requests": 0,
            "failed_requests": 0, "output_file": None, "error_file": None,
        }  # fmt: skip
        return self.jobs[name]

    def look(self, name: str) -> dict[str, Any]:
        self.looks[name] = self.looks.get(name, 0) + 1
        if self.looks[name] == 2:
            self.end(name)
        return self.jobs[name]

    def end(self, name: str) -> None:
        """The first request is answered, the others fail."""
        job, together = self.jobs[name], self.provider == "together"
        key = job["input_file_id"] if together else job["input_files"][0]
        ids = [json.loads(row)["custom_id"] for row in self.files[key][1].splitlines()]
        answered = {
            "id": "r0",
            "custom_id": ids[0],
            "response": {"status_code": 200, "request_id": "q", "body": CHAT},
        }
        refused = {"message": "bad request", "type": "invalid_request_error"}
        failed = [
            {"id": f"r{n}", "custom_id": one, "response": {"status_code": 400, "body": {"error": refused}}}
            for n, one in enumerate(ids[1:], start=1)
        ]
        for kind, rows in (("output", [answered]), ("error", failed)):
            self.files[f"{kind}-{name}"] = ("r.jsonl", "\n".join(map(json.dumps, rows)).encode())
            job[f"{kind}_file_id" if together else f"{kind}_file"] = f"{kind}-{name}"
        job |= {"status": "COMPLETED", "progress": 100.0} if together else {
            "status": "SUCCESS", "completed_requests": len(ids), "succeeded_requests": 1, "failed_requests": len(failed)
        }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    server: BatchServer

    def log_message(self, *_: Any) -> None: ...

    def _send(self, body: Any, status: int = 200) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self) -> None:
        server, together = self.server, self.server.provider == "together"
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path.partition("?")[0]
        jobs = "/v1/batches" if together else "/v1/batch/jobs"
        match (
            self.command,
            path.removeprefix(jobs).split("/") if path.startswith(jobs) else path.split("/"),
        ):
            case "POST", [""]:
                self._send(server.create(json.loads(data)), 201 if together else 200)
            case "GET", [""]:
                found = list(server.jobs.values())
                self._send(found if together else {"object": "list", "total": len(found), "data": found})
            case "GET", ["", name] if name in server.jobs:
                self._send(server.look(name))
            case "POST", ["", name, "cancel"]:
                server.jobs[name]["status"] = "CANCELLED" if together else "CANCELLATION_REQUESTED"
                self._send(server.jobs[name])
            case "POST", ["", "v1", "files", *more] if more == (["upload"] if together else []):
                head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
                parts = [p for p in email.message_from_bytes(head + data).walk() if not p.is_multipart()]
                form = {
                    str(p.get_param("name", header="content-disposition")): p.get_payload(decode=True)
                    for p in parts
                }
                self._send(server.upload(form, next(str(n) for p in parts if (n := p.get_filename()))))  # type: ignore[arg-type]
            case "GET", ["", "v1", "files", name, "content"]:
                self._send(server.files[name][1])
            case "GET", ["", "v1", "files", name]:
                self._send(server.described(name))
            case "DELETE", ["", "v1", "files", name]:
                del server.files[name]
                self._send({"id": name, "object": "file", "deleted": True})
            case _:
                self._send({"error": {"message": f"no {self.command} {path}"}}, 404)

    def _guarded(self) -> None:
        try:
            self._answer()
        except (AssertionError, KeyError) as fault:
            self._send({"error": {"message": f"{fault}", "type": "invalid_request_error"}}, 400)

    do_GET = do_POST = do_DELETE = _guarded


@contextmanager
def batch_server(provider: str) -> Iterator[BatchServer]:
    server = BatchServer(provider)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _together(server: BatchServer) -> None:
    from together import Together  # type: ignore[import-not-found]

    client = Together(api_key="k", base_url=server.url)
    server.files["file-0"] = ("in.jsonl", b'{"custom_id": "a", "body": {}}\n{"custom_id": "b", "body": {}}\n')
    made = client.batches.create(input_file_id="file-0", endpoint="/v1/chat/completions").job
    assert client.batches.retrieve(made.id).status == "VALIDATING"
    done = client.batches.retrieve(made.id)
    assert (done.status, [one.id for one in client.batches.list()]) == ("COMPLETED", [made.id])
    assert b"391" in client.files.content(done.output_file_id).read()
    assert client.files.retrieve("file-0").filename == "in.jsonl"
    assert client.files.delete("file-0").deleted


def _mistralai(server: BatchServer) -> None:
    from mistralai.client import Mistral  # type: ignore[import-not-found]

    client = Mistral(api_key="k", server_url=server.url)
    rows = b'{"custom_id": "a", "body": {}}\n{"custom_id": "b", "body": {}}\n'
    file = client.files.upload(file={"file_name": "in.jsonl", "content": rows}, purpose="batch")
    made = client.batch.jobs.create(
        input_files=[file.id], endpoint="/v1/chat/completions", model="m", metadata={"k": "v"}
    )
    assert client.batch.jobs.get(job_id=made.id).status == "QUEUED"
    done = client.batch.jobs.get(job_id=made.id)
    assert (done.status, done.succeeded_requests, client.batch.jobs.list().total) == ("SUCCESS", 1, 1)
    assert b"391" in client.files.download(file_id=done.output_file).read()
    assert client.files.retrieve(file_id=file.id).filename == "in.jsonl"
    assert client.files.delete(file_id=file.id).deleted


if __name__ == "__main__":
    name = sys.argv[1]
    with batch_server("together" if name == "together" else "mistral") as running:
        {"together": _together, "mistralai": _mistralai}[name](running)
    print(f"{name}: every call answered in types that it knows")
