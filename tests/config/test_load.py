"""Loading: search order, defaults, faults of a file with line and key, and what the loaded object knows."""

from __future__ import annotations

import logging
import pickle
import re
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from tta_dev_primitives.config import (
    ConfigError,
    ExecutorConfig,
    OrchestrationConfig,
    OrchestratorConfig,
    load_orchestration_config,
)

EXECUTOR = "{model: m, provider: groq, api_key_env: K, use_cases: [simple]}"


def write(text: str, name: str = "c.yaml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def load(body: str) -> OrchestrationConfig:
    indented = "\n".join("  " + line for line in body.splitlines())
    return load_orchestration_config(write(f"orchestration:\n{indented or '  {}'}\n"))


def refusal(body: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(body)
    return str(caught.value)


def test_search_order_is_hidden_folder_then_working_directory_then_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each place is taken only when the ones before it are empty."""
    monkeypatch.setenv("HOME", str(Path("h").absolute()))
    assert load_orchestration_config().source is None
    for place, threshold in [
        ("h/.tta/orchestration-config.yaml", 0.1),
        ("orchestration-config.yaml", 0.2),
        (".tta/orchestration-config.yaml", 0.3),
    ]:
        write(f"orchestration: {{quality_threshold: {threshold}}}", place)
        config = load_orchestration_config()
        assert config.quality_threshold == threshold
        assert config.source == Path(place).absolute()


def test_the_log_says_what_was_loaded(caplog: pytest.LogCaptureFixture) -> None:
    """INFO names the file, or says that there is none."""
    caplog.set_level(logging.INFO)
    load_orchestration_config()
    assert "No config file found, using defaults" in caplog.text
    load("")
    assert "Loaded orchestration configuration from c.yaml" in caplog.text
    assert all(record.name.startswith("tta_dev_primitives.") for record in caplog.records)


def test_a_broken_link_in_the_search_path_is_not_passed_over() -> None:
    """Falling back to another budget in silence would be worse than an error."""
    Path("orchestration-config.yaml").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match=r"Configuration file not found: orchestration-config\.yaml"):
        load_orchestration_config()


@pytest.mark.parametrize("path", ["missing.yaml", "no/such/folder/c.yaml", ""])
def test_an_explicit_path_must_exist(path: str) -> None:
    """A missing file is never replaced by defaults."""
    with pytest.raises(FileNotFoundError, match="Configuration file not found"):
        load_orchestration_config(path)


def test_an_explicit_path_may_start_at_home() -> None:
    """`~` means what it means in a shell."""
    home_file = Path.home() / "c.yaml"
    home_file.write_text("orchestration: {enabled: false}")
    assert load_orchestration_config("~/c.yaml").enabled is False


def test_a_file_without_options_has_all_defaults() -> None:
    """An empty block is the same as no file."""
    assert load("") == load_orchestration_config() == OrchestrationConfig()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("# only a comment", "the file is empty"),
        ("just text", "expected the key `orchestration:`"),
        ("- a\n- b", "expected the key `orchestration:`"),
        ("orchestration:", "orchestration: nothing stands here"),
        ("orchestration: 5", "orchestration: found 5, expected a block of keys"),
        ("enabled: true", "orchestration: this key is required as the first line"),
        ("orchestation: {}", "did you mean orchestration?"),
        ("version: 1\norchestration: {}", "version: unknown key; known here: orchestration"),
    ],
)
def test_a_file_of_another_shape_says_what_is_expected(text: str, words: str) -> None:
    """Empty, text, a list, a missing or misspelt root: each has its own clear line."""
    with pytest.raises(ConfigError) as caught:
        load_orchestration_config(write(text))
    assert words in str(caught.value)
    assert "c.yaml:1" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        (
            "qualty_threshold: 0.9",
            2,
            "orchestration.qualty_threshold: unknown key; did you mean quality_threshold?",
        ),
        ("qualityThreshold: 0.9", 2, "did you mean quality_threshold?"),
        ("prefer-free-models: true", 2, "did you mean prefer_free_models?"),
        ("budget_limit_usd: 5", 2, "it belongs at orchestration.cost_tracking.budget_limit_usd"),
        (
            "orchestrator:\n  api_key: abc",
            3,
            "did you mean api_key_env? It names the variable; keys never stand",
        ),
        ("quality_threshold: 1.5", 2, "found 1.5, expected a number from 0 to 1"),
        ("quality_threshold: -0.1", 2, "found -0.1, expected a number from 0 to 1"),
        ("quality_threshold: high", 2, "found 'high', expected a number from 0 to 1"),
        ('quality_threshold: "0.9"', 2, "without quotes"),
        ("quality_threshold: true", 2, "found true, expected a number from 0 to 1"),
        ("quality_threshold:", 2, "nothing stands here; remove the line or give a number"),
        (
            "executors:\n  - provider:",
            3,
            "executors[0].provider: nothing stands here; give one of: anthropic",
        ),
        ("executors: none", 2, "expected a list, such as [a, b]"),
        ("enabled: 1", 2, "orchestration.enabled: found 1, expected true or false"),
        ("enabled: maybe", 2, "found 'maybe', expected true or false"),
        (
            "cost_tracking:\n  budget_limit_usd: -1",
            3,
            "cost_tracking.budget_limit_usd: found -1, expected an amount",
        ),
        ("cost_tracking:\n  budget_limit_usd: 1000001", 3, "from 0 to 1000000"),
        ("cost_tracking:\n  budget_limit_usd: 0.0000000000001", 3, "at most 12 decimals"),
        ("cost_tracking:\n  alert_threshold: 80", 3, "cost_tracking.alert_threshold: found 80"),
        ("cost_tracking:\n  timezone: Mars/Base", 3, "expected a time zone"),
        ("cost_tracking:\n  on_exhausted: halt", 3, "expected one of: free_only, stop, ask"),
        ("planning: allways", 2, "did you mean always?"),
        ("routing: learnd", 2, "did you mean learned?"),
        ("routing: true", 2, "orchestration.routing: found true, expected one of: file, learned"),
        ("orchestrator: claude", 2, "found 'claude', expected a block of keys"),
        ("orchestrator:\n  model: ''", 3, "expected the name of a model"),
        ("orchestrator:\n  model: 4.5", 3, "expected the name of a model as text (put it in quotes)"),
        ("executors: m", 2, "orchestration.executors: found 'm', expected a list"),
        ("executors:\n  - m", 3, "executors[0]: found 'm', expected a block of keys"),
        ("executors:\n  - {model: m}", 3, "executors[0].provider: this key is required"),
        ("fallback_strategy:\n  models: m", 3, "fallback_strategy.models: found 'm', expected a list"),
        ("fallback_strategy:\n  max_attempts: 0", 3, "found 0, expected at least 1"),
        ("fallback_strategy:\n  max_attempts: 1.5", 3, "expected a whole number"),
        ("validation:\n  agreement: 1", 3, "found 1, expected at least 2"),
        (f"executors:\n  - {EXECUTOR.replace('groq', 'grok')}", 3, "did you mean groq?"),
        (f"executors:\n  - {EXECUTOR.replace('groq', 'google')}", 3, "did you mean google-ai-studio?"),
        (
            f"executors:\n  - {EXECUTOR.replace('[simple]', 'simple')}",
            3,
            "use_cases: found 'simple', expected a list",
        ),
        (
            f"executors:\n  - {EXECUTOR.replace('K,', '1K,')}",
            3,
            "expected the name of an environment variable",
        ),
    ],
)
def test_a_fault_names_file_line_key_and_the_expected_form(body: str, line: int, words: str) -> None:
    """One line a person can act on."""
    message = refusal(body)
    assert words in message
    assert f"c.yaml:{line}: orchestration" in message


def test_all_faults_are_told_at_once() -> None:
    """A second run for the second mistake is one run too many."""
    message = refusal(
        "qualty_threshold: 0.9\nenabled: yes\ncost_tracking:\n  budget_limit_usd: 010\n"
        "executors:\n  - {model: m, provider: groq, api_key_env: K, use_cases: [simple, invalid]}"
    )
    assert message.splitlines()[0] == "Invalid configuration, 4 faults:"
    assert [line.split(":")[1] for line in message.splitlines()[1:]] == ["2", "3", "5", "7"]


def test_unknown_use_cases_have_the_message_of_the_guide() -> None:
    """From a file and in code, in the guide's own order."""
    words = (
        "Invalid use_cases: {'invalid'}. Must be one of: "
        "{'simple', 'moderate', 'complex', 'expert', 'speed-critical', 'reasoning'}"
    )
    assert words in refusal(f"executors:\n  - {EXECUTOR.replace('simple', 'simple, invalid')}")
    with pytest.raises(ValueError, match=re.escape(words)):
        ExecutorConfig(model="m", provider="groq", api_key_env="K", use_cases=["invalid", "simple"])


@pytest.mark.parametrize(
    "value",
    [
        "sk-ant-api03-AbCdEf0123456789AbCdEf",
        "gsk_AbCdEf0123456789AbCdEf01",
        "AIzaSyA0123456789abcdefghijklmno",
    ],
)
def test_a_key_in_the_file_is_refused_and_not_shown(value: str) -> None:
    """Whoever pastes the key itself is told, and the key does not go on into logs."""
    for body in (f"orchestrator:\n  api_key_env: {value}", f"orchestrator:\n  api_key: {value}"):
        message = refusal(body)
        assert value[:12] not in message
    with pytest.raises(ValidationError) as caught:
        ExecutorConfig(model="m", provider="groq", api_key_env=value, use_cases=["simple"])
    assert value[:12] not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["ftp://h/", "https://", "https://user:secret@h/v1", "https://h/v1?key=secret", "http://[::1", "h/v1"],
)
def test_addresses_hold_no_secrets(url: str) -> None:
    """User, password and query are refused, and not shown."""
    message = refusal(f"orchestrator: {{base_url: '{url}'}}")
    assert "base_url: expected an address" in message
    assert "secret" not in message


def test_models_that_need_more_say_so() -> None:
    """openai-compatible needs an address; where free or paid is anybody's guess, the file must say."""
    body = "executors:\n  - {model: m, provider: openai-compatible, api_key_env: K, use_cases: [simple]}\n"
    body += "  - {model: a/b, provider: cerebras, api_key_env: K, use_cases: [simple]}\n"
    body += "orchestrator: {provider: openai-compatible}"
    message = refusal(body)
    assert "c.yaml:3: orchestration.executors[0].base_url: this key is required" in message
    assert "c.yaml:3: orchestration.executors[0].billing: this key is required" in message
    assert "c.yaml:4: orchestration.executors[1].billing: this key is required for a/b at cerebras" in message
    assert "c.yaml:5: orchestration.orchestrator.base_url: this key is required" in message


def test_one_name_means_one_model() -> None:
    """The same name twice is fine for other use cases, and refused with other settings."""
    twice = f"executors:\n  - {EXECUTOR}\n  - {EXECUTOR.replace('simple', 'complex')}"
    assert len(load(twice).executors) == 2
    assert "is already executors[0], with another api_key_env" in refusal(
        twice.replace("K, use_cases: [c", "L, use_cases: [c")
    )
    also = f"executors:\n  - {EXECUTOR}\norchestrator: {{model: m, api_key_env: L}}"
    assert "m is also executors[0], with another api_key_env" in refusal(also)


def test_every_optional_key_of_the_design_loads() -> None:
    """The block of optional keys, all at once."""
    config = load("""\
orchestrator: {provider: anthropic, base_url: null, billing: paid}
executors:
  - {model: m, provider: openai-compatible, base_url: "http://127.0.0.1:11434/v1", api_key_env: KEY,
     use_cases: [simple], billing: free, api_model: null, max_output_tokens: 2048, timeout_s: 120,
     price: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4},
     limits: {rpm: 30, rpd: 1000, tpm: 6000, tpd: 500000}}
fallback_strategy: {max_attempts: 6}
on_retired: replace
planning: auto
validation: {mode: adaptive, gate: balanced, agreement: 2}
cost_tracking: {on_exhausted: free_only, ledger_url: null, timezone: UTC}
allow_private_hosts: false""")
    assert config.executors[0].price is not None
    assert config.executors[0].price.input_usd_per_mtok == Decimal("0.1")
    assert config.model_copy(update={"executors": OrchestrationConfig().executors}) == OrchestrationConfig(
        orchestrator={"provider": "anthropic", "billing": "paid"}  # type: ignore[arg-type]
    )


def test_option_types_are_plain() -> None:
    """float, list, bool and str, also where the file writes an integer."""
    config = load("quality_threshold: 1\ncost_tracking: {budget_limit_usd: 5}")
    assert type(config.quality_threshold) is float
    assert type(config.cost_tracking.budget_limit_usd) is float
    assert type(config.executors[0].use_cases) is list
    assert type(config.fallback_strategy.models) is list
    assert type(config.orchestrator.model) is str


def test_minus_zero_is_zero() -> None:
    """No result or message shows a limit of -0.0."""
    config = load("quality_threshold: -0.0\ncost_tracking: {budget_limit_usd: -0.0}")
    tracking = config.cost_tracking
    assert [str(config.quality_threshold), str(tracking.budget_limit_usd), str(tracking.budget_limit)] == [
        "0.0"
    ] * 3


def test_provider_and_billing_are_filled_in_where_the_file_leaves_them_out() -> None:
    """A Claude orchestrator is Anthropic's, and paid; executors are what a key of their provider costs."""
    config = OrchestrationConfig()
    assert (config.orchestrator.provider, config.orchestrator.billing) == ("anthropic", "paid")
    assert [executor.billing for executor in config.executors] == ["free", "free", "free"]
    paid = {"model": "m", "provider": "groq", "api_key_env": "K", "use_cases": ["simple"], "billing": "paid"}
    assert ExecutorConfig.model_validate(paid).billing == "paid"
    assert OrchestratorConfig(model="gemini-2.5-pro").provider is None


def test_the_budget_is_exact_from_the_text_of_the_file() -> None:
    """More digits than a float holds survive, also through pickle and a copy with another limit."""
    tracking = load("cost_tracking: {budget_limit_usd: 123456.123456789012}").cost_tracking
    assert tracking.budget_limit == Decimal("123456.123456789012")
    assert pickle.loads(pickle.dumps(tracking)).budget_limit == Decimal("123456.123456789012")
    assert tracking.model_copy(update={"budget_limit_usd": 0.1}).budget_limit == Decimal("0.1")


def test_a_configuration_cannot_be_changed() -> None:
    """Frozen, and closed to unknown options."""
    config = OrchestrationConfig()
    with pytest.raises(ValidationError):
        config.enabled = False  # type: ignore[misc]
    with pytest.raises(ValidationError):
        OrchestrationConfig(unknown=1)  # type: ignore[call-arg]


def test_the_ledger_address_does_not_show() -> None:
    """It may hold a password."""
    tracking = load("cost_tracking: {ledger_url: 'postgresql://u:hush@h/db'}").cost_tracking
    assert tracking.ledger_url == "postgresql://u:hush@h/db"
    assert "hush" not in repr(tracking)
    assert "hush" not in refusal("cost_tracking: {ledger_url: 'mysql://u:hush@h/db'}")


def test_the_first_executor_of_a_use_case_is_found() -> None:
    """First match in the order of the file, or None."""
    config = OrchestrationConfig()
    found = config.get_executor_for_use_case("complex")
    assert found is not None
    assert found.model == "gemini-2.5-pro"
    assert config.get_executor_for_use_case("expert") is None
    assert config.get_executor_for_use_case("nonsense") is None


def test_a_configuration_survives_json_and_pickle() -> None:
    """Worker processes get it by pickle, reports by JSON."""
    config = load(
        "executors:\n  - {model: m, provider: groq, api_key_env: K, use_cases: [simple],\n"
        "     price: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.000001}}"
    )
    assert OrchestrationConfig.model_validate_json(config.model_dump_json()) == config
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert again.source == config.source
