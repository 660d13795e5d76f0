"""From names to targets: provider, key, billing, limits, price, and replacements."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from tta_dev_primitives.config import (
    ConfigError,
    OrchestrationConfig,
    load_orchestration_config,
    resolve_targets,
)
from tta_dev_primitives.config.errors import UnknownModelError
from tta_dev_primitives.config.models.resolve import replacement_for
from tta_dev_primitives.config.models.targets import Target

TODAY = date(2026, 11, 23)


def load(body: str) -> OrchestrationConfig:
    Path("c.yaml").write_text("orchestration:\n" + "\n".join("  " + line for line in body.splitlines()))
    return load_orchestration_config("c.yaml", use_env_overrides=False)


def targets(body: str) -> dict[str, Target]:
    return resolve_targets(load(body), today=TODAY)


def test_the_guides_models_resolve() -> None:
    """Executors first, then the orchestrator; free where the guide says free."""
    found = resolve_targets(OrchestrationConfig(), today=TODAY)
    assert [(t.name, t.provider, t.api_model, t.billing, t.api_key_env) for t in found.values()] == [
        ("gemini-2.5-pro", "google-ai-studio", "gemini-2.5-pro", "free", "GOOGLE_API_KEY"),
        ("llama-3.3-70b-versatile", "groq", "llama-3.3-70b-versatile", "free", "GROQ_API_KEY"),
        (
            "deepseek/deepseek-r1:free",
            "openrouter",
            "deepseek/deepseek-r1:free",
            "free",
            "OPENROUTER_API_KEY",
        ),
        ("claude-sonnet-4.5", "anthropic", "claude-sonnet-4-5", "paid", "ANTHROPIC_API_KEY"),
    ]
    assert [t.family for t in found.values()] == ["gemini", "llama", "deepseek", "claude"]


def test_a_dated_id_is_sent_as_it_is_written() -> None:
    """Whoever pins a version gets that version; what is known of the model holds for it all the same."""
    pinned = targets(
        "orchestrator: {model: claude-sonnet-4-5-20250929}\n"
        "executors: [{model: fast, provider: anthropic, api_model: claude-haiku-4-5-20251001, "
        "api_key_env: K, use_cases: [simple]}]"
    )
    sonnet, haiku = pinned["claude-sonnet-4-5-20250929"], pinned["fast"]
    assert (sonnet.api_model, haiku.api_model) == ("claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001")
    assert sonnet.price is not None
    assert (sonnet.price.input_usd_per_mtok, sonnet.context_tokens) == (Decimal(3), 200_000)
    assert haiku.capabilities.json_mode == "json_schema"


def test_a_gemini_that_is_not_listed_keeps_its_own_thinking() -> None:
    """The generations take different fields: the wrong one is refused."""
    row = "{{model: {}, provider: google-ai-studio, api_key_env: K, use_cases: [simple]}}"
    names = ("gemini-9-flash", "gemini-2.5-flash", "gemini-3.8-flash")
    found = targets(f"executors: [{', '.join(row.format(name) for name in names)}]")
    assert [found[name].capabilities.thinking for name in names] == ["none", "gemini_budget", "gemini_level"]


def test_an_executors_settings_reach_its_target() -> None:
    """Address, id, price, limits, deadline, private hosts."""
    found = targets("""\
allow_private_hosts: true
executors:
  - model: local
    provider: openai-compatible
    base_url: http://127.0.0.1:11434/v1/
    api_key_env: LOCAL_KEY
    use_cases: [simple]
    billing: paid
    api_model: qwen3:8b
    max_output_tokens: 100
    timeout_s: 7.5
    price: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4}
    limits: {rpm: 3}""")["local"]
    assert found.base_url == "http://127.0.0.1:11434/v1"
    assert (found.api_model, found.family, found.billing) == ("qwen3:8b", "qwen", "paid")
    assert (found.max_output_tokens, found.timeout_s, found.allow_private_hosts) == (100, 7.5, True)
    assert found.price is not None
    assert found.price.input_usd_per_mtok == Decimal("0.1")
    assert (found.limits.rpm, found.limits.rpd, found.limits.source) == (3, None, "config")


def test_free_limits_hold_for_free_keys_at_the_providers_own_address() -> None:
    """The catalogue's figures; not for paid plans, not for another address."""
    row = "{model: openai/gpt-oss-120b, provider: groq, api_key_env: K, use_cases: [simple]"
    free = targets(f"executors: [{row}}}]")["openai/gpt-oss-120b"].limits
    assert (free.rpm, free.rpd, free.tpm, free.source) == (30, 1000, 8000, "catalogue")
    assert targets(f"executors: [{row}, billing: paid}}]")["openai/gpt-oss-120b"].limits.rpm is None
    assert targets(f"executors: [{row}, base_url: 'https://h'}}]")["openai/gpt-oss-120b"].limits.rpm is None
    gemini = resolve_targets(OrchestrationConfig(), today=TODAY)["gemini-2.5-pro"].limits
    assert (gemini.reset_zone, gemini.tokens_counted) == ("America/Los_Angeles", "input")


def test_free_models_of_openrouter_share_one_pool() -> None:
    """All of a key together have 20 requests a minute."""
    found = targets("fallback_strategy: {models: ['openai/gpt-oss-120b:free', deepseek/deepseek-r1]}")
    assert found["openai/gpt-oss-120b:free"].limits.pool == found["deepseek/deepseek-r1:free"].limits.pool
    assert found["deepseek/deepseek-r1:free"].limits.pool is not None
    assert found["deepseek/deepseek-r1"].limits.pool is None
    assert found["deepseek/deepseek-r1"].billing == "paid"


def test_a_fallback_name_takes_provider_and_key_from_who_defines_it() -> None:
    """Executor, then orchestrator, then catalogue with the variable that executors of that provider use."""
    found = targets("""\
orchestrator: {model: own-claude, provider: anthropic, api_key_env: BOSS_KEY, base_url: 'https://proxy.example'}
executors: [{model: m, provider: groq, api_key_env: MY_GROQ, use_cases: [simple]}]
fallback_strategy: {models: [m, openai/gpt-oss-20b, gemini-3.8-flash, own-claude]}""")
    assert found["m"].api_key_env == found["openai/gpt-oss-20b"].api_key_env == "MY_GROQ"
    assert found["gemini-3.8-flash"].api_key_env == "GOOGLE_API_KEY"
    assert (found["own-claude"].api_key_env, found["own-claude"].base_url) == (
        "BOSS_KEY",
        "https://proxy.example",
    )


def test_a_key_for_another_address_is_not_sent_to_the_provider() -> None:
    """A proxy's key stays with the proxy."""
    found = targets("""\
executors: [{model: m, provider: groq, api_key_env: PROXY, use_cases: [simple], base_url: 'https://proxy.example'}]
fallback_strategy: {models: [openai/gpt-oss-20b]}""")
    assert found["openai/gpt-oss-20b"].api_key_env == "GROQ_API_KEY"


def test_paid_belongs_to_the_key() -> None:
    """A Groq key declared paid is paid for the catalogue's Groq models, too."""
    found = targets("""\
executors: [{model: m, provider: groq, api_key_env: K, use_cases: [simple], billing: paid}]
fallback_strategy: {models: [openai/gpt-oss-20b]}""")
    assert found["openai/gpt-oss-20b"].billing == "paid"


@pytest.mark.parametrize(
    ("orchestrator", "provider", "variable", "billing"),
    [
        ("{model: claude-opus-4}", "anthropic", "ANTHROPIC_API_KEY", "paid"),
        ("{model: gemini-3.8-flash}", "google-ai-studio", "GOOGLE_API_KEY", "free"),
        ("{model: gemini-3.8-flash, billing: paid}", "google-ai-studio", "GOOGLE_API_KEY", "paid"),
        (
            "{model: gemini-3.8-flash, api_key_env: ANTHROPIC_API_KEY}",
            "google-ai-studio",
            "GOOGLE_API_KEY",
            "free",
        ),
        ("{model: gemini-3.8-flash, api_key_env: MINE}", "google-ai-studio", "MINE", "free"),
        ("{model: anthropic/claude-sonnet-4.5}", "openrouter", "OPENROUTER_API_KEY", "paid"),
        ("{model: a/b, provider: openrouter}", "openrouter", "OPENROUTER_API_KEY", "paid"),
        ("{model: claude-of-tomorrow}", "anthropic", "ANTHROPIC_API_KEY", "paid"),
    ],
)
def test_the_orchestrators_provider_and_key(
    orchestrator: str, provider: str, variable: str, billing: str
) -> None:
    """Its own word, else the catalogue's; the key of one provider is never sent to another."""
    config = load(f"orchestrator: {orchestrator}")
    found = resolve_targets(config, today=TODAY)[config.orchestrator.model]
    assert (found.provider, found.api_key_env, found.billing) == (provider, variable, billing)


def test_an_override_may_name_an_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    """TTA_ORCHESTRATOR_MODEL set to one of the executors: one target, with its own key."""
    Path("c.yaml").write_text("orchestration: {orchestrator: {api_key_env: ANTHROPIC_API_KEY}}")
    monkeypatch.setenv("TTA_ORCHESTRATOR_MODEL", "gemini-2.5-pro")
    config = load_orchestration_config("c.yaml")
    assert resolve_targets(config, today=TODAY)["gemini-2.5-pro"].api_key_env == "GOOGLE_API_KEY"


def test_a_model_that_nothing_defines_loads_but_does_not_resolve() -> None:
    """The error names the key and the model."""
    config = load("fallback_strategy: {models: [gemini-2.5-pro, nobody-knows-this]}")
    with pytest.raises(UnknownModelError, match=r"models\[1\]: nobody-knows-this: no executor"):
        resolve_targets(config, today=TODAY)


def test_contradictions_made_in_code_are_refused_too() -> None:
    """What the loader refuses in a file does not resolve either."""
    executor = {"model": "m", "provider": "openai-compatible", "api_key_env": "K", "use_cases": ["simple"]}
    config = OrchestrationConfig.model_validate({"executors": [executor]})
    with pytest.raises(ConfigError, match="base_url: this key is required"):
        resolve_targets(config, today=TODAY)


def test_a_longest_answer_beyond_the_models_own_is_cut() -> None:
    """The bound of a call is never above what the model can write."""
    found = targets("orchestrator: {model: claude-opus-4, max_output_tokens: 100000}")
    assert found["claude-opus-4"].max_output_tokens == 32_000


def test_a_paid_model_without_a_price_has_none() -> None:
    """It resolves (so that it can be named), and nobody pretends that it costs nothing."""
    assert targets("orchestrator: {model: claude-of-tomorrow}")["claude-of-tomorrow"].price is None


def test_replacements_keep_provider_key_and_billing() -> None:
    """All four of the guide's defaults have one."""
    config = OrchestrationConfig()
    for target in resolve_targets(config, today=TODAY).values():
        instead = replacement_for(target, config, today=TODAY)
        assert instead is not None
        assert (instead.provider, instead.billing, instead.api_key_env, instead.replaces) == (
            target.provider,
            target.billing,
            target.api_key_env,
            target.name,
        )
        assert instead.price is not None


def test_what_is_never_replaced() -> None:
    """A model with an address of its own, one that the catalogue does not know, one without a successor."""
    config = load("""\
executors:
  - {model: llama-3.3-70b-versatile, provider: groq, api_key_env: K, use_cases: [simple], base_url: 'https://h'}
  - {model: unknown-model, provider: groq, api_key_env: K, use_cases: [simple]}
  - {model: gemini-3.8-flash, provider: google-ai-studio, api_key_env: K, use_cases: [simple]}""")
    found = resolve_targets(config, today=TODAY)
    for name in ("llama-3.3-70b-versatile", "unknown-model", "gemini-3.8-flash"):
        assert replacement_for(found[name], config, today=TODAY) is None
