"""The public module of the configuration: its models, the loader, the overrides and the default file."""

from __future__ import annotations

from tta_dev_primitives.config.loader import SEARCH_PATHS, find_config_file, load_orchestration_config
from tta_dev_primitives.config.options import (
    USE_CASES,
    CostTrackingConfig,
    ExecutorConfig,
    FallbackStrategy,
    LimitsConfig,
    OrchestrationConfig,
    OrchestratorConfig,
    PriceConfig,
    ValidationConfig,
)
from tta_dev_primitives.config.overrides import OVERRIDES
from tta_dev_primitives.config.template import (
    DEFAULT_PATH,
    create_default_config,
    guide_config,
    todays_config,
)

__all__ = [
    "DEFAULT_PATH",
    "OVERRIDES",
    "SEARCH_PATHS",
    "USE_CASES",
    "CostTrackingConfig",
    "ExecutorConfig",
    "FallbackStrategy",
    "LimitsConfig",
    "OrchestrationConfig",
    "OrchestratorConfig",
    "PriceConfig",
    "ValidationConfig",
    "create_default_config",
    "find_config_file",
    "guide_config",
    "load_orchestration_config",
    "todays_config",
]
