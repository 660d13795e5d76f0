"""The plan task: use case, instructions, answer format and, for compound tasks, sub-tasks. Mostly free.

The local classifier answers when it is sure or the caller named the use case. Under `planning: auto` a free model plans
what is unclear, and the orchestrator what is compound, as far as the month's savings pay for it; under `always` the
orchestrator plans every task. A bulk job has one plan for all items.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from prefect import task

from tta_dev_primitives.blocks.ledger.stored_replies import reply_of
from tta_dev_primitives.blocks.ledger.task_records import stored_decisions
from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.config.errors import ConfigError, MissingKeyError, SavingsShortError
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError
from tta_dev_primitives.flows.answers.json_schema import has_object_root
from tta_dev_primitives.flows.calling.call import Answered, Call, Failed
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.planning.local_classifier import is_compound, is_long
from tta_dev_primitives.flows.planning.plan_model import (
    PLAN_SCHEMA_NAME,
    Plan,
    PlanError,
    default_plan,
    is_unclear,
    needs_planner,
    parse_plan,
    plan_schema,
    plan_system,
    typed_plan,
)
from tta_dev_primitives.flows.prefect_support.task_history import log_line
from tta_dev_primitives.flows.routing.candidates import Route, configured_use_cases, executor_names
from tta_dev_primitives.flows.routing.model_scores import led_by_chance
from tta_dev_primitives.flows.routing.retired_models import emit_failure, emit_retired, note_replacement
from tta_dev_primitives.flows.tasks.gather_all import gather_all
from tta_dev_primitives.flows.tasks.item import AttemptChain, Item
from tta_dev_primitives.flows.tasks.same_task import read_decision, settings_digest, task_key
from tta_dev_primitives.flows.validation.case import Candidate, Case

_PLAN_TOKENS = 1024
_MOST_PLANNERS = 2
"""Free models that are asked for a plan before the local one serves."""


@task(name="plan", task_run_name="plan", persist_result=False, retries=0, retry_delay_seconds=0)
async def plan(runtime: Runtime, chain: AttemptChain) -> dict[str, str]:
    """Plan every item of the chain and choose its candidates.

    Returns:
        Item id -> its use case.
    """
    await plan_items(runtime, chain.open)
    for item in chain.open:
        parts = 0 if item.plan is None else len(item.plan.subtasks)
        names = ", ".join(f"{target.provider}/{target.name}" for target in item.route.candidates)
        log_line(
            item,
            f"plan: {item.use_case}{f', {parts} parts' if parts else ''}; models in turn: {names or 'none'}",
        )
    return {item.id: item.use_case for item in chain.open}


async def plan_items(runtime: Runtime, items: list[Item]) -> None:
    """Plan every item that has no plan yet; an item whose candidates are all out of reach gets its error."""
    await runtime.choose_orchestrator()
    await _remember(runtime, items)
    costs = await runtime.opinion_costs()
    account = await runtime.ledger.savings()
    savings = account.left
    for item in items:
        item.month = item.month or account.month
    # What is out is looked up once for each use case of the batch.
    routes: dict[str, asyncio.Task[Route]] = {}
    await gather_all(_plan_item(runtime, item, routes) for item in items)
    for item in items:
        if item.case is not None:
            # The same task draws the same coin: asking again is no way to another one.
            coin = await runtime.coin_of(item.content_key, "paid executor")
            item.case = replace(item.case, costs=costs, savings=savings, coin=coin)


async def _remember(runtime: Runtime, items: Sequence[Item]) -> None:
    """Find out which tasks have ended before, and how."""
    settings = settings_digest(runtime.config, runtime.orchestrator.key)
    new = [item for item in items if item.key is None]
    for item in new:
        item.key = task_key(item, settings)
    if runtime.fresh:
        return
    found = await stored_decisions(runtime.ledger, [item.key for item in new if item.key is not None])
    for item in new:
        stored = found.get(item.key or "")
        before = None if stored is None else read_decision(stored.body)
        if stored is None or before is None:
            continue
        item.plan = item.plan or before.plan
        if stored.answer is not None and before.decided is not None:
            item.before, item.kept = before.decided, reply_of(stored.answer)


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
        note_replacement(item, target)
    item.case = Case(
        answer_format=item.plan.answer_format,
        use_case=item.use_case,
        candidates=tuple(Candidate.of(target) for target in item.route.candidates),
        orchestrator=Candidate.of(runtime.orchestrator),
        policy=runtime.policy,
        long=is_long(item.task),
        schema=item.output.short_digest if item.output and has_object_root(item.output.schema) else "",
    )
    answered_before = None if item.before is None else runtime.targets.get(item.before.model)
    if answered_before is not None:
        item.targets = {answered_before.name: answered_before, **item.targets}
        item.case = replace(item.case, decided=item.before)
        return
    item.kept = None
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
        await runtime.services.keys.key_of(runtime.orchestrator)
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
        return typed_plan(free)
    if not runtime.config.enabled or not needs_planner(item.task, asked, runtime.config.planning):
        return free
    made = await _made_plan(runtime, item, free.use_case)
    if made is None:
        return free
    return made if asked is None else made.model_copy(update={"use_case": asked})


async def _made_plan(runtime: Runtime, item: Item, use_case: str) -> Plan | None:
    if runtime.config.planning == "always" or is_compound(item.task):
        try:
            return await ask_planner(runtime, item, [runtime.orchestrator])
        except SavingsShortError:
            pass  # The free models plan what is unclear.
    if runtime.config.planning != "auto" or not is_unclear(item.task, item.use_case or None):
        return None
    return await ask_planner(runtime, item, await free_planners(runtime, use_case))


async def free_planners(runtime: Runtime, use_case: str) -> list[Target]:
    """The free models that may plan, in route order."""
    try:
        route = await runtime.route_of(use_case)
    except ConfigError:
        return []
    return [target for target in route.candidates if target.billing == "free"][:_MOST_PLANNERS]


def known_use_case(runtime: Runtime, task: str, use_case: str | None) -> str | None:
    """The use case of a task as far as it is known before a planner is asked; None: the planner decides."""
    config = runtime.config
    if config.enabled and needs_planner(task, use_case, config.planning):
        return use_case
    return default_plan(task, use_case, allowed=configured_use_cases(config)).use_case


async def ask_planner(runtime: Runtime, item: Item, planners: Sequence[Target]) -> Plan | None:
    """The plan of the first planner that has a usable one; None when none has.

    The caller has let the runtime choose the orchestrator.

    Raises:
        SavingsShortError: The month's savings do not cover the orchestrator's plan.
    """
    for planner in planners:
        made = await _plan_by(runtime, item, planner)
        if made is not None:
            return made
    return None


async def _plan_by(runtime: Runtime, item: Item, planner: Target) -> Plan | None:
    use_cases = configured_use_cases(runtime.config)
    complaint = ""
    for _ in range(2):
        outcome = await runtime.calls(_plan_call(runtime, item, planner, complaint))
        if not isinstance(outcome, Answered):
            if isinstance(outcome, Failed) and outcome.savings_short is not None:
                raise outcome.savings_short
            error = outcome.error if isinstance(outcome, Failed) else None
            if error is not None and await _other_planner(runtime, item, planner, error):
                planner = runtime.orchestrator
                continue
            why = "no quota" if error is None else error.error_class.value
            item.note(f"planned locally: {planner.name} did not plan ({why})")
            return None
        try:
            return parse_plan(outcome.reply.reply.text, use_cases)
        except PlanError as error:
            complaint = str(error)
    item.note(f"planned locally: the plan of {planner.name} was not usable ({complaint})")
    return None


def _plan_call(runtime: Runtime, item: Item, planner: Target, complaint: str) -> Call:
    use_cases = configured_use_cases(runtime.config)
    return Call(
        targets=[planner],
        request_of=lambda _: _plan_request(item, use_cases, complaint),
        role="plan",
        use_case=item.use_case,
        pays=partial(runtime.paid_from, "plan"),
        on_attempt=item.attempts.append,
        on_failure=partial(emit_failure, item),
        note=item.note,
    )


async def _other_planner(runtime: Runtime, item: Item, planner: Target, error: ProviderError) -> bool:
    """Whether a replacement plans in the place of an orchestrator that is gone."""
    retired = runtime.orchestrator
    if error.error_class is not ErrorClass.MODEL_GONE or planner.key != retired.key:
        return False
    await emit_retired(runtime, item, retired, "plan", error)
    await runtime.choose_orchestrator()
    return runtime.orchestrator.key != retired.key


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
