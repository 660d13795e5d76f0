"""Rules that span several options: what a file must say besides each option being right by itself."""

from __future__ import annotations

from collections.abc import Iterator

from tta_dev_primitives.config.options import ExecutorConfig, OrchestrationConfig
from tta_dev_primitives.config.reading.config_faults import Fault, KeyPath

_SHARED = ("provider", "api_key_env", "base_url", "api_model", "billing", "price", "limits")


def consistency_faults(config: OrchestrationConfig) -> list[Fault]:
    """What is missing or contradicts itself between options."""
    return [*_endpoint_faults(config), *_twice_defined(config)]


def _endpoint_faults(config: OrchestrationConfig) -> Iterator[Fault]:
    root: KeyPath = ("orchestration",)
    for index, executor in enumerate(config.executors):
        here = (*root, "executors", index)
        if executor.provider == "openai-compatible" and executor.base_url is None:
            yield Fault("this key is required with provider openai-compatible", (*here, "base_url"))
        if executor.billing is None:
            yield Fault(
                f"this key is required for {executor.model} at {executor.provider}: say free or paid",
                (*here, "billing"),
            )
    orchestrator = config.orchestrator
    if orchestrator.provider == "openai-compatible" and orchestrator.base_url is None:
        here = (*root, "orchestrator", "base_url")
        yield Fault("this key is required with provider openai-compatible", here)


def _twice_defined(config: OrchestrationConfig) -> Iterator[Fault]:
    first: dict[str, tuple[int, ExecutorConfig]] = {}
    for index, executor in enumerate(config.executors):
        earlier = first.setdefault(executor.model, (index, executor))
        differing = [key for key in _SHARED if getattr(earlier[1], key) != getattr(executor, key)]
        if differing:
            yield Fault(
                f"{executor.model} is already executors[{earlier[0]}], with another {differing[0]}; "
                "give this one a name of its own and put the provider's id in api_model",
                ("orchestration", "executors", index, "model"),
            )
    twin = first.get(config.orchestrator.model)
    said = set(config.orchestrator.model_fields_set)
    if twin and twin[1].provider != "anthropic" and config.orchestrator.api_key_env == "ANTHROPIC_API_KEY":
        said.discard(
            "api_key_env"
        )  # TTA_ORCHESTRATOR_MODEL named an executor: its own key is used, see resolve
    differing = [
        key
        for key in _SHARED
        if twin and key in said and getattr(twin[1], key) != getattr(config.orchestrator, key)
    ]
    if twin and differing:
        yield Fault(
            f"{config.orchestrator.model} is also executors[{twin[0]}], with another {differing[0]}; "
            "give one of them a name of its own and put the provider's id in api_model",
            ("orchestration", "orchestrator", "model"),
        )
