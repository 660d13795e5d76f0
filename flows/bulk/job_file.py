"""The job file beside the output (`OUT.job.json`): which input and configuration the answers come from, and the plan.

It lets the next run of the same job use the same plan, count what earlier runs cost, and notice when results would mix.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ValidationError

from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.bulk.output import OutputError, replacing
from tta_dev_primitives.flows.planning.plan_model import Plan

_MOST_RUNS = 10_000
SAMPLE = 8
"""How many of the first tasks the planner sees."""


class JobFile(BaseModel):
    """What is kept of a job between its runs."""

    version: int = 1
    input: str
    config_digest: str
    plan: Plan | None = None
    """One for all tasks: its use case and format are for those whose own words name none."""
    planned: bool = False
    """The plan is settled, even when there is none."""
    flow_run_ids: list[str] = []
    waited_s: float = 0.0
    """Seconds of the job's patience that its runs have used up."""

    @classmethod
    def path_of(cls, output: Path) -> Path:
        """Where the job file of an output is."""
        return output.with_name(output.name + ".job.json")

    @classmethod
    def read(cls, output: Path) -> Self | None:
        """The job file of `output`; None when there is none.

        Raises:
            ConfigError: It cannot be read.
        """
        path = cls.path_of(output)
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise ConfigError(f"{path}: not a job file. Remove it, or choose another --out.") from None

    def write(self, output: Path) -> None:
        """Save it, whole or not at all."""
        path = self.path_of(output)
        self.flow_run_ids = self.flow_run_ids[-_MOST_RUNS:]
        try:
            with replacing(path, "w", encoding="utf-8") as file:
                file.write(self.model_dump_json(indent=1) + "\n")
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}. Fix that and run the job again.") from error


def config_digest(config: OrchestrationConfig) -> str:
    """A digest of what answers depend on: models, addresses, thresholds; not the budget."""
    settings: dict[str, Any] = config.model_dump(mode="json", exclude={"cost_tracking", "prefect_limits"})
    if config.routing == "file":
        del settings["routing"]  # jobs that began before there was this option go on
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
