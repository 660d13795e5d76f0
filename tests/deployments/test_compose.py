"""`deployments/compose.yaml` is what docker compose takes: no docker is needed to see it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from prefect.settings import Settings
from prefect.settings.legacy import _get_valid_setting_names

FILE = Path(__file__).parents[2] / "deployments" / "compose.yaml"
_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1}
_DURATION = {"type": "string", "pattern": r"^(\d+(h|m|s|ms|us))+$"}


def _only(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required or [],
        "additionalProperties": False,
    }


# The part of the Compose Specification that the file uses; a key beyond it must be added here on purpose.
_HEALTHCHECK = _only(
    ["test"],
    test={"type": "array", "prefixItems": [{"enum": ["CMD", "CMD-SHELL"]}], "items": _TEXT, "minItems": 2},
    interval=_DURATION, timeout=_DURATION, start_period=_DURATION, retries={"type": "integer", "minimum": 1},
)  # fmt: skip
_SERVICE = _only(
    ["image"],
    image=_TEXT,
    command={"oneOf": [_TEXT, _TEXTS]},
    working_dir={"type": "string", "pattern": "^/"},
    environment={"type": "object", "additionalProperties": {"type": "string"}},
    ports={"type": "array", "items": {"type": "string", "pattern": r"^127\.0\.0\.1:\d+:\d+$"}},
    volumes={"type": "array", "items": {"type": "string", "pattern": r"^(\./)?[a-z]+:/[a-z/]+$"}},
    configs={"type": "array", "items": _only(["source"], source=_TEXT, target=_TEXT)},
    depends_on={
        "type": "object",
        "additionalProperties": _only(
            ["condition"],
            condition={"enum": ["service_started", "service_healthy", "service_completed_successfully"]},
        ),
    },
    healthcheck=_HEALTHCHECK,
    restart={"enum": ["no", "always", "on-failure", "unless-stopped"]},
)
SCHEMA = {
    "type": "object",
    "properties": {
        "services": {"type": "object", "additionalProperties": _SERVICE, "minProperties": 1},
        "configs": {"type": "object", "additionalProperties": _only(["content"], content=_TEXT)},
        "volumes": {"type": "object", "additionalProperties": {"type": "object", "maxProperties": 0}},
    },
    "patternProperties": {"^x-": {}},
    "required": ["services"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file as YAML."""
    read: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return read


def test_the_file_has_the_shape_that_compose_takes(compose: dict[str, Any]) -> None:
    """Keys, types, durations, conditions."""
    problems = [
        f"{'.'.join(map(str, e.path))}: {e.message}"
        for e in Draft202012Validator(SCHEMA).iter_errors(compose)
    ]
    assert problems == []


def test_what_a_service_refers_to_is_there(compose: dict[str, Any]) -> None:
    """Volumes and configs exist; who waits for a healthy service waits for one that has a health check."""
    services = compose["services"]
    for name, service in services.items():
        for volume in service.get("volumes", []):
            assert volume.startswith("./") or volume.partition(":")[0] in compose["volumes"], name
        for config in service.get("configs", []):
            assert config["source"] in compose["configs"], name
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other], name


def test_every_variable_is_demanded_and_explained(compose: dict[str, Any]) -> None:
    """`docker compose up` without one of them says which: an empty password must not start."""
    used = re.findall(r"\$\{([^}]*)\}", yaml.safe_dump(compose["services"], width=10_000))
    assert used
    assert all(re.fullmatch(r"[A-Z_]+:\?.*", one) for one in used), used
    header = FILE.read_text().partition("x-prefect")[0]
    assert {one.partition(":")[0] for one in used} == set(
        re.findall(r"TTA_PACKAGE|POSTGRES_PASSWORD|PREFECT_[A-Z_]+", header)
    )


def test_the_settings_are_prefects_and_the_addresses_are_services(compose: dict[str, Any]) -> None:
    """Prefect takes a variable of a wrong name without a word."""
    # Read by Prefect's encryption and by prefect-redis, not by its settings.
    elsewhere = {"PREFECT_SERVER_ENCRYPTION_KEY", "PREFECT_REDIS_MESSAGING_URL"}
    services = compose["services"]
    for name in ("api", "services", "worker"):
        environment = services[name]["environment"]
        prefects = {variable for variable in environment if variable.startswith("PREFECT_")}
        assert prefects - _get_valid_setting_names(Settings) - elsewhere == set(), name
        hosts = {host for v in environment.values() for host in re.findall(r"//(?:[^@/]*@)?([a-z]+)", v)}
        assert hosts <= services.keys(), name
