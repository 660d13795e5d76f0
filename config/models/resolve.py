"""From names in the configuration to targets that a run can call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from tta_dev_primitives.config.consistency import consistency_faults
from tta_dev_primitives.config.errors import UnknownModelError, UnknownPriceError
from tta_dev_primitives.config.models.catalogue import (
    Catalogue,
    ModelEntry,
    ProviderEntry,
    load_catalogue,
    today_utc,
)
from tta_dev_primitives.config.models.price_lookup import list_price
from tta_dev_primitives.config.models.targets import Billing, Limits, Price, Target, default_billing
from tta_dev_primitives.config.options import (
    ExecutorConfig,
    LimitsConfig,
    OrchestrationConfig,
    OrchestratorConfig,
    PriceConfig,
)
from tta_dev_primitives.config.reading.config_faults import config_error


def resolve_targets(
    config: OrchestrationConfig, catalogue: Catalogue | None = None, *, today: date | None = None
) -> dict[str, Target]:
    """A target for every model that executors, orchestrator and fallback list name.

    A name means the executor of that name, else the orchestrator, else the catalogue's entry. The provider of
    the orchestrator is what it says itself, else the catalogue's for its model, else anthropic.

    Returns:
        Targets by configured name, in the order: executors, orchestrator, fallback list.

    Raises:
        UnknownModelError: The fallback list names a model that nothing defines.
        ConfigError: Settings are missing or contradict each other.
    """
    known = catalogue or load_catalogue()
    faults = consistency_faults(config)
    if faults:
        raise config_error(faults, str(config.source) if config.source else None)
    unknown = unknown_models(config, known)
    if unknown:
        named = "; ".join(f"{key}: {model}" for key, model in unknown)
        place = f"{config.source}: " if config.source else ""
        raise UnknownModelError(
            f"{place}{named}: no executor, orchestrator or catalogue entry defines this model. "
            "Add an executor for it or correct the name."
        )
    return defined_targets(config, known, today=today)


def unknown_models(config: OrchestrationConfig, catalogue: Catalogue) -> list[tuple[str, str]]:
    """Key and name of each model in the fallback list that nothing defines."""
    defined = {executor.model for executor in config.executors} | {config.orchestrator.model}
    return [
        (f"orchestration.fallback_strategy.models[{index}]", name)
        for index, name in enumerate(config.fallback_models)
        if name not in defined and catalogue.find(name) is None
    ]


def defined_targets(
    config: OrchestrationConfig, catalogue: Catalogue, *, today: date | None = None
) -> dict[str, Target]:
    """As `resolve_targets`, but models that nothing defines are left out instead of refused."""
    day = today or today_utc()
    targets: dict[str, Target] = {}
    for source in _sources(config, catalogue):
        if source.name not in targets:
            targets[source.name] = _target(source, config, catalogue, day)
    return targets


def replacement_for(
    target: Target,
    config: OrchestrationConfig,
    catalogue: Catalogue | None = None,
    *,
    today: date | None = None,
) -> Target | None:
    """The catalogue's replacement for a model that its provider no longer serves, or None.

    It has the same provider, key and billing. A model with a `base_url` of its own is never replaced, and a
    free one only by one that the provider's free plan covers.
    """
    known, day = catalogue or load_catalogue(), today or today_utc()
    entry = known.find(target.api_model, target.provider)
    if entry is None or target.base_url is not None:
        return None
    successor = known.successor(entry, day)
    if successor is None or (target.billing == "free" and successor.free_tier is None):
        return None
    source = _Source(
        name=successor.name,
        provider=target.provider,
        api_key_env=target.api_key_env,
        billing=target.billing,
        max_output_tokens=target.max_output_tokens,
        timeout_s=target.timeout_s,
    )
    return replace(_target(source, config, known, day), replaces=target.name)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a target's settings come from, once defaults are filled in."""

    name: str
    provider: str
    api_key_env: str
    billing: Billing
    base_url: str | None = None
    api_model: str | None = None
    max_output_tokens: int = 2048
    timeout_s: float = 120.0
    price: PriceConfig | None = None
    limits: LimitsConfig | None = None
    capabilities: Mapping[str, Any] = field(default_factory=dict)


def _sources(config: OrchestrationConfig, catalogue: Catalogue) -> Iterator[_Source]:
    for executor in config.executors:
        yield _from_executor(executor)
    yield _from_orchestrator(config, catalogue)
    for name in config.fallback_models:
        entry = catalogue.find(name)
        if entry is not None:
            yield _from_catalogue(name, entry, config, catalogue)


def _from_executor(executor: ExecutorConfig) -> _Source:
    return _source(executor, executor.provider, executor.api_key_env, executor.billing or "paid")


def _from_orchestrator(config: OrchestrationConfig, catalogue: Catalogue) -> _Source:
    orchestrator = config.orchestrator
    entry = catalogue.find(orchestrator.api_model or orchestrator.model)
    provider = orchestrator.said_provider or (entry.provider if entry else "anthropic")
    key = _own_key(orchestrator, provider, config, catalogue)
    billing = orchestrator.said_billing or _plan_of_key(config, provider, key)
    # The orchestrator is the paid model unless its provider's keys are free by default.
    billing = billing or default_billing(provider, orchestrator.api_model or orchestrator.model) or "paid"
    return _source(orchestrator, provider, key, billing)


def _from_catalogue(
    name: str, entry: ModelEntry, config: OrchestrationConfig, catalogue: Catalogue
) -> _Source:
    key = _usual_key(entry.provider, config, catalogue)
    billing = (
        _plan_of_key(config, entry.provider, key) or default_billing(entry.provider, entry.name) or "paid"
    )
    return _Source(name=name, provider=entry.provider, api_key_env=key, billing=billing)


def _source(
    endpoint: ExecutorConfig | OrchestratorConfig, provider: str, key: str, billing: Billing
) -> _Source:
    return _Source(
        name=endpoint.model,
        provider=provider,
        api_key_env=key,
        billing=billing,
        base_url=endpoint.base_url,
        api_model=endpoint.api_model,
        max_output_tokens=endpoint.max_output_tokens,
        timeout_s=endpoint.timeout_s,
        price=endpoint.price,
        limits=endpoint.limits,
        capabilities={}
        if endpoint.capabilities is None
        else endpoint.capabilities.model_dump(exclude_none=True),
    )


def _own_key(
    orchestrator: OrchestratorConfig, provider: str, config: OrchestrationConfig, catalogue: Catalogue
) -> str:
    """The orchestrator's variable, unless it is the one of another provider: no key is sent to a stranger."""
    strangers = {entry.api_key_env for name, entry in catalogue.providers.items() if name != provider}
    strangers -= {catalogue.providers[provider].api_key_env}
    if orchestrator.api_key_env not in strangers:
        return orchestrator.api_key_env
    return _usual_key(provider, config, catalogue)


def _usual_key(provider: str, config: OrchestrationConfig, catalogue: Catalogue) -> str:
    """The variable that an executor of this provider names (a key for another address does not count)."""
    executors = (e for e in config.executors if e.provider == provider and e.base_url is None)
    named = next((executor.api_key_env for executor in executors), None)
    orchestrator = config.orchestrator
    said = orchestrator.said_provider == provider and "api_key_env" in orchestrator.model_fields_set
    if named is None and said and orchestrator.base_url is None:
        named = orchestrator.api_key_env
    return named or catalogue.providers[provider].api_key_env


def _plan_of_key(config: OrchestrationConfig, provider: str, api_key_env: str) -> Billing | None:
    """What an executor says of this key's plan: free or paid belongs to the key, not to the model."""
    if provider not in ("google-ai-studio", "groq"):
        return None
    return next(
        (
            executor.said_billing
            for executor in config.executors
            if executor.provider == provider and executor.api_key_env == api_key_env and executor.said_billing
        ),
        None,
    )


def _target(source: _Source, config: OrchestrationConfig, catalogue: Catalogue, day: date) -> Target:
    provider = catalogue.providers[source.provider]
    entry = catalogue.find(source.api_model or source.name, source.provider)
    named = source.api_model or source.name
    api_model = entry.api_id(named) if entry else named
    longest = entry.max_output_tokens if entry and entry.max_output_tokens else source.max_output_tokens
    return Target(
        name=source.name,
        provider=source.provider,
        api_model=api_model,
        billing=source.billing,
        api_key_env=source.api_key_env,
        family=entry.family if entry else catalogue.family_of(api_model, source.provider),
        price=_price(source, api_model, catalogue, day),
        base_url=source.base_url,
        max_output_tokens=min(source.max_output_tokens, longest),
        timeout_s=source.timeout_s,
        context_tokens=entry.context_tokens if entry else None,
        most_output_tokens=entry.max_output_tokens if entry else None,
        limits=_limits(source, entry, provider),
        capabilities=replace(catalogue.capabilities_of(api_model, source.provider), **source.capabilities),
        fixed_capabilities=frozenset(source.capabilities),
        allow_private_hosts=config.allow_private_hosts,
    )


def _price(source: _Source, api_model: str, catalogue: Catalogue, day: date) -> Price | None:
    try:
        return list_price(source.provider, api_model, catalogue=catalogue, today=day, own=source.price)
    except UnknownPriceError:
        return None


def _limits(source: _Source, entry: ModelEntry | None, provider: ProviderEntry) -> Limits:
    pooled = source.billing == "free" and source.base_url is None
    if source.limits is not None:
        return provider.limits(source.limits.model_dump(), source="config", pooled=pooled)
    figures = entry.free_tier if entry and pooled else None
    return provider.limits(figures, source="catalogue", pooled=pooled)
