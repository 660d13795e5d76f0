"""A provider on loopback for benchmarks: raw asyncio, OpenAI's chat format, a fixed latency, little CPU of its own.

    python tests/benchmarks/loopback.py LATENCY_S        # prints its port, serves until its stdin closes

Model `flaky` fails one task in five (by the task's number), `steady` answers, `judge` gives a verdict, `planner` a
plan.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NUMBER = re.compile(rb"task number (\d+)")
_LENGTH = re.compile(rb"content-length: (\d+)", re.I)
_PLAN = json.dumps({"use_case": "moderate", "instructions": "", "answer_format": "open", "acceptance_criteria": [],
                    "subtasks": []})  # fmt: skip


def _reply(body: bytes) -> bytes:
    if b'"flaky"' in body:
        found = _NUMBER.search(body)
        if found and int(found[1]) % 5 == 0:
            error = {"error": {"message": "this prompt is not supported", "type": "invalid_request_error"}}
            return _http(b"400 Bad Request", json.dumps(error).encode())
    text = "An answer of a sentence or two, as a model would give it to a short task in bulk."
    if b'"judge"' in body:
        text = _PLAN if b"subtasks" in body else '{"score": 0.97, "reason": "correct"}'
    document = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 60, "completion_tokens": 20, "total_tokens": 80},
    }
    return _http(b"200 OK", json.dumps(document).encode())


def _http(status: bytes, body: bytes) -> bytes:
    return (
        b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: keep-alive\r\n\r\n%s"
        % (status, len(body), body)
    )


class _Connection(asyncio.Protocol):
    latency = 0.05

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self.buffer, 0, end)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self.buffer) < size:
                return
            body, self.buffer = self.buffer[end + 4 : size], self.buffer[size:]
            asyncio.get_running_loop().call_later(self.latency, self._answer, _reply(body))

    def _answer(self, reply: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(reply)


async def _serve(latency: float) -> None:
    _Connection.latency = latency
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


@contextmanager
def loopback(latency: float = 0.05) -> Iterator[str]:
    """A server in a process of its own; yields `http://127.0.0.1:<port>`."""
    command = [sys.executable, __file__, str(latency)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.stdin.close()
            process.wait(10)


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]) if len(sys.argv) > 1 else 0.05))
