"""`result.data` has the caller's type under mypy and pyright."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNIPPET = """\
from dataclasses import dataclass

from pydantic import BaseModel

from tta_dev_primitives.orchestration import MultiModelWorkflow


class Invoice(BaseModel):
    total: float


@dataclass
class Point:
    x: int


async def shown(workflow: MultiModelWorkflow) -> None:
    total: float = workflow.run("...", output_type=Invoice).data.total
    point: Point = (await workflow.execute("...", "simple", output_type=Point)).data
    numbers: list[int] = workflow.run("...", None, None, list[int]).data
    nothing: None = workflow.run("...").data
    anything: str = workflow.run("...", output_type={"type": "string"}).data
    for result in await workflow.execute_bulk([{"id": "1", "task": "..."}], output_type=Invoice):
        if result.data is not None:
            total += result.data.total
    print(total, point, numbers, nothing, anything)
    workflow.run("...", output_type=Invoice).data.totl
"""
WRONG_LINE = len(SNIPPET.splitlines())
"""The only line with a mistake: a name that the type does not have."""


@pytest.fixture
def snippet(tmp_path: Path) -> Path:
    path = tmp_path / "snippet.py"
    path.write_text(SNIPPET)
    return path


@pytest.mark.proof
@pytest.mark.timeout(400)
def test_mypy_knows_the_type(snippet: Path) -> None:
    """One error: the misspelt name."""
    pytest.importorskip("mypy", reason="mypy is not installed: pip install -r requirements-dev.txt")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", str(snippet)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        check=False,
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert f"snippet.py:{WRONG_LINE}:" in errors[0]
    assert '"Invoice" has no attribute "totl"' in errors[0]


@pytest.mark.proof
@pytest.mark.timeout(400)
def test_pyright_knows_the_type(snippet: Path, tmp_path: Path) -> None:
    """The same of pyright: the installed one, else one from the package registry."""
    pyright = shutil.which("pyright") or _fetched_pyright(tmp_path / "npm")
    # The package is installed by an import hook, which pyright does not run.
    settings = {"extraPaths": [str(ROOT)], "include": [snippet.name]}
    (snippet.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [pyright, "--outputjson", "--pythonpath", sys.executable, "--project", str(snippet.parent)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=snippet.parent,
        check=False,
    )
    found = [d for d in json.loads(done.stdout)["generalDiagnostics"] if d["severity"] == "error"]
    assert [d["range"]["start"]["line"] + 1 for d in found] == [WRONG_LINE], found
    assert '"totl"' in found[0]["message"]


def _fetched_pyright(folder: Path) -> str:
    if shutil.which("npm") is None:
        pytest.skip("pyright needs npm: install Node.js")
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), "pyright@1.1.414"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install pyright: {done.stderr[-200:]}")
    return str(folder / "node_modules" / ".bin" / "pyright")
