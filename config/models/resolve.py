"""From names in the configuration to targets that a run can call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date

from tta_dev_primitives.config.consistency import consistency_faults
from tta_dev_primitives.config.errors import UnknownModelError, UnknownPriceError
from tta_dev_primitives.config.models.catalogue import (
    Catalogue,
    ModelEntry,
    load_catalogue,
    today_utc,
)
from tta_dev_primitives.config.models.price_lookup import list_price
from tta_dev_primitives.config.models.providers import ProviderEntry
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
    for found in _named(config, catalogue, day):
        targets.setdefault(found.name, found)
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
    found = _target(successor.name, target.provider, target.api_key_env, target.billing, config, known, day)
    longest = successor.max_output_tokens or target.max_output_tokens
    return replace(
        found,
        max_output_tokens=min(target.max_output_tokens, longest),
        timeout_s=target.timeout_s,
        replaces=target.name,
    )


def _named(config: OrchestrationConfig, catalogue: Catalogue, day: date) -> Iterator[Target]:
    for executor in config.executors:
        key, billing = executor.api_key_env, executor.billing or "paid"
        yield _target(executor.model, executor.provider, key, billing, config, catalogue, day, executor)
    yield _orchestrator(config, catalogue, day)
    for name in config.fallback_models:
        entry = catalogue.find(name)
        if entry is not None:
            key = _usual_key(entry.provider, config, catalogue)
            usual = default_billing(entry.provider, entry.name) or "paid"
            plan = _plan_of_key(config, entry.provider, key) or usual
            yield _target(name, entry.provider, key, plan, config, catalogue, day)


def _orchestrator(config: OrchestrationConfig, catalogue: Catalogue, day: date) -> Target:
    orchestrator = config.orchestrator
    entry = catalogue.find(orchestrator.api_model or orchestrator.model)
    provider = orchestrator.said_provider or (entry.provider if entry else "anthropic")
    key = _own_key(orchestrator, provider, config, catalogue)
    billing = orchestrator.said_billing or _plan_of_key(config, provider, key)
    # The orchestrator is the paid model unless its provider's keys are free by default.
    billing = billing or default_billing(provider, orchestrator.api_model or orchestrator.model) or "paid"
    return _target(orchestrator.model, provider, key, billing, config, catalogue, day, orchestrator)


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


_BY_DEFAULT = OrchestratorConfig()


def _target(
    name: str,
    provider: str,
    key: str,
    billing: Billing,
    config: OrchestrationConfig,
    catalogue: Catalogue,
    day: date,
    said: ExecutorConfig | OrchestratorConfig | None = None,
) -> Target:
    """A model as a run may call it; `said` is what the file says of it beyond its name."""
    named, said = (said and said.api_model) or name, said or _BY_DEFAULT
    base_url, entry = said.base_url, catalogue.find(named, provider)
    api_model = entry.api_id(named) if entry else named
    own = {} if said.capabilities is None else said.capabilities.model_dump(exclude_none=True)
    longest = entry.max_output_tokens if entry and entry.max_output_tokens else said.max_output_tokens
    return Target(
        name=name,
        provider=provider,
        api_model=api_model,
        billing=billing,
        api_key_env=key,
        family=entry.family if entry else catalogue.family_of(api_model, provider),
        price=_price(provider, api_model, said.price, catalogue, day),
        base_url=base_url,
        max_output_tokens=min(said.max_output_tokens, longest),
        timeout_s=said.timeout_s,
        context_tokens=entry.context_tokens if entry else None,
        most_output_tokens=entry.max_output_tokens if entry else None,
        limits=_limits(
            said.limits, entry, catalogue.providers[provider], billing == "free" and base_url is None
        ),
        capabilities=replace(catalogue.capabilities_of(api_model, provider), **own),
        fixed_capabilities=frozenset(own),
        allow_private_hosts=config.allow_private_hosts,
    )


def _price(
    provider: str, api_model: str, own: PriceConfig | None, catalogue: Catalogue, day: date
) -> Price | None:
    try:
        return list_price(provider, api_model, catalogue=catalogue, today=day, own=own)
    except UnknownPriceError:
        return None


def _limits(
    own: LimitsConfig | None, entry: ModelEntry | None, provider: ProviderEntry, pooled: bool
) -> Limits:
    if own is not None:
        return provider.limits(own.model_dump(), source="config", pooled=pooled)
    return provider.limits(entry.free_tier if entry and pooled else None, source="catalogue", pooled=pooled)
