"""The names of the guide: `MultiModelWorkflow`, its result and its errors."""

from tta_dev_primitives.config.errors import (
    AllModelsFailedError,
    BudgetExceededError,
    ConfigError,
    LedgerError,
    MissingKeyError,
    OrchestrationError,
    PrefectServerError,
    RunCancelledError,
)
from tta_dev_primitives.config.provider_errors import ProviderError
from tta_dev_primitives.flows.tasks.result import Attempt, OrchestrationResult
from tta_dev_primitives.flows.workflow import MultiModelWorkflow

__all__ = [
    "AllModelsFailedError",
    "Attempt",
    "BudgetExceededError",
    "ConfigError",
    "LedgerError",
    "MissingKeyError",
    "MultiModelWorkflow",
    "OrchestrationError",
    "OrchestrationResult",
    "PrefectServerError",
    "ProviderError",
    "RunCancelledError",
]
