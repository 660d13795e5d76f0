"""The plan task: use case, instructions, answer format and, for compound tasks, sub-tasks. Mostly free.

The local classifier answers when it is sure or the caller named the use case; the orchestrator plans when
`planning: always`, or under `auto` when the task is compound or unclear. A bulk job has one plan for all items.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from prefect import task

from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.config.errors import ConfigError, ErrorClass, MissingKeyError, ProviderError
from tta_dev_primitives.flows.calling.call import Answered, Call, Failed
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.planning.local_classifier import is_long
from tta_dev_primitives.flows.planning.plan_model import (
    PLAN_SCHEMA_NAME,
    Plan,
    PlanError,
    default_plan,
    needs_planner,
    parse_plan,
    plan_schema,
    plan_system,
)
from tta_dev_primitives.flows.routing.candidates import Route, configured_use_cases, executor_names
from tta_dev_primitives.flows.routing.model_scores import led_by_chance
from tta_dev_primitives.flows.routing.retired_models import note_stand_in, tell_failure, tell_retired
from tta_dev_primitives.flows.tasks.gather_all import together
from tta_dev_primitives.flows.tasks.item import Item, Lane
from tta_dev_primitives.flows.validation.case import Candidate, Case

__all__ = ["ask_planner", "known_use_case", "plan", "plan_items"]

_PLAN_TOKENS = 1024


@task(name="plan", task_run_name="plan", persist_result=False)
async def plan(runtime: Runtime, lane: Lane) -> dict[str, str]:
    """Plan every item of the lane and choose its candidates.

    Returns:
        Item id -> its use case.
    """
    await plan_items(runtime, lane.open)
    return {item.id: item.use_case for item in lane.open}


async def plan_items(runtime: Runtime, items: list[Item]) -> None:
    """Plan every item that has no plan yet; an item whose candidates are all out of reach gets its error."""
    await runtime.choose_orchestrator()
    # What is out is looked up once for each use case of the batch.
    routes: dict[str, asyncio.Task[Route]] = {}
    await together(_plan_item(runtime, item, routes) for item in items)


async def _plan_item(runtime: Runtime, item: Item, routes: dict[str, asyncio.Task[Route]]) -> None:
    if item.plan is None:
        item.plan = await _plan_for(runtime, item)
    item.use_case = item.plan.use_case
    if item.use_case not in routes:
        routes[item.use_case] = asyncio.ensure_future(runtime.route_of(item.use_case))
    try:
        item.route = await routes[item.use_case]
    except ConfigError as error:
        item.error = error
        return
    if runtime.order is not None:
        item.route = await _explored(runtime, item)
    by_name = {target.name: target for target in item.route.candidates}
    item.targets = {runtime.orchestrator.name: runtime.orchestrator, **by_name}
    for target in item.targets.values():
        note_stand_in(item, target)
    item.case = Case(
        answer_format=item.plan.answer_format,
        use_case=item.use_case,
        candidates=tuple(Candidate.of(target) for target in item.route.candidates),
        orchestrator=Candidate.of(runtime.orchestrator),
        policy=runtime.policy,
        long=is_long(item.task),
    )
    await _check_reach(runtime, item)


async def _explored(runtime: Runtime, item: Item) -> Route:
    """The item's route; `routing: learned` lets a random free executor go first for a few tasks."""
    names = executor_names(runtime.config, item.use_case)
    rivals = [t for t in item.route.candidates if t.name in names and t.billing == "free"]
    order = led_by_chance(item.route.candidates, rivals, await runtime.coin_of(item.content_key, "leader"))
    return replace(item.route, candidates=tuple(order))


async def _check_reach(runtime: Runtime, item: Item) -> None:
    """Take the orchestrator off the case when it has no key; say which variables to set when nothing is left."""
    try:
        await runtime.key_of(runtime.orchestrator)
        return
    except MissingKeyError as missing:
        item.case = item.open_case.without([runtime.orchestrator.name])
        if item.route.candidates:
            item.note(f"no paid verdict or solution: {missing}")
            return
        variables = dict.fromkeys(t.api_key_env for t in [*runtime.targets.values()])
        item.error = MissingKeyError(
            f"API key not found: no candidate of {item.use_case!r} has one, so no model can be called. "
            f"Set one of {', '.join(variables)} in the environment or in .env, or save its block with "
            "`tta blocks sync` where it is set.",
            variables=tuple(variables),
        )


async def _plan_for(runtime: Runtime, item: Item) -> Plan:
    asked = item.use_case or None
    allowed = configured_use_cases(runtime.config)
    free = default_plan(item.task, asked, allowed=allowed, system=item.system)
    if item.output is not None:
        # The type says what the answer is; a part of a compound task would have none.
        return free.model_copy(update={"answer_format": "json", "sub_tasks": []})
    if not runtime.config.enabled or not needs_planner(item.task, asked, runtime.config.planning):
        return free
    made = await ask_planner(runtime, item)
    if made is None:
        return free
    return made if asked is None else made.model_copy(update={"use_case": asked})


def known_use_case(runtime: Runtime, task: str, use_case: str | None) -> str | None:
    """The use case of a task as far as it is known before the orchestrator is asked; None: it will decide."""
    config = runtime.config
    if config.enabled and needs_planner(task, use_case, config.planning):
        return use_case
    return default_plan(task, use_case, allowed=configured_use_cases(config)).use_case


async def ask_planner(runtime: Runtime, item: Item) -> Plan | None:
    """The orchestrator's plan; None, with a warning, when it cannot give a usable one.

    The caller has let the runtime choose the orchestrator.
    """
    use_cases = configured_use_cases(runtime.config)
    complaint = ""
    for _ in range(2):
        planner = runtime.orchestrator
        outcome = await runtime.calls(
            Call(
                targets=[planner],
                request_of=lambda _, said=complaint: _plan_request(item, use_cases, said),  # type: ignore[misc]
                role="plan",
                use_case=item.use_case,
                on_attempt=item.attempts.append,
                on_failure=partial(tell_failure, item),
                note=item.note,
            )
        )
        if not isinstance(outcome, Answered):
            error = outcome.error if isinstance(outcome, Failed) else None
            if error is not None and await _other_planner(runtime, item, error):
                continue
            why = "no quota" if error is None else error.error_class.value
            item.note(f"planned locally: the planner did not answer ({why})")
            return None
        try:
            return parse_plan(outcome.reply.reply.text, use_cases)
        except PlanError as error:
            complaint = str(error)
    item.note(f"planned locally: the planner's plan was not usable ({complaint})")
    return None


async def _other_planner(runtime: Runtime, item: Item, error: ProviderError) -> bool:
    """Whether a replacement plans in the place of an orchestrator that is gone."""
    if error.error_class is not ErrorClass.MODEL_GONE:
        return False
    gone = runtime.orchestrator
    await tell_retired(runtime, item, gone, "plan", error)
    await runtime.choose_orchestrator()
    return runtime.orchestrator.key != gone.key


def _plan_request(item: Item, use_cases: tuple[str, ...], complaint: str) -> ChatRequest:
    retry = (
        f"\n\nYour last plan was not usable: {complaint}. Answer with one JSON object." if complaint else ""
    )
    return ChatRequest(
        messages=(Message("user", item.task + retry),),
        system=plan_system(use_cases),
        max_output_tokens=_PLAN_TOKENS,
        json_schema=plan_schema(use_cases),
        schema_name=PLAN_SCHEMA_NAME,
        thinking="low",
    )
