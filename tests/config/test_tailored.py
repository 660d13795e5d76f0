"""A configuration cut to the keys that somebody has."""

from __future__ import annotations

import itertools
from datetime import date

import pytest
import yaml

from tta_dev_primitives.config.check import check_config
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.init_file import key_variables, with_keys_only
from tta_dev_primitives.config.models.catalogue import load_catalogue
from tta_dev_primitives.config.models.resolve import resolve_targets
from tta_dev_primitives.config.options import ConfigFile
from tta_dev_primitives.config.template import in_todays_names, scenario_config, todays_config

KEYS = ("ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GROQ_API_KEY", "OPENROUTER_API_KEY")
SCENARIOS = ("full", "balanced", "cost-optimized", "quality-optimized")


def text_of(scenario: str) -> str:
    """A file as `tta init` starts from it."""
    return todays_config() if scenario == "full" else in_todays_names(scenario_config(scenario))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_is_left_can_be_called(scenario: str) -> None:
    """For every set of keys: the file loads, every executor has its key, and some model can be called."""
    for count in range(1, len(KEYS) + 1):
        for have in itertools.combinations(KEYS, count):
            config = ConfigFile.model_validate(
                yaml.safe_load(with_keys_only(text_of(scenario), have))
            ).orchestration
            targets = resolve_targets(config)
            assert all(executor.api_key_env in have for executor in config.executors)
            assert all(targets[name].api_key_env in have for name in config.fallback_strategy.models)
            assert config.fallback_strategy.models


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_one_key_is_enough_for_a_file_that_passes_the_check(scenario: str) -> None:
    """Free or paid, whichever single key is there: nothing fails, and free-only files ask no orchestrator."""
    for key in KEYS:
        text = with_keys_only(text_of(scenario), [key])
        config = ConfigFile.model_validate(yaml.safe_load(text)).orchestration
        lines = check_config(config, load_catalogue(), date(2026, 11, 23), environ={key: "k-123456"})
        assert [line for line in lines if line.level == "fail"] == []
        asked = (config.planning, config.validation.mode) != ("never", "never")
        assert asked == (key == "ANTHROPIC_API_KEY")


def test_with_all_keys_nothing_changes() -> None:
    """Comments, order and every line stay."""
    assert with_keys_only(text_of("full"), KEYS) == text_of("full")


def test_comments_of_what_stays_are_kept() -> None:
    """Only the blocks of the missing keys go."""
    cut = with_keys_only(text_of("balanced"), ["ANTHROPIC_API_KEY", "GROQ_API_KEY"])
    assert "# balanced threshold" in cut
    assert "gemini" not in cut


def test_no_key_is_an_error() -> None:
    """A file without any model would help nobody."""
    with pytest.raises(ConfigError, match="name at least one provider"):
        with_keys_only(text_of("balanced"), [])


def test_scenarios_name_no_model_that_is_gone() -> None:
    """Names are brought up to date also where a comment follows them."""
    assert "claude-opus-4 " not in text_of("quality-optimized")
    assert key_variables(text_of("quality-optimized")) == ("GOOGLE_API_KEY", "ANTHROPIC_API_KEY")
