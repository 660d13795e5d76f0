"""What `tta check` says of a configuration without calling anybody: names, lifetimes, prices, keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Literal

from tta_dev_primitives.config.consistency import consistency_faults
from tta_dev_primitives.config.errors import ConfigError, MissingKeyError
from tta_dev_primitives.config.models.catalogue import Catalogue
from tta_dev_primitives.config.models.providers import load_providers
from tta_dev_primitives.config.models.resolve import defined_targets, unknown_models
from tta_dev_primitives.config.models.targets import Target, endpoint_in
from tta_dev_primitives.config.options import USE_CASES, OrchestrationConfig
from tta_dev_primitives.config.reading.api_keys import find_api_key


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One finding and, unless all is well, what to do about it."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    message: str
    fix: str | None = None


ok, warn, fail = partial(CheckLine, "ok"), partial(CheckLine, "warn"), partial(CheckLine, "fail")


def check_config(
    config: OrchestrationConfig,
    catalogue: Catalogue,
    today: date,
    *,
    environ: Mapping[str, str] | None = None,
) -> list[CheckLine]:
    """Judge a loaded configuration.

    Returns:
        Findings in a fixed order: where the settings come from, use cases, models, addresses, keys.
    """
    targets = list(defined_targets(config, catalogue, today=today).values())
    return [
        *_origin(config),
        *_contradictions(config),
        *_use_cases(config),
        *_unknown(config, catalogue),
        *(line for target in targets for line in _model(target, catalogue, today)),
        *(line for target in targets for line in _address(target)),
        *_keys(config, targets, environ),
        *_stranger_key(config, targets),
    ]


def _origin(config: OrchestrationConfig) -> Iterator[CheckLine]:
    if config.source is None:
        yield warn("config", "no configuration file: the defaults of the guide hold", "create one: tta init")
    else:
        yield ok("config", f"loaded from {config.source}")
    for variable, key in config.overrides.items():
        yield ok("config", f"{variable} overrides {key}")
    if not config.cost_tracking.enabled:
        yield warn(
            "cost_tracking",
            "cost tracking is off: no budget holds",
            "set orchestration.cost_tracking.enabled: true",
        )


def _contradictions(config: OrchestrationConfig) -> Iterator[CheckLine]:
    for fault in consistency_faults(config):
        yield fail("config", fault.text(None), "fix the file")


def _use_cases(config: OrchestrationConfig) -> Iterator[CheckLine]:
    if not config.executors:
        yield warn("executors", "no executors: all work goes to the fallback list", "add an executor")
        return
    missing = [use_case for use_case in USE_CASES if config.get_executor_for_use_case(use_case) is None]
    if missing:
        yield CheckLine(
            "ok" if config.fallback_strategy.models else "warn",
            "use_cases",
            f"no executor takes {', '.join(missing)}: such tasks go to the fallback list",
            "add them to the use_cases of an executor if you want one to take them",
        )
    for executor in config.executors:
        if not executor.use_cases and executor.model not in config.fallback_strategy.models:
            yield warn(
                executor.model,
                "is never used: no use_cases, not in the fallback list",
                "give it use_cases",
            )


def _unknown(config: OrchestrationConfig, catalogue: Catalogue) -> Iterator[CheckLine]:
    for key, name in unknown_models(config, catalogue):
        yield fail(
            name,
            f"{key}: no executor, orchestrator or catalogue entry defines this model",
            "add an executor for it or correct the name (tta models lists the known ones)",
        )


def _model(target: Target, catalogue: Catalogue, today: date) -> Iterator[CheckLine]:
    entry = catalogue.find(target.api_model, target.provider)
    successor = catalogue.successor(entry, today) if entry else None
    for warning in catalogue.warnings_of(target, today):
        fix = f"name {successor.name} instead" if successor else "name another model"
        yield warn(target.name, warning, fix)
    if target.billing == "free":
        yield ok(target.name, f"{target.provider}, free plan")
    elif target.price is None:
        yield fail(
            target.name,
            f"{target.provider}, paid, and its price is not known: it would be refused",
            "give price: {input_usd_per_mtok: ..., output_usd_per_mtok: ...}, or correct the name",
        )
    else:
        price = target.price
        amounts = (
            f"{price.input_usd_per_mtok:f} in / {price.output_usd_per_mtok:f} out USD per million tokens"
        )
        yield ok(target.name, f"{target.provider}, paid, {amounts} ({price.source})")


def _address(target: Target) -> Iterator[CheckLine]:
    if target.base_url is None:
        return
    endpoint = endpoint_in(target.base_url)
    if endpoint:
        base = target.base_url.rstrip("/").removesuffix(endpoint)
        yield warn(
            target.name,
            f"base_url ends in the endpoint {endpoint}; calls use {base} as the base",
            f"write base_url: {base}",
        )


def _keys(
    config: OrchestrationConfig, targets: list[Target], environ: Mapping[str, str] | None
) -> Iterator[CheckLine]:
    users: dict[str, list[Target]] = {}
    for target in targets:
        users.setdefault(target.api_key_env, []).append(target)
    lines = [_key(config, variable, served, environ) for variable, served in users.items()]
    yield from lines
    if all(line.level != "ok" for line in lines):
        yield fail("keys", "no model has a key: nothing can run", "set one of: " + ", ".join(users))


def _key(
    config: OrchestrationConfig, variable: str, served: list[Target], environ: Mapping[str, str] | None
) -> CheckLine:
    names = ", ".join(target.name for target in served)
    fix = f"export {variable}=your-key, or add that line to .env"
    needed = any(target.name == config.orchestrator.model for target in served) and (
        not config.enabled or config.validation.mode != "never" or config.planning != "never"
    )
    absent = "not set"
    try:
        key = find_api_key(variable, environ)
    except MissingKeyError:
        key, absent = None, "a placeholder, not a key"
    except ConfigError as error:
        return fail(variable, f"for {names}: {error}", fix)
    if key is not None:
        return ok(variable, f"set, for {names}")
    if all(_may_lack_a_key(target) for target in served):
        return ok(variable, f"{absent}: {names} called without a key")
    consequence = "the orchestrator cannot plan or validate" if needed else "passed over"
    return CheckLine(
        "fail" if needed else "warn", variable, f"{absent}; needed by {names}: {consequence}", fix
    )


def _may_lack_a_key(target: Target) -> bool:
    """A server of one's own may need no key; a service on the internet does, whatever format it speaks."""
    preset = load_providers().get(target.provider)
    return target.provider == "openai-compatible" or (preset is not None and preset.own_server)


def _stranger_key(config: OrchestrationConfig, targets: list[Target]) -> Iterator[CheckLine]:
    orchestrator = next((t for t in targets if t.name == config.orchestrator.model), None)
    written = config.orchestrator.api_key_env
    if orchestrator and orchestrator.api_key_env != written:
        yield warn(
            "orchestrator",
            f"{orchestrator.name} is served by {orchestrator.provider}: {orchestrator.api_key_env} is used, "
            f"not {written}",
            f"set orchestration.orchestrator.api_key_env: {orchestrator.api_key_env}",
        )
