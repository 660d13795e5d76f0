"""Which models may serve a task, in which order. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tta_dev_primitives.config.errors import UnknownModelError
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.options import USE_CASES
from tta_dev_primitives.config.orchestration_config import OrchestrationConfig


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A model that the configuration names but this run does not try, and why."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class Route:
    """Ordered candidates of one task, and what was passed over."""

    candidates: tuple[Target, ...]
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def free(self) -> tuple[Target, ...]:
        """The candidates whose key's plan is free, in order."""
        return tuple(t for t in self.candidates if t.billing == "free")


def configured_use_cases(config: OrchestrationConfig) -> tuple[str, ...]:
    """Use cases that some executor lists; every one when there is no executor."""
    listed = {use_case for executor in config.executors for use_case in executor.use_cases}
    return tuple(u for u in USE_CASES if u in listed) or USE_CASES


def candidate_names(
    config: OrchestrationConfig, use_case: str, executors: Sequence[str] | None = None
) -> list[str]:
    """Model names by the rule: executors that list the use case in file order, then the fallback list, once each.

    Args:
        executors: Another order of those executors (`routing: learned`).
    """
    if not config.enabled:
        return [config.orchestrator.model]
    names = executor_names(config, use_case) if executors is None else list(executors)
    names += config.fallback_models
    return list(dict.fromkeys(names))


def executor_names(config: OrchestrationConfig, use_case: str) -> list[str]:
    """The executors that list the use case, in the order of the file."""
    return list(dict.fromkeys(e.model for e in config.executors if use_case in e.use_cases))


def route(
    config: OrchestrationConfig,
    targets: Mapping[str, Target],
    use_case: str,
    *,
    executors: Sequence[str] | None = None,
    blocked: Mapping[str, str] | None = None,
    replacements: Mapping[str, Target] | None = None,
) -> Route:
    """Order the candidates of one task.

    Args:
        executors: Another order of the executors that list it than the file's.
        blocked: Model name -> reason for models that cannot be tried now (no key, cool-down, gone).
        replacements: Model name -> the target that stands in for it.

    Raises:
        UnknownModelError: A candidate that no executor, orchestrator or catalogue entry defines.
    """
    blocked = blocked or {}
    replacements = replacements or {}
    chosen: list[Target] = []
    passed: list[PassedOver] = []
    for name in candidate_names(config, use_case, executors):
        replacement = replacements.get(name)
        if replacement is not None:
            chosen.append(replacement)
        elif name in blocked:
            passed.append(PassedOver(name, blocked[name]))
        elif name in targets:
            chosen.append(targets[name])
        else:
            raise UnknownModelError(
                f"{config.source or 'configuration'}: model {name!r} is defined by no executor, orchestrator or "
                f"catalogue entry. Add it to orchestration.executors or correct its name."
            )
    unique = _once(chosen)
    if config.prefer_free_models and config.enabled:
        unique = [t for t in unique if t.billing == "free"] + [t for t in unique if t.billing == "paid"]
    limit = config.fallback_strategy.max_attempts
    passed += [PassedOver(t.name, f"beyond fallback_strategy.max_attempts={limit}") for t in unique[limit:]]
    return Route(tuple(unique[:limit]), tuple(passed))


def _once(targets: Sequence[Target]) -> list[Target]:
    seen: dict[str, Target] = {}
    for target in targets:
        seen.setdefault(target.key, target)
    return list(seen.values())
