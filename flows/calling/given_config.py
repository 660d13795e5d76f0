"""The configuration that a flow's parameter names. A run that came through the API may not name anyone's file."""

from __future__ import annotations

import os
from pathlib import Path

from prefect.context import FlowRunContext

from tta_dev_primitives.config import OrchestrationConfig, load_orchestration_config
from tta_dev_primitives.config.errors import ConfigError, UntrustedConfigError
from tta_dev_primitives.config.home import tta_home
from tta_dev_primitives.config.reading.trusted_files import foreign_file


def load_given_config(config_path: str | Path | None) -> OrchestrationConfig:
    """Load the configuration of a run; None searches the usual places.

    Raises:
        UntrustedConfigError: The run came through the API and names a file that may be another user's.
        ConfigError: The file is wrong or missing.
    """
    if config_path is not None and _came_through_the_api():
        path = Path(config_path).expanduser().absolute()
        reason = foreign_file(path, _folders())
        if reason is not None:
            raise UntrustedConfigError(
                f"config_path {path} of a run from the Prefect API is refused: {reason}. Use a file of the worker's "
                "user, below home, the worker's folder, or a folder of TTA_CONFIG_FOLDERS in its environment."
            )
    try:
        return load_orchestration_config(config_path)
    except FileNotFoundError as missing:
        raise ConfigError(
            f"{missing}. To fix: give `config_path` a file of the machine that runs this flow."
        ) from None


def _came_through_the_api() -> bool:
    """Whether the parameters were set by a request to the API, rather than by a call in this process."""
    run = FlowRunContext.get()
    return run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None


def _folders() -> list[Path]:
    named = os.environ.get("TTA_CONFIG_FOLDERS", "").split(os.pathsep)
    return [Path.home(), tta_home(), Path.cwd(), *(Path(name) for name in named if os.path.isabs(name))]
