"""The files that ship: the default, the example, scenarios, environments, and the schema for editors."""

from __future__ import annotations

import json
import logging
import os
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tta_dev_primitives.config import (
    ConfigError,
    OrchestrationConfig,
    create_default_config,
    load_catalogue,
    load_orchestration_config,
    resolve_targets,
)
from tta_dev_primitives.config.template import guide_config, in_todays_names, scenario_config, todays_config

ROOM = Path(__file__).parents[2] / "config"
SCHEMA = (ROOM / "orchestration-config.schema.json").read_text()
SHIPPED = sorted(
    [*ROOM.glob("scenarios/*.yaml"), *ROOM.glob("environments/*.yaml"), ROOM / "default-config.yaml"]
)


def test_the_default_file_is_created_with_its_folder(caplog: pytest.LogCaptureFixture) -> None:
    """It loads without a warning and means the same as the defaults."""
    caplog.set_level(logging.WARNING)
    path = create_default_config()
    assert path == Path(".tta/orchestration-config.yaml")
    config = load_orchestration_config()
    assert config.source == path.absolute()
    assert config == OrchestrationConfig()
    assert not caplog.records


def test_an_existing_file_is_never_touched(caplog: pytest.LogCaptureFixture) -> None:
    """Run twice, over a file of one's own, or over a broken link: left as it is, and said so."""
    Path("mine.yaml").write_text("mine")
    Path("link.yaml").symlink_to("nowhere")
    for name in ("mine.yaml", "mine.yaml", "link.yaml"):
        create_default_config(name)
    assert Path("mine.yaml").read_text() == "mine"
    assert not Path("nowhere").exists()
    assert caplog.text.count("already exists and was left as it is") == 3


def test_nothing_half_written_stays_behind() -> None:
    """Only the file itself is there, readable by all, writable by the owner at most."""
    before = os.umask(0)
    try:
        create_default_config("deep/er/c.yaml")
    finally:
        os.umask(before)
    assert [p.name for p in Path("deep/er").iterdir()] == ["c.yaml"]
    assert Path("deep/er/c.yaml").stat().st_mode & 0o777 == 0o644


def test_a_place_that_cannot_be_written_is_a_config_error() -> None:
    """A folder, or a path through a file: one line that names the path."""
    Path("file").write_text("")
    places: list[tuple[Any, str]] = [
        (".", "is a folder"),
        ("file/c.yaml", "file is not a folder"),
        ("a\0b", "null"),
        (1, "output_path: 1 is no path"),
    ]
    for place, words in places:
        with pytest.raises(ConfigError, match=words):
            create_default_config(place)
    with pytest.raises(ConfigError, match="use_env_overrides: 'no' is not accepted"):
        load_orchestration_config(use_env_overrides="no")  # type: ignore[arg-type]
    assert sorted(p.name for p in Path().iterdir()) == ["file"]


def test_the_example_at_the_root_is_the_default_file() -> None:
    """What the troubleshooting section copies."""
    example = Path(__file__).parents[2] / ".tta" / "orchestration-config.yaml.example"
    assert example.read_text() == guide_config()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_every_shipped_file_loads_resolves_and_fits_the_schema(path: Path) -> None:
    """With every model in it defined and every paid one priced."""
    config = load_orchestration_config(path)
    targets = resolve_targets(config, today=date(2026, 11, 23))
    assert all(target.price is not None for target in targets.values())
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(SCHEMA))


def test_todays_file_names_no_model_that_is_about_to_go() -> None:
    """What `tta init` writes has the guide's shape and today's models."""
    Path("c.yaml").write_text(todays_config())
    config, guide = load_orchestration_config("c.yaml"), OrchestrationConfig()
    catalogue = load_catalogue()
    for target in resolve_targets(config).values():
        assert catalogue.find(target.name, target.provider) is not None
        assert catalogue.lifecycle_warnings(target.name, date(2026, 11, 23), provider=target.provider) == []
    assert [e.use_cases for e in config.executors] == [e.use_cases for e in guide.executors]
    assert [e.provider for e in config.executors] == [e.provider for e in guide.executors]


@pytest.mark.parametrize("scenario", ["cost-optimized", "balanced", "quality-optimized"])
def test_todays_scenarios_name_no_model_that_is_about_to_go(scenario: str) -> None:
    """The orchestrator, which the guide's scenarios leave to the default, is among today's models as well."""
    Path("c.yaml").write_text(in_todays_names(scenario_config(scenario)))
    for target in resolve_targets(load_orchestration_config("c.yaml")).values():
        assert (
            load_catalogue().lifecycle_warnings(target.name, date(2026, 11, 23), provider=target.provider)
            == []
        )


def test_every_option_is_described_in_the_schema() -> None:
    """An editor shows what each option is for."""
    schema = json.loads(SCHEMA)
    jsonschema.Draft202012Validator.check_schema(schema)
    for name, model in schema["$defs"].items():
        for key, option in model["properties"].items():
            named = schema["$defs"][option["$ref"].rsplit("/", 1)[-1]] if "$ref" in option else {}
            assert option.get("description") or named.get("description"), f"{name}.{key}"


@pytest.mark.parametrize(
    "body",
    [
        {"quality_threshold": 1.5},
        {"unknown": 1},
        {"executors": [{"model": "m"}]},
        {"executors": [{"model": "m", "provider": "groq", "api_key_env": "K", "use_cases": ["invalid"]}]},
        {"cost_tracking": {"budget_limit_usd": -1}},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(body: object) -> None:
    """An editor marks the mistake before the program does."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"orchestration": body}, json.loads(SCHEMA))
    Path("c.yaml").write_text(json.dumps({"orchestration": body}))
    with pytest.raises(ConfigError):
        load_orchestration_config("c.yaml")
