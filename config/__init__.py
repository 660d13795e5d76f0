"""What the user wrote and what is known of models. Reads YAML and the environment, does no other I/O.

Names are loaded on first use, so that importing one small module of this room does not import all of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tta_dev_primitives.config.errors import ConfigError
    from tta_dev_primitives.config.models.catalogue import load_catalogue
    from tta_dev_primitives.config.models.resolve import resolve_targets
    from tta_dev_primitives.config.orchestration_config import (
        CostTrackingConfig,
        ExecutorConfig,
        FallbackStrategy,
        OrchestrationConfig,
        OrchestratorConfig,
        ValidationConfig,
        create_default_config,
        load_orchestration_config,
    )

_HOMES = {
    "ConfigError": "errors",
    "load_catalogue": "models.catalogue",
    "resolve_targets": "models.resolve",
}

__all__ = [
    "ConfigError",
    "CostTrackingConfig",
    "ExecutorConfig",
    "FallbackStrategy",
    "OrchestrationConfig",
    "OrchestratorConfig",
    "ValidationConfig",
    "create_default_config",
    "load_catalogue",
    "load_orchestration_config",
    "resolve_targets",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOMES.get(name, 'orchestration_config')}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
