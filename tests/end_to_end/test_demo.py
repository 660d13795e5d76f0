"""`tta demo`, as somebody runs it who has just installed the package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo, server_environment


def test_the_demo_shows_each_turn_and_where_to_look_further(
    prefect_server: ServerInfo, tmp_path: Path
) -> None:
    """No key is set; what recorded outcomes save, labelled answers, the turns, the addresses, within 80 columns."""
    server = {k: v for k, v in server_environment(prefect_server).items() if k.startswith("PREFECT_")}
    own = {"HOME": str(tmp_path), "TTA_HOME": str(tmp_path / "home"), "COLUMNS": "80"}
    kept = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
    done = subprocess.run(
        [sys.executable, "-m", "tta_dev_primitives", "demo"],
        cwd=tmp_path,
        env={**kept, **server, **own},
        capture_output=True,
        text=True,
        timeout=280,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stderr) == (0, "")
    shown = done.stdout
    first, *others = shown.splitlines()
    said = re.fullmatch(
        r"400 recorded tasks: \$(\S+) instead of \$(\S+) \((\d+) % saved\), (\d+) of 400 right, the paid model (\d+)",
        first,
    )
    assert said is not None, first
    cost, alone, saved, right, paid = map(float, said.groups())
    assert saved == pytest.approx(100 * (1 - cost / alone), abs=1)
    assert saved >= 55
    assert right >= paid - 4
    assert max(len(line) for line in others if "http://" not in line) <= 80
    assert "Attempts" not in shown
    for number, use_case in enumerate(
        ("simple", "moderate", "complex", "expert", "reasoning", "speed-critical", "moderate"), start=1
    ):
        assert f"\n{number}. {use_case} " in shown
    assert shown.count("✓ [sandbox] ") == 7
    assert "✗ llama-3.3-70b-versatile: quota_exhausted" in shown
    assert "→ falls back to gemini-2.5-pro" in shown
    assert "↑ the orchestrator answers: such answers are not trusted yet" in shown
    assert "calls: llama-3.3-70b-versatile answers, gemini-2.5-pro judges," in shown
    assert "✗ claude-sonnet-4.5: budget" in shown
    assert re.search(r"^\W*all +\W*\$0\.\d{6} +\W*\$0\.\d{6} +\W*\d+%", shown, re.M)
    assert re.search(
        r"^Every run is in the Prefect UI .*:\nhttp://127\.0\.0\.1:\d+/tta/open/[\w-]+/runs$", shown, re.M
    )
    assert re.search(
        r"^The last one:\nhttp://127\.0\.0\.1:\d+/tta/open/[\w-]+/runs/flow-run/[0-9a-f-]{36}$", shown, re.M
    )


def test_a_home_that_cannot_be_written_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    """The demo keeps its ledger there, so it says which folder and which variable."""
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "tta_dev_primitives", "demo", "--json"],
        env={**os.environ, "TTA_HOME": str(tmp_path / "file")},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 1
    assert done.stderr.endswith(
        "/file/demo: cannot keep the demo's files here (Not a directory). "
        "Set TTA_HOME to a folder that you can write.\n"
    )
    assert "Traceback" not in done.stderr
