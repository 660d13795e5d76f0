"""Cold starts: from the prompt to the first request that reaches the provider, and `tta --help`.

python tests/benchmarks/bench_start.py        # both, printed
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from processes import clean_environment, stop_embedded

_ANSWER = json.dumps({
    "id": "x", "object": "chat.completion", "created": 1, "model": "steady",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "An answer."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 60, "completion_tokens": 20, "total_tokens": 80},
}).encode()  # fmt: skip
NAIVE = """\
import sys, httpx
from prefect import flow
flow(lambda url: httpx.post(url, json={"model": "steady"}).json(), name="ask")(sys.argv[1])
"""
_CONFIG = """
orchestration:
  allow_private_hosts: true
  planning: never
  validation: {{mode: never}}
  cost_tracking: {{budget_limit_usd: 1000.0}}
  orchestrator: {{model: steady, provider: openai-compatible, base_url: "{url}/v1", api_key_env: BENCH_KEY,
    billing: paid, price: {{input_usd_per_mtok: 3, output_usd_per_mtok: 15}}}}
  executors: []
"""


@contextmanager
def first_request() -> Iterator[tuple[str, list[float]]]:
    """A provider that notes when each request reached it."""
    seen: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(time.perf_counter())
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
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()


def _until_request(command: list[str], environment: dict[str, str], seen: list[float], folder: Path) -> float:
    seen.clear()
    began = time.perf_counter()
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=180
    )
    if not seen or done.returncode:
        raise RuntimeError(f"{command}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return seen[0] - began


def cold_start(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds to the first request with no server up: `tta run` and a three-line Prefect script, in turn.

    The first of each has an empty home and stands apart: Prefect migrates its database then.
    """
    home, prefect_home = folder / "cold", folder / "cold-prefect"
    (folder / "naive.py").write_text(NAIVE)
    found: dict[str, list[float]] = {"tta run": [], "naive Prefect": [], "tta run, server up": []}
    with first_request() as (url, seen):
        (folder / "cold.yaml").write_text(_CONFIG.format(url=url))
        ours = {**clean_environment(), "TTA_HOME": str(home), "BENCH_KEY": "some-key-for-tests"}
        theirs = {**clean_environment(), "PREFECT_HOME": str(prefect_home), "DO_NOT_TRACK": "1"}
        # Its own patience of 20 s is too short for a busy machine.
        theirs["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "150"
        run = [sys.executable, "-m", "tta_dev_primitives", "run", "--config", "cold.yaml", "-u", "moderate"]
        naive = [sys.executable, "naive.py", f"{url}/v1/chat/completions"]
        try:
            for number in range(rounds + 1):
                stop_embedded(home)
                found["tta run"].append(_until_request([*run, f"Cold task {number}."], ours, seen, folder))
                warm = [*run, f"Warm task {number}."]
                found["tta run, server up"].append(_until_request(warm, ours, seen, folder))
                stop_embedded(home)
                found["naive Prefect"].append(_until_request(naive, theirs, seen, folder))
        finally:
            stop_embedded(home)
    return {name: {"first_s": times[0], "s": times[1:]} for name, times in found.items()}


def help_start(rounds: int) -> dict[str, list[float]]:
    """Seconds of `tta --help` and of importing the library that reads its arguments, in turn."""
    commands = {
        "tta --help": [sys.executable, "-m", "tta_dev_primitives", "--help"],
        "import cyclopts": [sys.executable, "-c", "import cyclopts"],
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, env=clean_environment(), capture_output=True, check=True)
            found[name].append(time.perf_counter() - began)
    return found


if __name__ == "__main__":
    for title, values in help_start(9).items():
        print(f"{title:20} {1000 * median(values):6.0f} ms")
    with tempfile.TemporaryDirectory(prefix="tta-bench-", ignore_cleanup_errors=True) as name:
        for title, row in cold_start(Path(name), 3).items():
            print(f"{title:20} first {row['first_s']:5.2f} s, then {median(row['s']):5.2f} s")
