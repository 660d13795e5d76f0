"""Presets: servers with a name, a known address and a usual key; the defaults that depend on the provider."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from tta_dev_primitives.blocks.providers.address_rules import base_of
from tta_dev_primitives.blocks.wire.formats import PROVIDERS, wire_format
from tta_dev_primitives.config import load_orchestration_config
from tta_dev_primitives.config.errors import ConfigError, UnknownPriceError
from tta_dev_primitives.config.models import providers
from tta_dev_primitives.config.models.catalogue import load_catalogue
from tta_dev_primitives.config.models.price_lookup import list_price
from tta_dev_primitives.config.models.providers import load_providers
from tta_dev_primitives.config.models.resolve import resolve_targets
from tta_dev_primitives.config.options import OrchestrationConfig
from tta_dev_primitives.flows.routing.candidates import candidate_names

PRESETS = tuple(name for name, entry in load_providers().items() if entry.base_url is not None)
OWN = ("ollama", "lmstudio", "vllm")
TODAY = date(2026, 11, 27)


def config(**orchestration: object) -> OrchestrationConfig:
    return OrchestrationConfig.model_validate(orchestration)


def executor(provider: str, **more: object) -> dict[str, object]:
    return {"model": "m", "provider": provider, "use_cases": ["simple"], **more}


def test_every_provider_name_has_an_entry_and_a_format() -> None:
    """The option's names are those of `providers.yaml`, and each can be called."""
    names = set(load_providers())
    assert names == {*PROVIDERS, *PRESETS}
    assert all(wire_format(name).provider == name for name in names)


@pytest.mark.parametrize("provider", PRESETS)
def test_a_preset_needs_no_address_and_no_variable(provider: str) -> None:
    """Both are catalogue data; one's own server may stand on this machine without a further option."""
    target = resolve_targets(config(executors=[executor(provider, billing="free")]))["m"]
    preset = load_providers()[provider]
    assert (target.provider, target.api_key_env, target.base_url) == (provider, preset.api_key_env, None)
    assert base_of(target).url == preset.base_url
    assert base_of(target).reach == ("private" if provider in OWN else "public")


def test_an_address_of_ones_own_keeps_its_rules() -> None:
    """Another address on a private network needs `allow_private_hosts`, whatever the preset."""
    target = resolve_targets(config(executors=[executor("ollama", base_url="http://10.0.0.5:11434/v1")]))["m"]
    with pytest.raises(ConfigError, match="allow_private_hosts"):
        base_of(target)


@pytest.mark.parametrize(
    ("provider", "model", "billing"),
    [
        ("openai", "gpt-5", "paid"),
        ("deepseek", "deepseek-chat", "paid"),
        ("ollama", "qwen3", "free"),
        ("mistral", "mistral-large-latest", None),
        ("cerebras", "llama-4", None),
        ("openrouter", "a/b:free", "free"),
        ("openrouter", "a/b", "paid"),
    ],
)
def test_billing_is_filled_in_where_it_is_certain(provider: str, model: str, billing: str | None) -> None:
    """Where a provider has a free plan, too, the file must say which one the key has."""
    made = config(executors=[executor(provider, model=model, api_key_env="K")]).executors[0]
    assert made.billing == billing


def test_the_key_of_an_orchestrator_is_its_own_providers() -> None:
    """The default variable of another provider is never sent to it."""
    made = config(orchestrator={"model": "gpt-5", "provider": "openai"}, executors=[executor("ollama")])
    assert resolve_targets(made)["gpt-5"].api_key_env == "OPENAI_API_KEY"


def test_default_fallback_models_are_not_asked_beside_executors_of_ones_own(tmp_path: Path) -> None:
    """The option still shows the guide's list; runs use what the file names. Without a file the guide's list runs."""
    own = config(executors=[executor("ollama")])
    assert candidate_names(own, "simple") == ["m"]
    assert "gemini-2.5-pro" in own.fallback_strategy.models
    assert set(resolve_targets(own)) == {"m", "claude-sonnet-4.5"}
    named = config(executors=[executor("ollama")], fallback_strategy={"models": ["gemini-2.5-pro"]})
    assert candidate_names(named, "simple") == ["m", "gemini-2.5-pro"]
    assert "llama-3.3-70b-versatile" in candidate_names(config(), "simple")


@pytest.mark.parametrize(
    ("provider", "model", "known"),
    [
        ("google-ai-studio", "gemini-3.8-flash", True),
        ("google-ai-studio", "models/gemini-2.5-pro", True),
        ("google-ai-studio", "gemini-3.8-flash-cyber", False),
        ("google-ai-studio", "gemini-3.8-flash-lite", False),
        ("anthropic", "claude-sonnet-4-5-20250929", True),
        ("anthropic", "claude-sonnet-4-5-turbo", False),
        ("anthropic", "claude-opus-4-1-20250805", True),
        ("openai", "gpt-5-2025-08-07", True),
        ("openai", "gpt-5-thing", False),
        ("mistral", "mistral-large-latest", True),
    ],
)
def test_a_price_is_of_this_very_model(provider: str, model: str, known: bool) -> None:
    """A name that only begins like a known one has no price; a date at its end changes nothing."""
    if known:
        assert list_price(provider, model, catalogue=load_catalogue(), today=TODAY).input_usd_per_mtok > 0
    else:
        with pytest.raises(UnknownPriceError):
            list_price(provider, model, catalogue=load_catalogue(), today=TODAY)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("api_key_env: ${MY_KEY}", "write the variable's bare name: api_key_env: MY_KEY"),
        ("api_key_env: os.environ/MY_KEY", "write the variable's bare name: api_key_env: MY_KEY"),
        ('base_url: "${HOST:-x}/v1"', "write the value itself"),
        ('api_model: "{{ env.MODEL }}"', "write the value itself"),
        ("api_model: @best", 'a value cannot begin with @: put it in quotes, "@..."'),
        ("api_model: `best`", "a value cannot begin with `"),
    ],
)
def test_what_yaml_does_not_do_is_said(tmp_path: Path, line: str, said: str) -> None:
    """Variables are not filled in, and some characters cannot begin a value: the message says what to write."""
    path = tmp_path / "c.yaml"
    path.write_text(
        f"orchestration:\n  executors:\n  - model: m\n    provider: ollama\n    {line}\n    use_cases: []\n"
    )
    with pytest.raises(ConfigError) as refused:
        load_orchestration_config(path)
    assert said in str(refused.value)
    assert f"{path}:5" in str(refused.value)


_WITH_A_ROW_MORE = """
import sys
from pathlib import Path
from tta_dev_primitives.config.reading import strict_yaml
read, more = strict_yaml.read_yaml, Path(sys.argv[1])
strict_yaml.read_yaml = lambda path, **options: read(more if path.name == more.name else path, **options)
from tta_dev_primitives.blocks.providers.address_rules import base_of
from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.config import load_orchestration_config
from tta_dev_primitives.config.models.resolve import resolve_targets
target = resolve_targets(load_orchestration_config(sys.argv[2]))["m"]
print(target.api_key_env, target.billing, base_of(target).url, wire_format("acme").provider)
"""


def test_a_new_provider_is_one_row(tmp_path: Path) -> None:
    """With a row more in `providers.yaml` its name, address, key and billing are known everywhere."""
    shipped = Path(providers.__file__).with_name("providers.yaml")
    more = tmp_path / shipped.name
    more.write_text(
        shipped.read_text()
        + "acme:\n  api_key_env: ACME_KEY\n  base_url: https://llm.acme.example/v1\n  billing: free\n"
        "  capabilities: {temperature: true, json_mode: none, thinking: none, max_tokens_field: max_tokens}\n"
    )
    written = tmp_path / "config.yaml"
    written.write_text("orchestration: {executors: [{model: m, provider: acme, use_cases: [simple]}]}")
    command = [sys.executable, "-c", _WITH_A_ROW_MORE, str(more), str(written)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ACME_KEY", "free", "https://llm.acme.example/v1", "acme"]
