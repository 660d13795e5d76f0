"""The pages are true: every command and snippet of README and docs is run, every link leads somewhere.

Commands run as a reader would type them, in an empty project whose models are served by the sandbox.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import yaml
from markdown_pages import PAGES, ROOT, Block, blocks_of

from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo, server_environment
from tta_dev_primitives.commands.sandbox import snippet
from tta_dev_primitives.config import load_orchestration_config
from tta_dev_primitives.config.check import check_config
from tta_dev_primitives.config.models.catalogue import load_catalogue
from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario
from tta_dev_primitives.deployments.sandbox.sandbox import BASE_PATHS

KEYS = ("ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GROQ_API_KEY", "OPENROUTER_API_KEY")
CONFIG = ".tta/orchestration-config.yaml"
WALKTHROUGHS = sorted((ROOT / "docs" / "walkthroughs").glob("*.md"))
_SHOWN_ONLY = {"", "text", "console", "diff"}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Serves all models of the pages, with the scripted answers of the jobs' examples."""
    path = ROOT / "flows" / "jobs" / "examples" / "scenario.yaml"
    listed = "models: {'qwen3:8b': {}, 'gemma3:4b': {}, anthropic/claude-sonnet-4.5: {}}\n"
    with Sandbox(parse_scenario(path.read_text() + listed)) as served:
        yield served


@pytest.fixture
def project(sandbox: Sandbox, prefect_server: ServerInfo, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """An empty project folder with a configuration, and the environment of its shell."""
    (tmp_path / ".tta").mkdir()
    (tmp_path / CONFIG).write_text(snippet(sandbox))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TTA_", "PREFECT_"))}
    server = {k: v for k, v in server_environment(prefect_server).items() if k.startswith("PREFECT_")}
    own = {
        "HOME": str(tmp_path),
        "TTA_HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **dict.fromkeys(KEYS, "sandbox-docs-key"),
    }
    return tmp_path, {**kept, **server, **own}


@pytest.mark.proof
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_the_page_shows_works(page: Path, project: tuple[Path, dict[str, str]]) -> None:
    """Each block in order: commands end as the page says, Python runs, configurations load and pass the check."""
    for block in blocks_of(page):
        if "file" in block.notes:
            (project[0] / block.notes["file"]).write_text(block.text, encoding="utf-8")
        if "not run" in block.notes or "command" in block.notes:
            continue
        match block.language:
            case "bash":
                _bash(block, *project)
            case "python":
                _run(block, [sys.executable, "-c", block.text], *project)
            case "yaml":
                _configuration(block, project[0])
            case "json":
                assert [json.loads(line) for line in block.text.splitlines()], block.place
            case other:
                assert other in _SHOWN_ONLY, (
                    f"{block.place}: a block in {other!r} is neither run nor explained"
                )


def _bash(block: Block, folder: Path, environment: dict[str, str]) -> None:
    _run(block, ["bash", "-euo", "pipefail", "-c", block.text], folder, environment)


def _run(
    block: Block, command: list[str], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    wanted = int(block.notes.get("exit", "0"))
    assert done.returncode == wanted, f"{block.place}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert block.notes.get("says", "") in done.stderr, f"{block.place}: {done.stderr}"
    assert "Traceback" not in done.stderr, f"{block.place}: {done.stderr}"
    return done


def _configuration(block: Block, folder: Path) -> None:
    """It loads, and with every key set nothing about it fails."""
    path = folder / "block.yaml"
    path.write_text(block.text, encoding="utf-8")
    config = load_orchestration_config(path, use_env_overrides=False)
    environment = dict.fromkeys(KEYS, "sandbox-docs-key")
    lines = check_config(config, load_catalogue(), date(2026, 11, 23), environ=environment)
    assert [line for line in lines if line.level == "fail"] == [], block.place


@pytest.mark.proof
@pytest.mark.parametrize("page", WALKTHROUGHS, ids=lambda page: page.stem)
def test_each_walkthrough_answers_a_task(
    page: Path, sandbox: Sandbox, project: tuple[Path, dict[str, str]]
) -> None:
    """Its configuration as it stands, but with the sandbox's addresses: the check passes live, a task is answered."""
    folder, environment = project
    name = f"{page.stem}.yaml"
    (block,) = [block for block in blocks_of(page) if block.notes.get("file") == name]
    orchestration = yaml.safe_load(block.text)["orchestration"]
    orchestration["allow_private_hosts"] = True
    for model in (orchestration["orchestrator"], *orchestration["executors"]):
        provider = model.get("provider", "anthropic")
        model["base_url"] = sandbox.base_url(provider if provider in BASE_PATHS else "openai-compatible")
    (folder / name).write_text(yaml.safe_dump({"orchestration": orchestration}))
    text = (
        f"tta check --config {name} --live\ntta run 'Explain DNS in three sentences.' --config {name} --json"
    )
    answer = _run(block, ["bash", "-euc", text], folder, environment).stdout
    assert json.loads(answer[answer.index("\n{") :])["accepted"] is True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files that a page links to are there, and so are the headings."""
    text = re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, heading = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.is_file(), f"{page.name}: {target}"
        if heading:
            assert heading in _headings(found), f"{page.name}: {target}"


def _headings(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_a_block_that_is_not_run_says_why() -> None:
    """Every exception has its reason beside it."""
    for page in PAGES:
        for block in blocks_of(page):
            assert len(block.notes.get("not run", "a reason long enough")) > 10, block.place


def test_generated_parts_are_up_to_date() -> None:
    """Options, variables, commands and the Python API stand in the pages as they stand in the code."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nRun: python docs/generate.py"
