"""The public module of the configuration: its models, the loader and the default file."""

from __future__ import annotations

from tta_dev_primitives.config.loader import load_orchestration_config
from tta_dev_primitives.config.options import (
    CostTrackingConfig,
    ExecutorConfig,
    FallbackStrategy,
    OrchestrationConfig,
    OrchestratorConfig,
    ValidationConfig,
)
from tta_dev_primitives.config.template import create_default_config

__all__ = [
    "CostTrackingConfig",
    "ExecutorConfig",
    "FallbackStrategy",
    "OrchestrationConfig",
    "OrchestratorConfig",
    "ValidationConfig",
    "create_default_config",
    "load_orchestration_config",
]
