"""The first run of a process begins while the Prefect server that it started is still coming up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tta_dev_primitives.blocks.ledger.database.protocol import database_for
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.prefect_server.manager import stop_server

TASK = "Describe how a kettle works."
_ANSWER = json.dumps({
    "id": "x", "object": "chat.completion", "created": 1, "model": "steady",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "It boils."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 60, "completion_tokens": 20, "total_tokens": 80},
}).encode()  # fmt: skip
_CONFIG = """
orchestration:
  allow_private_hosts: true
  planning: never
  validation: {{mode: never}}
  orchestrator: {{model: steady, provider: openai-compatible, base_url: "{url}/v1", api_key_env: TTA_TEST_KEY,
    billing: paid, price: {{input_usd_per_mtok: 3, output_usd_per_mtok: 15}}}}
  executors: []
"""


class Cold:
    """A home where nothing runs, a provider, and a server that is stopped in its tracks until the provider is asked."""

    def __init__(self, folder: Path, url: str) -> None:
        self.home = folder / "home"
        self.folder = folder
        self.asked: list[datetime] = []
        self.then: Callable[[], None] = self.go_on
        (folder / "tta.yaml").write_text(_CONFIG.format(url=url))
        self._stopper = threading.Thread(target=self._stop, daemon=True)

    def run(self) -> tuple[dict[str, Any], str]:
        """`tta run --json`: its document and its stderr."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TTA_"))}
        environment = kept | {
            "TTA_HOME": str(self.home),
            "TTA_TEST_KEY": "some-key-for-tests",
            "TTA_SERVER_PORT": "0",
            "TTA_SERVER_FOR_PID": str(os.getpid()),
        }
        command = ["-m", "tta_dev_primitives", "run", "-c", "tta.yaml", "-u", "moderate", "--json", TASK]
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert done.stdout, done.stderr
        # On a busy machine Prefect also warns that its last events are still on their way.
        said = [line for line in done.stderr.splitlines() if "| WARNING | EventsWorker" not in line]
        return json.loads(done.stdout), "\n".join(said)

    def hold_server(self) -> None:
        """Let the server that the next run starts stand still as soon as it exists."""
        self._stopper.start()

    def _stop(self) -> None:
        while not (self.home / "server" / "state.json").is_file():
            time.sleep(0.005)
        os.kill(self.server, signal.SIGSTOP)

    @property
    def server(self) -> int:
        """Its process."""
        return int(json.loads((self.home / "server" / "state.json").read_text())["pid"])

    def go_on(self) -> None:
        """Let the server go on."""
        os.kill(self.server, signal.SIGCONT)

    def kill(self) -> None:
        """End it as the kernel would when memory runs out."""
        os.kill(self.server, signal.SIGKILL)

    def prefect(self, path: str, body: object) -> Any:
        """What the server says."""
        port = json.loads((self.home / "server" / "state.json").read_text())["port"]
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api{path}",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)


@pytest.fixture
def cold(tmp_path: Path) -> Iterator[Cold]:
    """A cold home with its provider; its server ends with the test."""
    made: list[Cold] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made[0].asked.append(datetime.now(UTC))
            made[0].then()
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(_ANSWER)))
            self.end_headers()
            self.wfile.write(_ANSWER)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made.append(Cold(tmp_path, f"http://127.0.0.1:{server.server_address[1]}"))
    yield made[0]
    server.shutdown()
    server.server_close()
    stop_server(home=made[0].home)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def test_the_provider_is_asked_before_the_server_answers_and_prefect_shows_the_run_as_it_was(
    cold: Cold,
) -> None:
    """The server goes on only when the provider has been asked; run, tasks and artifacts are all there afterwards."""
    cold.hold_server()
    result, said = cold.run()
    assert (result["content"], len(cold.asked), said) == ("It boils.", 1, "")

    only = {"flow_runs": {"id": {"any_": [result["flow_run_id"]]}}}
    (run,) = cold.prefect("/flow_runs/filter", only)
    assert (run["name"], run["state_name"], run["tags"]) == (TASK, "Completed", ["use_case:moderate"])
    assert run["run_count"] == 1
    assert _time(run["start_time"]) < cold.asked[0] < _time(run["created"])
    assert (
        len(cold.prefect("/artifacts/filter", only | {"artifacts": {"type": {"not_any_": ["result"]}}})) == 3
    )

    end, tasks = time.monotonic() + 20, []
    while len(tasks) < 5 or not all(task["state_type"] == "COMPLETED" for task in tasks):
        assert time.monotonic() < end, [(task["name"], task["state_name"]) for task in tasks]
        time.sleep(0.1)
        tasks = cold.prefect("/task_runs/filter", only)
    assert sorted(task["name"] for task in tasks) == [
        "budget",
        "budget",
        "execute[steady]",
        "plan",
        "validate",
    ]
    assert all(_time(run["start_time"]) <= _time(task["start_time"]) for task in tasks)


async def test_a_server_that_dies_coming_up_costs_no_answer(cold: Cold) -> None:
    """The answer that was paid for is given out, with what Prefect does not show; nothing is left open."""
    cold.hold_server()
    cold.then = cold.kill
    result, said = cold.run()
    assert result["content"] == "It boils."
    assert said.count("cannot be entered in Prefect: The embedded Prefect server did not start") == 1
    assert "Traceback" not in said
    ledger = Ledger(database_for(f"sqlite:///{cold.home / 'ledger.db'}"))
    balance = await ledger.balance()
    assert (balance.spent > 0, balance.held) == (True, 0)

    cold.then = lambda: None
    again, said = cold.run()
    assert ([a["reused"] for a in again["attempts"]], len(cold.asked), said) == ([True], 1, "")
