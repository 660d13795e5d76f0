"""The sandbox in the foreground, the configuration it prints, and the demo's script."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sandbox_kit import ask, body_of, http, text_of

from tta_dev_primitives.commands.sandbox import snippet
from tta_dev_primitives.config import load_orchestration_config
from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.deployments.sandbox.demo import DEMO_TASKS, demo_scenario

pytestmark = pytest.mark.server

COMMAND = [sys.executable, "-m", "tta_dev_primitives", "sandbox", "--port", "0"]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(end: signal.Signals) -> None:
    """It says its address, answers, and ends with exit code 0 and without a traceback."""
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", first)
        assert address is not None, first
        headers = {"authorization": "Bearer any"}
        answered = http.post(
            f"{address[0]}/openai/v1/chat/completions", headers=headers, json=body_of("groq")
        )
        process.send_signal(end)
        out, err = process.communicate(timeout=110)
    assert (answered.status_code, process.returncode, err) == (200, 0, "")
    assert out.endswith("Sandbox stopped after 1 call.\n")


def test_the_printed_configuration_loads_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied into a file it is a valid configuration whose every model is served by the sandbox."""
    for name in ("ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GROQ_API_KEY", "OPENROUTER_API_KEY"):
        monkeypatch.setenv(name, "any")
    with Sandbox() as sandbox:
        (tmp_path / "c.yaml").write_text(snippet(sandbox))
        config = load_orchestration_config(tmp_path / "c.yaml")
        for executor in config.executors:
            assert executor.base_url == sandbox.base_url(executor.provider)
            assert ask(sandbox, executor.provider, model=executor.model).status_code == 200


def test_the_configuration_is_written_and_never_over_another(tmp_path: Path) -> None:
    """`--write-config` makes the folder and the file; one that is there stays, and that is said."""
    path = tmp_path / ".tta" / "c.yaml"
    said = said_by_tta_sandbox(path)
    assert f"  export SANDBOX_API_KEY=sandbox\nThe configuration is in {path}." in said
    config = load_orchestration_config(path, use_env_overrides=False)
    assert all(e.base_url and e.base_url.startswith("http://127.0.0.1:") for e in config.executors)
    assert {e.api_key_env for e in (config.orchestrator, *config.executors)} == {"SANDBOX_API_KEY"}
    path.write_text("mine")
    assert "left as it is" in said_by_tta_sandbox(path)
    assert path.read_text() == "mine"


def said_by_tta_sandbox(path: Path) -> str:
    """What `tta sandbox --write-config` prints until it is interrupted."""
    with subprocess.Popen(
        [*COMMAND, "--write-config", str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = ""
        while "Ctrl-C stops it." not in said:
            said += process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=110) == 0
    return said


def test_a_users_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    """A wrong scenario or a taken port: what is wrong and where, no traceback."""
    (tmp_path / "bad.yaml").write_text("rule: []")
    with Sandbox() as sandbox:
        for option, value, said in (
            ("--scenario", str(tmp_path / "bad.yaml"), "bad.yaml:1: rule: unknown key; did you mean rules?"),
            ("--port", str(sandbox.port), "Address already in use"),
        ):
            done = subprocess.run([*COMMAND[:-2], option, value], capture_output=True, text=True, check=False)
            assert (done.returncode, said in done.stderr, len(done.stderr.splitlines())) == (2, True, 1)


def test_the_demo_shows_each_use_case_and_each_turn() -> None:
    """Six use cases, and one task each for fallback, escalation, planning and the budget."""
    assert {t.use_case for t in DEMO_TASKS} == {
        "simple", "moderate", "complex", "expert", "reasoning", "speed-critical"
    }  # fmt: skip
    assert sum(t.budget_limit_usd is not None for t in DEMO_TASKS) == 1
    rules = {rule.name for rule in demo_scenario().rules}
    assert len(rules) == len(demo_scenario().rules)


def test_the_demos_tasks_get_their_scripted_answers() -> None:
    """Each task meets its own rule; the weak proof and the slogan are rejected, the fast model is out of quota."""
    with Sandbox(demo_scenario()) as sandbox:
        for task in DEMO_TASKS:
            answer = text_of("google-ai-studio", ask(sandbox, "google-ai-studio", task.task).json())
            assert answer.startswith("[sandbox] ")
            assert "scripted answer to task" not in answer
        assert ask(sandbox, "groq", DEMO_TASKS[5].task).status_code == 429
        weak = text_of("openrouter", ask(sandbox, "openrouter", DEMO_TASKS[4].task).json())
        judge = "[tta:verdict/1]\nGrade."
        asked = [f"<<<answer>>>\n{text}\n<<<end>>>" for text in (weak, "A sound proof.", DEMO_TASKS[6].task)]
        verdicts = [json.loads(text_of("groq", ask(sandbox, "groq", t, system=judge).json())) for t in asked]
        assert [v["score"] for v in verdicts] == [0.05, 0.98, 0.05]
