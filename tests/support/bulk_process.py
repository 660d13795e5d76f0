"""A bulk job in a process of its own, to be killed, and the provider-side count of what was paid."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from tta_dev_primitives.deployments.sandbox import Sandbox


class BulkProcess:
    """`tta bulk` over a folder's in.jsonl and out.jsonl.

    Args:
        folder: Where everything is.
        sandbox: The provider that counts.
        config: The configuration, as a mapping.
        environment: Variables for the process.
    """

    def __init__(
        self, folder: Path, sandbox: Sandbox, config: Mapping[str, Any], environment: Mapping[str, str]
    ) -> None:
        self.folder, self.sandbox = folder, sandbox
        self.source, self.target = folder / "in.jsonl", folder / "out.jsonl"
        self._config = folder / "config.yaml"
        self._config.write_text(yaml.safe_dump({"orchestration": dict(config)}))
        self._environment = {**os.environ, **environment}

    def write_tasks(self, count: int, what: str = "note") -> None:
        """Write the input: `count` tasks whose text tells them apart."""
        lines = [
            json.dumps({"id": f"{what}-{n}", "task": f"Summarize {what} {n} now.", "use_case": "moderate"})
            for n in range(count)
        ]
        self.source.write_text("\n".join(lines) + "\n")

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start the job."""
        command = [
            sys.executable,
            "-m",
            "tta_dev_primitives",
            "bulk",
            str(self.source),
            "--out",
            str(self.target),
        ]
        return subprocess.Popen(
            [*command, "--config", str(self._config), *options],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the job to its end."""
        process = self.start(*options)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess([], process.returncode, out, err)

    def stop_after(self, calls: int, how: signal.Signals, *options: str) -> tuple[int, str]:
        """Start the job and send it a signal once the provider has seen `calls` more calls.

        Returns:
            Its exit code and what it said on stderr.
        """
        seen = len(self.sandbox.calls)
        process = self.start(*options)
        end = time.monotonic() + 110
        while len(self.sandbox.calls) < seen + calls and process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        process.send_signal(how)
        return self._end(process)

    def _end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        _, err = process.communicate(timeout=110)
        return process.returncode, err

    def done(self) -> dict[str, str]:
        """Id -> answer of the whole lines of the output that have one."""
        if not self.target.exists():
            return {}
        whole = self.target.read_bytes().split(b"\n")[:-1]
        lines = [json.loads(line) for line in whole]
        return {line["id"]: line["content"] for line in lines if line["error"] is None}

    def paid_calls_for(self, names: set[str], since: int) -> list[str]:
        """Those of `names` for which a paid model was called after the provider's first `since` calls."""
        texts = [json.dumps(call.body) for call in self.sandbox.calls[since:] if call.provider == "anthropic"]
        return sorted(n for n in names if any(f"{n.replace('-', ' ')} now" in text for text in texts))

    def settled(self, ledger: Path) -> Counter[str]:
        """Content key -> how often a paid call of it was answered and settled."""
        with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
            rows = connection.execute(
                "SELECT step_key, count(*) FROM ledger_call WHERE billing = 'paid' AND state = 'settled' "
                "AND outcome = 'ok' GROUP BY step_key"
            ).fetchall()
        return Counter(dict(rows))
