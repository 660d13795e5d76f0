"""A long system text that the calls of a job share: written to the provider's cache once, read by the others."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sandbox_runs import CLAUDE, At, BulkJob, SandboxOf, executor, notes

from tta_dev_primitives.blocks.ledger.report import month_report
from tta_dev_primitives.blocks.ledger.stored_replies import GuardedReply, content_key
from tta_dev_primitives.blocks.wire.formats import PROVIDERS, wire_format
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest, Message
from tta_dev_primitives.config.models.targets import Capabilities, Price, Target, Usage
from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.deployments.sandbox.scenario.prompt_cache import PromptCache
from tta_dev_primitives.flows.bulk.batch_lifecycle import BatchTiming
from tta_dev_primitives.flows.bulk.job_report import BulkReport
from tta_dev_primitives.flows.bulk.runner import JobOptions
from tta_dev_primitives.flows.calling.call import Answered, Call, Outcome
from tta_dev_primitives.flows.calling.prefix_cache import PrefixCache, shared_prefix
from tta_dev_primitives.flows.calling.services import Services

RULES = "Answer as the style guide of the house asks. " * 120
"""Some 1,350 tokens; the model keeps 1,024 and more."""


async def run(
    at: At,
    sandbox: Sandbox,
    folder: Path,
    tasks: int,
    *,
    system: str = RULES,
    least: int | None = None,
    **options: Any,
) -> BulkReport:
    """A job whose every task Claude answers under one system text; its cost is what the provider bills."""
    can = {} if least is None else {"capabilities": {"cache_min_tokens": least}}
    workflow = at(
        sandbox,
        executors=[executor(CLAUDE, "anthropic", ["moderate"], **can)],
        fallback_strategy={"models": [CLAUDE]},
        validation={"mode": "never"},
    )
    rows = [{**note, "system": system} for note in notes(tasks)]
    local = JobOptions(batch_timing=BatchTiming(quiet_s=0.3, first_s=0.1, longest_s=0.2), batch_wait_s=60.0)
    report: BulkReport = await BulkJob(workflow, folder, rows).run(local, **options)
    runtime = await workflow.ready()
    assert (report.state, report.cost_usd) == ("complete", sandbox.billed())
    assert await runtime.ledger.verify() == []
    month = month_report(
        await runtime.ledger.balance(),
        await runtime.ledger.report_rows((await runtime.ledger.balance()).month),
        limit=None,
    )
    assert month.total.cache_read_tokens == sum(call.usage.cache_read_tokens for call in sandbox.calls)
    return report


def cached(sandbox: Sandbox) -> tuple[int, int, int]:
    """Calls that were not marked, that wrote the text, and that read it."""
    used = [call.usage for call in sandbox.calls if call.billed]
    wrote, read = sum(u.cache_write_tokens > 0 for u in used), sum(u.cache_read_tokens > 0 for u in used)
    return len(used) - wrote - read, wrote, read


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"tasks": 8, "concurrency": 8}, (0, 1, 7)),
        ({"tasks": 8, "concurrency": 1}, (0, 1, 7)),
        ({"tasks": 8, "concurrency": 8, "detail": "item"}, (0, 1, 7)),
        ({"tasks": 2}, (2, 0, 0)),
        ({"tasks": 8, "system": "Be brief."}, (8, 0, 0)),
        ({"tasks": 8, "least": 0}, (8, 0, 0)),
        ({"tasks": 12, "batch": True}, (0, 1, 11)),
        ({"tasks": 6, "batch": True}, (6, 0, 0)),
    ],
)
async def test_which_calls_of_a_job_are_marked(
    options: dict[str, Any],
    found: tuple[int, int, int],
    sandbox_of: SandboxOf,
    at: At,
    tmp_path: Path,
) -> None:
    """One call writes and the others wait for it; with few calls, a short text or by request none is marked."""
    sandbox = sandbox_of("{defaults: {latency: 0.05}, batches: {delay: 0.1}}")
    await run(at, sandbox, tmp_path, options.pop("tasks"), **options)
    assert cached(sandbox) == found


PRICE = Price(*map(Decimal, ("3", "15", "0.3", "3.75")))
TARGET = Target(
    name="claude", provider="anthropic", api_model="claude-sonnet-4-5", billing="paid", api_key_env="K",
    family="claude",
    price=PRICE, capabilities=Capabilities(cache_min_tokens=1024),
)  # fmt: skip


class World:
    """A provider with the sandbox's prompt cache, on a clock of its own; it answers one call at a time."""

    def __init__(self) -> None:
        self.now, self.cache, self.usages = 1000.0, PromptCache(), list[Usage]()
        services = cast(Services, SimpleNamespace(clock=lambda: self.now))
        self.layer = PrefixCache(self.answer, services)

    async def answer(self, call: Call) -> Outcome:
        await asyncio.sleep(0)
        body = wire_format("anthropic").build(call.target, call.request).body
        marked = isinstance(body["system"], list)
        ask = SimpleNamespace(
            model=call.target.api_model, provider="anthropic", marked=((RULES, "5m"),) if marked else ()
        )
        usage = self.cache.usage(cast(Any, ask), "key", Usage(1500, output_tokens=5), now=self.now, latency=0)
        self.usages.append(usage)
        return Answered(call.target, GuardedReply(ChatReply("", "stop", usage), Decimal(0), None, ""))

    def call(self, name: str) -> Call:
        call = Call(targets=[TARGET], request_of=lambda _: request(name), role="execute", use_case="simple")
        call.target, call.request = TARGET, request(name)
        call.step_key = content_key(TARGET, call.request)
        return call


def request(task: str) -> ChatRequest:
    return ChatRequest((Message("user", task),), system=RULES)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.integers(0, 400)), min_size=1, max_size=8))
def test_a_job_is_dearer_by_one_write_in_vain_at_most(rounds: list[tuple[int, bool, int]]) -> None:
    """Rounds of calls, announced or not, with pauses beyond the cache's lifetime in between."""
    world = World()

    async def job() -> None:
        for number, (calls, known, pause) in enumerate(rounds):
            made = [world.call(f"{number}.{one}") for one in range(calls)]
            if known:
                world.layer.announce((TARGET, call.request, call.step_key) for call in made)
            await asyncio.gather(*map(world.layer, made))
            world.now += pause

    asyncio.run(job())
    cost = sum((PRICE.cost(usage) for usage in world.usages), Decimal(0))
    alone = len(world.usages) * PRICE.cost(Usage(1500, output_tokens=5))
    in_vain = max(usage.cache_write_tokens for usage in world.usages) * Decimal("0.75") / 1_000_000
    assert cost <= alone + in_vain
    if sum(calls for calls, *_ in rounds) == max(calls for calls, *_ in rounds) >= 3:
        assert cost < alone


def test_an_announced_call_that_never_comes_costs_one_write() -> None:
    """The text was written and nothing read it in time: it is not marked again."""
    world = World()

    async def job() -> None:
        world.layer.announce((TARGET, request(str(n)), str(n)) for n in range(9))
        for n in range(4):
            await world.layer(world.call(f"slow {n}"))
            world.now += 400

    asyncio.run(job())
    assert [usage.cache_write_tokens > 0 for usage in world.usages] == [True, False, False, False]


def test_what_is_never_marked() -> None:
    """Free models, models without cache prices, and texts below the model's minimum."""
    assert shared_prefix(TARGET, request("x")) == shared_prefix(TARGET, request("y")) is not None
    dear = replace(PRICE, cache_read_usd_per_mtok=Decimal(3))
    for target in (
        replace(TARGET, billing="free"),
        replace(TARGET, price=replace(PRICE, cache_write_usd_per_mtok=None)),
        replace(TARGET, price=dear),
        replace(TARGET, capabilities=Capabilities(cache_min_tokens=2048)),
        replace(TARGET, capabilities=Capabilities()),
    ):
        assert shared_prefix(target, request("x")) is None


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("system_role", [True, False])
def test_every_prompt_begins_with_what_is_shared(provider: str, system_role: bool) -> None:
    """Providers that cache by themselves compare from the first byte: system text and schema, then the task."""
    target = replace(TARGET, provider=provider, capabilities=Capabilities(system_role=system_role))
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    bodies = []
    for task in ("first task", "second task"):
        asked = replace(request(task), json_schema=schema)
        body = wire_format(provider).build(target, asked).body
        prompt = [
            body.get("system") or body.get("systemInstruction"),
            body.get("messages") or body.get("contents"),
        ]
        bodies.append(json.dumps(prompt))
    one, other = bodies
    same = next(at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    assert json.dumps(RULES)[1:-3] in one[:same]
    assert one[same:].startswith("first task")


def test_the_mark_is_no_part_of_the_content_key() -> None:
    """A marked call finds the answer of an unmarked one, and the other way round."""
    marked = replace(request("x"), cache_system=True)
    assert content_key(TARGET, marked) == content_key(TARGET, request("x"))
