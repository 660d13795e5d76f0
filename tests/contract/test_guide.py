"""The configuration guide, word for word: its files load, its snippets run, its tables and messages hold.

The guide is not part of this repository: it is read from the shared folder, else these tests are skipped.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tta_dev_primitives.config import (
    ConfigError,
    ExecutorConfig,
    OrchestrationConfig,
    load_orchestration_config,
)
from tta_dev_primitives.config.options import USE_CASES
from tta_dev_primitives.config.overrides import OVERRIDES
from tta_dev_primitives.config.template import guide_config

ROOT = Path(__file__).resolve().parents[2]
GUIDE = Path(os.environ.get("TTA_SHARED", ROOT.parent / "shared")) / "orchestration-configuration-guide.md"
KEYS = ("ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GROQ_API_KEY", "OPENROUTER_API_KEY")

pytestmark = pytest.mark.skipif(not GUIDE.exists(), reason=f"the guide is not at {GUIDE} (set TTA_SHARED)")

TEXT = GUIDE.read_text(encoding="utf-8") if GUIDE.exists() else ""
SCENARIOS = ("cost-optimized", "quality-optimized", "balanced")


def blocks(language: str, under: str) -> list[str]:
    """The code blocks of one language under the heading that contains `under`."""
    section = re.split(r"^#{2,3} .*" + re.escape(under) + r".*$", TEXT, maxsplit=1, flags=re.MULTILINE)[1]
    section = re.split(r"^#{2,3} ", section, maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)


def table(under: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = (
        TEXT.split(f"### {under}\n", 1)[-1] if f"### {under}\n" in TEXT else TEXT.split(f"## {under}\n", 1)[1]
    )
    rows = re.findall(r"^\|(.*)\|$", section.split("\n#", 1)[0], flags=re.MULTILINE)[2:]
    return [[cell.strip().strip("`") for cell in row.split("|")] for row in rows]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and home, without anybody's keys."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [*KEYS, *OVERRIDES]:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def shell(script: str) -> None:
    """Run a script as a reader would, with this interpreter as `python`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(
        ["bash", "-e", "-c", script], check=True, capture_output=True, env={**os.environ, "PATH": path}
    )


def test_the_quick_start_creates_a_file_that_loads() -> None:
    """Its first command block, run by a shell."""
    shell(blocks("bash", "1. Create Configuration File")[0])
    config = load_orchestration_config()
    assert [executor.model for executor in config.executors] == ["gemini-2.5-pro"]
    assert config.fallback_strategy.models == ["gemini-2.5-pro", "claude-sonnet-4.5"]


def test_the_env_file_of_the_quick_start_is_read() -> None:
    """With its `export` and quotes, as an editor saves it."""
    Path(".env").write_text(blocks("bash", "2. Set Environment Variables")[0])
    config = OrchestrationConfig()
    assert config.get_api_key("ANTHROPIC_API_KEY") == "your-claude-key"
    assert config.get_api_key("OPENROUTER_API_KEY") == "your-openrouter-key"


def test_the_full_example_is_the_default_file_and_the_defaults() -> None:
    """As data; the file that is created has it, and no file means the same."""
    (example,) = blocks("yaml", "Full Example")
    assert yaml.safe_load(guide_config()) == yaml.safe_load(example)
    comments = re.findall(r"# .*", example)
    assert re.findall(r"# .*", guide_config()) == comments
    Path("c.yaml").write_text(example)
    assert load_orchestration_config("c.yaml") == OrchestrationConfig()


@pytest.mark.parametrize("index", range(3), ids=SCENARIOS)
def test_the_scenarios_load_and_ship(index: int) -> None:
    """The three files of the guide equal the three that ship, as data."""
    (text,) = blocks("yaml", f"Scenario {index + 1}")
    shipped = ROOT / "config" / "scenarios" / f"{SCENARIOS[index]}.yaml"
    assert yaml.safe_load(shipped.read_text()) == yaml.safe_load(text)
    Path("c.yaml").write_text(text)
    config = load_orchestration_config("c.yaml")
    assert config.quality_threshold == (0.75, 0.95, 0.85)[index]
    assert config.orchestrator.model == ("claude-sonnet-4.5", "claude-opus-4", "claude-sonnet-4.5")[index]
    assert config.orchestrator.api_key_env == "ANTHROPIC_API_KEY"
    assert config.cost_tracking.budget_limit == 100


@pytest.mark.parametrize("with_file", [True, False])
@pytest.mark.parametrize(
    "heading", ["Access Configuration", "Create Default Config", 'Issue: "Config not loading"']
)
def test_the_snippets_run(heading: str, with_file: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Word for word, with a file and without one."""
    if with_file:
        shell(blocks("bash", "1. Create Configuration File")[0])
    (snippet,) = blocks("python", heading)
    names: dict[str, Any] = {}
    exec(compile(snippet, heading, "exec"), names)
    if heading == "Access Configuration":
        assert capsys.readouterr().out == "Orchestration enabled\nUsing gemini-2.5-pro for moderate tasks\n"
        assert names["api_key"] is None
    if heading == "Create Default Config":
        assert Path(".tta/orchestration-config.yaml").exists()


def test_the_loading_snippet_runs() -> None:
    """Explicit path, search, overrides off."""
    shell(blocks("bash", "1. Create Configuration File")[0])
    (snippet,) = blocks("python", "Load from File")
    names: dict[str, Any] = {}
    exec(compile(snippet, "Load from File", "exec"), names)
    assert isinstance(names["config"], OrchestrationConfig)


def test_the_mends_of_the_troubleshooting_section_work() -> None:
    """The one-liner that creates the file, and the copy of the example, each by a shell."""
    (script,) = blocks("bash", 'Issue: "Configuration file not found"')
    one_liner, copy = script.split("# Or manually")
    shell(one_liner)
    created = Path(".tta/orchestration-config.yaml").read_text()
    Path(".tta/orchestration-config.yaml").unlink()
    shutil.copy(ROOT / ".tta" / "orchestration-config.yaml.example", ".tta")
    shell("# " + copy)
    assert Path(".tta/orchestration-config.yaml").read_text() == created


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("Global Settings", ()),
        ("Orchestrator Configuration", ("orchestrator",)),
        ("Fallback Strategy", ("fallback_strategy",)),
        ("Cost Tracking", ("cost_tracking",)),
    ],
)
def test_the_tables_hold(heading: str, section: tuple[str, ...]) -> None:
    """Each option of a table exists with the table's default and type."""
    types = {"boolean": bool, "float": float, "string": str, "list[string]": list}
    options: Any = OrchestrationConfig()
    for name in section:
        options = getattr(options, name)
    rows = table(heading)
    assert rows
    for option, kind, default, _ in rows:
        value = getattr(options, option)
        assert type(value) is types[kind], option
        assert value == yaml.safe_load(default), option


def test_the_executor_table_holds() -> None:
    """All four are required."""
    whole = {"model": "m", "provider": "groq", "api_key_env": "K", "use_cases": ["simple"]}
    rows = table("Executor Configuration")
    assert [row[0] for row in rows] == list(whole)
    for option in whole:
        partial = {key: value for key, value in whole.items() if key != option}
        with pytest.raises(ValueError, match=option):
            ExecutorConfig.model_validate(partial)
    assert re.findall(r"^- `([a-z-]+)` - ", TEXT, flags=re.MULTILINE) == list(USE_CASES)


@pytest.mark.parametrize(
    "row", table("Environment Variable Overrides") if TEXT else [], ids=lambda row: row[0]
)
def test_the_variables_of_the_guide_override(row: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example of the table, set as it stands there."""
    variable, key, example = row
    name, value = example.removeprefix("export ").split("=")
    assert name == variable
    monkeypatch.setenv(name, value)
    found: Any = load_orchestration_config()
    for part in key.split(".")[1:]:
        found = getattr(found, part)
    assert found == yaml.safe_load(value)


def test_the_message_on_use_cases_is_the_guides() -> None:
    """Its troubleshooting entry, from a file and in code."""
    message = re.search(r"ValueError: (Invalid use_cases: .*)", TEXT)
    assert message is not None
    Path("c.yaml").write_text(guide_config().replace("[moderate, complex]", "[invalid]"))
    with pytest.raises(ConfigError, match=re.escape(message[1])):
        load_orchestration_config("c.yaml")
    with pytest.raises(ValueError, match=re.escape(message[1])):
        ExecutorConfig(model="m", provider="groq", api_key_env="K", use_cases=["invalid"])


def test_the_other_troubleshooting_messages_are_the_guides(caplog: pytest.LogCaptureFixture) -> None:
    """ "Configuration file not found" and "API key not found"."""
    with pytest.raises(FileNotFoundError, match=r"Configuration file not found: missing\.yaml"):
        load_orchestration_config("missing.yaml")
    caplog.set_level(logging.WARNING)
    OrchestrationConfig().get_api_key("GOOGLE_API_KEY")
    assert "API key not found: GOOGLE_API_KEY" in caplog.text


def test_the_troubleshooting_commands_work_in_an_empty_folder(tmp_path: Path) -> None:
    """ "Configuration file not found": both ways of the guide, one after the other, leave a file that loads."""
    script = (
        f'{sys.executable} -c "from tta_dev_primitives.config.orchestration_config import create_default_config; '
        'create_default_config()"\n'
        "mkdir -p .tta\n"
        "cp .tta/orchestration-config.yaml.example .tta/orchestration-config.yaml\n"
    )
    subprocess.run(["bash", "-ec", script], cwd=tmp_path, check=True, timeout=110)
    assert load_orchestration_config(tmp_path / ".tta" / "orchestration-config.yaml").enabled
