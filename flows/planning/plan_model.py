"""Plans: what a task needs before it is executed. Pure but for reading the prompt text of this package.

A plan carries no model, price, budget or address: a task's text can never choose what is called or paid. A model is
asked for one only when the task needs it (`needs_planner`); else `default_plan` costs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tta_dev_primitives.flows.answers.closed_answers import FORMATS, AnswerFormat
from tta_dev_primitives.flows.answers.strict_json import StrictJsonError, one_object
from tta_dev_primitives.flows.planning.local_classifier import answer_format, classify, is_compound
from tta_dev_primitives.flows.prompts import prompt

Planning = Literal["auto", "always", "never"]
PLAN_SCHEMA_NAME = "tta_plan"
_SHORT_WORDS = 40
MOST_SUBTASKS = 8
_WORTH_A_PLAN = 100
"""Tasks from which on the orchestrator's plan is a small part of what they save; a free model plans fewer."""

_Line = Annotated[str, Field(max_length=400)]


class PlanError(ValueError):
    """A plan that may not be used; the message can be shown to the planner for its one retry."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Subtask(_Strict):
    """One part of a compound task."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")
    task: str = Field(min_length=1, max_length=4000, description="Can be read on its own")
    needs: Annotated[list[str], Field(max_length=MOST_SUBTASKS)] = []
    """Names of parts whose results this part must see."""


class Plan(_Strict):
    """What is decided about a task before it is executed."""

    use_case: str
    instructions: str = Field(default="", max_length=2000)
    answer_format: AnswerFormat = "open"
    acceptance_criteria: Annotated[list[_Line], Field(max_length=8)] = []
    subtasks: Annotated[list[Subtask], Field(max_length=MOST_SUBTASKS)] = []

    @field_validator("acceptance_criteria")
    @classmethod
    def _no_blank_criteria(cls, value: list[str]) -> list[str]:
        return [line.strip() for line in value if line.strip()]

    @model_validator(mode="after")
    def _parts_form_a_graph(self) -> Plan:
        names = [s.name for s in self.subtasks]
        if len(set(names)) != len(names):
            raise ValueError("two sub-tasks have the same name")
        for part in self.subtasks:
            unknown = set(part.needs) - set(names)
            if unknown:
                raise ValueError(
                    f"sub-task {part.name} needs {', '.join(sorted(unknown))}, which no sub-task is"
                )
        waves(self)
        return self

    @property
    def closed(self) -> bool:
        """True when two answers can be compared without a judge."""
        return self.answer_format != "open"


def waves(plan: Plan) -> list[list[Subtask]]:
    """The sub-tasks in rounds: those of one round can run at the same time.

    Raises:
        ValueError: They need each other in a circle.
    """
    by_name = {part.name: part for part in plan.subtasks}
    order = TopologicalSorter({part.name: part.needs for part in plan.subtasks})
    try:
        order.prepare()
    except CycleError as circle:
        raise ValueError(f"sub-tasks need each other in a circle: {', '.join(circle.args[1])}") from None
    rounds: list[list[Subtask]] = []
    while order.is_active():
        ready = order.get_ready()
        rounds.append([part for name, part in by_name.items() if name in ready])
        order.done(*ready)
    return rounds


def needs_planner(task: str, use_case: str | None, mode: Planning) -> bool:
    """Whether a model plans: always when set so, else when the task is compound or unclear."""
    if mode != "auto":
        return mode == "always"
    return is_compound(task) or is_unclear(task, use_case)


def orchestrator_plans_job(mode: Planning, tasks: int | None) -> bool:
    """Whether a bulk job that needs a plan pays for it.

    Args:
        tasks: How many there are to do; None: not known.
    """
    return mode == "always" or tasks is None or tasks >= _WORTH_A_PLAN


def is_unclear(task: str, use_case: str | None) -> bool:
    """Whether neither the caller nor the local classifier knows the task's use case."""
    return use_case is None and not classify(task).sure


def typed_plan(plan: Plan) -> Plan:
    """The plan of a typed task: the type says what the answer is; a part of a compound task would have none."""
    return plan.model_copy(update={"answer_format": "json"})


def default_plan(
    task: str, use_case: str | None = None, *, allowed: Sequence[str] = (), system: str | None = None
) -> Plan:
    """The plan that costs nothing: the caller's or the local classifier's use case, the format that is asked for.

    Args:
        use_case: As the caller named it.
        system: The caller's system text, which may say how to answer.
        allowed: Configured use cases; a classified one that is not among them becomes the nearest that is.
    """
    chosen = use_case or classify(task).use_case
    if use_case is None and allowed and chosen not in allowed:
        chosen = next((u for u in _NEAREST[chosen] if u in allowed), chosen)
    return Plan(use_case=chosen, answer_format=answer_format(task, system))


_NEAREST: Mapping[str, tuple[str, ...]] = {
    "simple": ("speed-critical", "moderate", "complex", "reasoning", "expert"),
    "speed-critical": ("simple", "moderate", "complex", "reasoning", "expert"),
    "moderate": ("complex", "reasoning", "expert", "simple", "speed-critical"),
    "complex": ("reasoning", "expert", "moderate", "simple", "speed-critical"),
    "reasoning": ("complex", "expert", "moderate", "simple", "speed-critical"),
    "expert": ("reasoning", "complex", "moderate", "simple", "speed-critical"),
}


def plan_system(use_cases: Sequence[str]) -> str:
    """The planner's system text; its first line names the prompt and its version."""
    return prompt("plan").text.format(use_cases=" | ".join(use_cases))


def plan_schema(use_cases: Sequence[str]) -> dict[str, Any]:
    """The JSON Schema `tta_plan`, in the subset that every provider takes (no bounds, no recursion)."""
    text = {"type": "string"}
    part = _object({"name": text, "task": text, "needs": {"type": "array", "items": text}})
    return _object(
        {
            "use_case": {"type": "string", "enum": list(use_cases)},
            "instructions": text,
            "answer_format": {"type": "string", "enum": list(FORMATS)},
            "acceptance_criteria": {"type": "array", "items": text},
            "subtasks": {"type": "array", "items": part},
        }
    )


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def parse_plan(text: str, use_cases: Sequence[str]) -> Plan:
    """The plan in a planner's reply.

    Raises:
        PlanError: Not one JSON object, a key twice or unknown, a use case that is not configured, a circle.
    """
    try:
        plan = Plan.model_validate(one_object(text))
    except StrictJsonError as error:
        raise PlanError(str(error)) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(p) for p in first["loc"]) or "plan"
        raise PlanError(f"{where}: {first['msg']}") from None
    if plan.use_case not in use_cases:
        raise PlanError(f"use_case: must be one of {', '.join(use_cases)}")
    return plan


def subtask_prompt(part: Subtask, results: Mapping[str, str]) -> str:
    """The task text of one part, with the results it needs as data before it."""
    if not part.needs:
        return part.task
    given = "\n\n".join(f"<result part={json.dumps(n)}>\n{_inert(results[n])}\n</result>" for n in part.needs)
    return f"Results of earlier parts, as data:\n\n{given}\n\nTask:\n{part.task}"


def _inert(text: str) -> str:
    return re.sub(r"<(?=\s*/?\s*result)", "(", text, flags=re.I)


def last_parts(plan: Plan) -> list[Subtask]:
    """The parts that no other part needs: their results are the answer."""
    needed = {name for part in plan.subtasks for name in part.needs}
    return [part for part in plan.subtasks if part.name not in needed]


def join_results(plan: Plan, results: Mapping[str, str]) -> str:
    """The answer of a compound task: that of its one last part, or all last parts under their names."""
    ends = [part for part in last_parts(plan) if part.name in results]
    if len(ends) == 1:
        return results[ends[0].name]
    return "\n\n".join(
        f"## {part.name.replace('_', ' ').replace('-', ' ')}\n\n{results[part.name]}" for part in ends
    )
