"""`tta check` tells the truth about the guide's models; `--live` asks the providers themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rude_server import answers, response, rude_server
from sandbox_runs import CLAUDE, GEMINI, KEY, KEY_VALUE, LLAMA, ToSandbox, executor, sandbox_config

from tta_dev_primitives.blocks.providers.client import ProviderClient
from tta_dev_primitives.blocks.providers.model_lists import ask_model_lists, listed_as
from tta_dev_primitives.blocks.wire.types import ModelInfo
from tta_dev_primitives.commands.check import check
from tta_dev_primitives.config import load_orchestration_config
from tta_dev_primitives.config.models.catalogue import load_catalogue
from tta_dev_primitives.config.models.resolve import defined_targets
from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario

DEFAULTS = (CLAUDE, "claude-opus-4", GEMINI, LLAMA, "deepseek/deepseek-r1:free")
"""The five models that the guide names."""


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A running sandbox and a key for it."""
    monkeypatch.setenv(KEY, KEY_VALUE)
    with Sandbox() as running:
        yield running


def checked(path: Path, capsys: pytest.CaptureFixture[str], **options: bool) -> list[dict[str, Any]]:
    """The lines of `tta check --json`."""
    check(config=path, json=True, **options)
    lines: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["checks"]
    return lines


def written(folder: Path, config: dict[str, Any]) -> Path:
    """The configuration as a file."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"orchestration": config}))
    return path


@pytest.mark.parametrize("model", DEFAULTS)
def test_check_flags_each_model_of_the_guide_and_names_its_replacement(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Retired or about to retire: a warning with the date and what to name instead."""
    path = written(tmp_path, {"fallback_strategy": {"models": [model]}, "orchestrator": {"model": model}})
    lines = [x for x in checked(path, capsys) if x["subject"] == model and x["level"] == "warn"]
    assert any("retired on" in x["message"] and "replacement: " in x["message"] for x in lines)
    assert any(x["fix"] and x["fix"].startswith("name ") for x in lines)


def test_live_check_asks_each_provider_once(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each configured model is looked for in its provider's own list, one request a provider and key."""
    config = sandbox_config(sandbox, tmp_path)
    config["executors"].append(
        executor("openai/gpt-oss-20b", "groq", ["simple"], base_url=sandbox.base_url("groq"))
    )
    lines = checked(written(tmp_path, config), capsys, live=True)
    live = {x["subject"]: x for x in lines if " at " in x["subject"]}
    assert {name: x["level"] for name, x in live.items()} == {
        f"{GEMINI} at google-ai-studio": "ok",
        f"{LLAMA} at groq": "ok",
        "openai/gpt-oss-20b at groq": "ok",
        f"{CLAUDE} at anthropic": "ok",
    }
    assert live[f"{CLAUDE} at anthropic"]["message"].startswith("is served as claude-sonnet-4-5")
    assert [c.endpoint for c in sandbox.calls] == ["models"] * 3


def test_live_check_fails_on_a_model_that_is_not_served(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that its provider no longer lists fails the check, with the replacement in the remedy."""
    sandbox.use(parse_scenario(f"models: {{{LLAMA}: {{gone: true}}}}"))
    path = written(tmp_path, sandbox_config(sandbox, tmp_path))
    assert check(config=path, json=True, live=True) == 1
    lines = json.loads(capsys.readouterr().out)["checks"]
    (line,) = [x for x in lines if x["subject"] == f"{LLAMA} at groq"]
    assert (line["level"], line["message"]) == ("fail", f"{LLAMA} is not in the model list")
    assert line["fix"].startswith("name openai/gpt-oss-120b instead")


def test_a_model_that_a_server_of_ones_own_lacks_can_be_pulled(
    sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The catalogue lists no local models: the remedy is on that server."""
    sandbox.use(parse_scenario("models: {'nope:7b': {gone: true}}"))
    local = executor("local", "openai-compatible", ["simple"], billing="free")
    config = sandbox_config(sandbox, tmp_path, executors=[local | {"api_model": "nope:7b"}])
    assert check(config=written(tmp_path, config), json=True, live=True) == 1
    lines = json.loads(capsys.readouterr().out)["checks"]
    (line,) = [x for x in lines if x["subject"] == "local at openai-compatible"]
    assert line["message"] == "nope:7b is not in the model list"
    assert line["fix"] == "pull nope:7b on that server, or name a model that it serves"


async def test_a_missing_key_and_a_silent_provider_are_told_apart(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a key nobody is asked; a provider that cannot be reached leaves its models unknown."""
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    there = "http://127.0.0.1:9/v1"
    unreachable = executor("x", "openai-compatible", ["simple"], billing="free", base_url=there)
    keyless = {"model": LLAMA, "provider": "groq", "api_key_env": "GROQ_API_KEY", "use_cases": ["simple"]}
    config = sandbox_config(sandbox, tmp_path, executors=[unreachable, keyless])
    loaded = load_orchestration_config(written(tmp_path, config), use_env_overrides=False)
    targets = [t for t in defined_targets(loaded, load_catalogue()).values() if t.name in ("x", LLAMA)]
    async with ProviderClient() as client:
        states = await ask_model_lists(targets, load_catalogue(), client=client)
    assert [s.state for s in states] == ["unknown", "keyless"]
    assert "Nothing was sent" in states[0].note
    assert "GROQ_API_KEY" in states[1].note


def test_live_check_passes_over_providers_without_a_key(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One key is enough: models of the others were not asked for, which is a warning and no failure."""
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    config = sandbox_config(sandbox, tmp_path)
    config["executors"].append(
        {
            "model": "openai/gpt-oss-20b",
            "provider": "groq",
            "api_key_env": "GROQ_API_KEY",
            "use_cases": ["simple"],
        }
    )
    lines = checked(written(tmp_path, config), capsys, live=True)
    (line,) = [x for x in lines if x["subject"] == "openai/gpt-oss-20b at groq"]
    assert (line["level"], line["message"]) == ("warn", "not asked: its key is missing")
    assert [x for x in lines if x["level"] == "fail"] == []


def test_a_model_is_found_under_the_name_that_its_provider_lists() -> None:
    """Anthropic lists dated ids, Gemini its bare ones, Ollama a default tag."""
    config = load_orchestration_config(use_env_overrides=False)
    catalogue = load_catalogue()
    claude = defined_targets(config, catalogue)[CLAUDE]
    dated = ModelInfo("claude-sonnet-4-5-20250929", lifecycle="deprecated", retires_at="2026-11-30T00:00:00Z")
    assert listed_as(claude, [ModelInfo("claude-opus-5-5"), dated], catalogue) is dated
    assert listed_as(claude, [ModelInfo("claude-opus-5-5")], catalogue) is None


async def test_an_end_that_the_provider_announces_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that the provider's own list calls deprecated is a warning with that day."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY_VALUE)
    config = load_orchestration_config(use_env_overrides=False)
    claude = defined_targets(config, load_catalogue())[CLAUDE]
    entry = {"id": "claude-sonnet-4-5", "lifecycle": "deprecated", "retires_at": "2026-11-30T00:00:00Z"}
    listed = response(json.dumps({"data": [entry]}).encode())
    async with rude_server(answers(listed)) as server, ToSandbox(server.url) as client:
        (state,) = await ask_model_lists([claude], load_catalogue(), client=client)
    assert (state.state, state.note) == ("retires", "is served as claude-sonnet-4-5 until 2026-11-30")
