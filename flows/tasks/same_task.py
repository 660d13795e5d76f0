"""The same task again: recognised by its key, it ends as it ended before, at no cost. Pure.

The key covers the task, what the caller said of it, every setting but the budget's, and the prompts. Only accepted
answers are decided so; a task that ended without one is tried anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pydantic import ValidationError

from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.flows.planning.plan_model import Plan
from tta_dev_primitives.flows.prompts import versions
from tta_dev_primitives.flows.tasks.item import Item
from tta_dev_primitives.flows.validation.case import Decided


@dataclass(frozen=True, slots=True)
class Remembered:
    """What was kept of a task: its plan, and how it was decided (None for a task of several parts)."""

    plan: Plan | None
    decided: Decided | None


def settings_digest(config: OrchestrationConfig, orchestrator_key: str) -> str:
    """A digest of everything but the task that an answer depends on; the budget decides whether, not what."""
    settings = config.model_dump_json(exclude={"cost_tracking": True, "validation": {"learning_credit_usd"}})
    return hashlib.sha256(f"{settings}\n{orchestrator_key}\n{versions()}".encode()).hexdigest()


def task_key(item: Item, settings: str) -> str | None:
    """The key of an item before it is planned; None when a check of the caller's own decides over its answers."""
    if item.check is not None:
        return None
    plan = None if item.plan is None else item.plan.model_dump()
    schema = None if item.output is None else item.output.schema
    parts: list[object] = ["task/1", settings, item.task, item.system, item.use_case, plan, schema]
    parts += [] if item.seed is None else [item.seed]
    return hashlib.sha256(
        json.dumps(parts, sort_keys=True, default=dict).encode("utf-8", "surrogatepass")
    ).hexdigest()


def decision_text(plan: Plan | None, decided: Decided | None) -> str:
    """The decision as it is kept."""
    ended = None if decided is None else asdict(decided)
    return json.dumps({"plan": None if plan is None else plan.model_dump(), "ended": ended})


def read_decision(text: str) -> Remembered | None:
    """The decision that `decision_text` wrote; None for one of another version."""
    try:
        raw: Mapping[str, object] = json.loads(text)
        plan = None if raw["plan"] is None else Plan.model_validate(raw["plan"])
        ended = raw["ended"]
        return Remembered(plan, None if ended is None else Decided(**ended))  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError, ValidationError):
        return None
