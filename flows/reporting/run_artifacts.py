"""What a person sees of a run in the Prefect UI: the result, its attempts, and the month's spending."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Sequence
from functools import partial
from uuid import UUID

from prefect.client.schemas.actions import ArtifactCreate
from prefect.context import FlowRunContext

from tta_dev_primitives.blocks.redaction import redact, visible
from tta_dev_primitives.flows.answers.fields import value_at
from tta_dev_primitives.flows.budget import BudgetState, budget_state
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.prefect_support.answer_of_run import answer_artifact
from tta_dev_primitives.flows.prefect_support.loop_connection import api_connection, defer
from tta_dev_primitives.flows.reporting.page import money_bar
from tta_dev_primitives.flows.reporting.quoted_answer import inert_line, quoted_pages, table_cell
from tta_dev_primitives.flows.tasks.item import Item
from tta_dev_primitives.flows.tasks.result import Attempt, OrchestrationResult

_LOG = logging.getLogger("tta_dev_primitives.artifacts")
_SHOWN_CHARS = 4_000
_SHOWN_REASON = 1_000
_SHOWN_ITEMS = 500
"""Items of a list that the table of the answer holds."""


async def publish(runtime: Runtime, item: Item, budget: BudgetState, *, put_off: bool = False) -> None:
    """Write the artifacts of one run; a Prefect API that is down costs the picture, never the result.

    Args:
        budget: The month as the run left it.
        put_off: Let the caller go on first: a process that stays up writes them behind the answer.
    """
    result = item.result
    pages = result_pages(result) if result is not None else [_failure_markdown(item)]
    requests = [
        *(
            _request(runtime, "markdown", page_key("tta-result", n), redact(page), "Answer and evidence")
            for n, page in enumerate(pages, 1)
        ),
        _request(
            runtime,
            "table",
            "tta-attempts",
            json.dumps(attempt_rows(item.attempts)),
            "Every call to a provider",
        ),
        _request(
            runtime, "markdown", f"tta-spend-{budget.month}", budget_markdown(budget), "The month's budget"
        ),
    ]
    answer = None if result is None else answer_artifact(result)
    if answer is not None:
        requests.append(answer)
    if result is not None and (rows := field_rows(result)):
        data = json.dumps(rows)
        requests.append(_request(runtime, "table", "tta-data", data, "The fields of the answer"))
    write = partial(_write, requests, _missing_tag(item.use_case))
    if put_off:
        await defer(write)
        return
    await quietly(write())


async def quietly(work: Awaitable[object]) -> None:
    """Do work for the Prefect UI; an API that is down costs what people would see there, never a result."""
    try:
        await work
    except Exception as problem:
        _LOG.warning("what the Prefect UI shows of a run is not complete: %s", redact(str(problem)))


async def write_budget_panel(runtime: Runtime) -> None:
    """Write the month's budget as it stands now; a Prefect API or ledger that is down costs the panel only."""

    async def write() -> None:
        budget = await budget_state(runtime)
        text = budget_markdown(budget)
        panel = _request(runtime, "markdown", f"tta-spend-{budget.month}", text, "The month's budget")
        await _write([panel], None)

    await quietly(write())


def _request(runtime: Runtime, kind: str, key: str, data: str, description: str) -> ArtifactCreate:
    run_id = runtime.flow_run_id()
    return ArtifactCreate(
        type=kind,
        key=key,
        data=data,
        description=description,
        flow_run_id=None if run_id is None else UUID(run_id),
    )


def page_key(key: str, number: int) -> str:
    """The artifact key of the n-th page: `tta-result`, `tta-result-2`, ..."""
    return key if number == 1 else f"{key}-{number}"


async def tag_run(use_case: str | None) -> None:
    """Tag the running flow run with its use case now; a Prefect API that is down costs the tag only."""
    missing = _missing_tag(use_case)
    if missing is not None:
        await quietly(_write([], missing))


def _missing_tag(use_case: str | None) -> tuple[UUID, set[str]] | None:
    """The flow run and its tags with the use case, when it was made without it."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    tag = f"use_case:{use_case}"
    if run is None or not use_case or tag in run.tags:
        return None
    run.tags = [*run.tags, tag]
    return run.id, {*run.tags}


async def _write(requests: Sequence[ArtifactCreate], tagged: tuple[UUID, set[str]] | None) -> None:
    client = (await api_connection()).client
    work: list[Awaitable[object]] = [client.create_artifact(artifact=request) for request in requests]
    if tagged is not None:
        work.append(client.update_flow_run(tagged[0], tags=tagged[1]))
    await asyncio.gather(*work)


def attempt_rows(attempts: Sequence[Attempt]) -> list[dict[str, str | float]]:
    """The attempts table: one row a call, tokens read and written, money as text.

    As narrow as the UI needs it: its cells do not wrap. Reasons stand in the result.
    """
    return [
        {
            "role": a.role,
            "model": a.model if "/" in a.model else f"{a.provider}/{a.model}",
            "outcome": a.outcome + (" (stored)" if a.reused else ""),
            "tokens": f"{a.input_tokens:,} + {a.output_tokens:,}",
            "USD": f"{a.cost_usd:f}",
            "s": round(a.latency_s, 2),
        }
        for a in sorted(attempts, key=lambda a: a.started_at)
    ]


def field_rows(result: OrchestrationResult) -> list[dict[str, str]]:
    """The table of a typed answer: one row a field or list item, what the models said of it, and its value."""
    data = result.to_json()["data"]
    values = {path: value_at(data, path) for path in result.fields}
    if isinstance(data, list):
        values = {f"item {n}": part for n, part in enumerate(data[:_SHOWN_ITEMS], 1)}
    elif data is not None and not isinstance(data, dict):
        values = {"answer": data}
    return [
        {
            "field": table_cell(redact(path)),
            "models": result.fields.get(path, result.evidence),
            "value": table_cell(redact(json.dumps(value, ensure_ascii=False))[:_SHOWN_CHARS]),
        }
        for path, value in values.items()
    ]


def result_pages(result: OrchestrationResult) -> list[str]:
    """The result artifacts: verdict, money, warnings and the answer; what does not fit goes on in further ones."""
    verdict = "Accepted" if result.accepted else "Not accepted"
    saved = result.saved
    lines = [
        f"## {verdict} ({result.basis})",
        "",
        "| | |",
        "|--|--|",
        f"| model | `{result.model}` via {result.provider} |",
        f"| use case | {result.use_case} |",
        f"| cost | ${result.cost_usd:f} |",
        f"| paid model alone | ${result.baseline_cost_usd:f} |",
        f"| saved | {result.savings_ratio:.1%} |",
        *(
            [f"| saved this month | {saved.ratio:.1%} of {saved.tasks:,} tasks |"]
            if saved is not None
            else ()
        ),
        "",
        *_listed("Warnings", result.warnings),
        *_listed("Calls without an answer", _reasons(result.attempts)),
        "**Answer**",
    ]
    first, *more = quoted_pages(redact(result.content), language=None if result.data is None else "json")
    return ["\n".join([*lines, first]), *more]


def _reasons(attempts: Sequence[Attempt]) -> list[str]:
    return list(dict.fromkeys(f"{a.model}: {a.reason}" for a in attempts if a.outcome != "ok" and a.reason))


def _listed(title: str, texts: Sequence[str]) -> list[str]:
    """A list of sentences that may quote a provider: nothing in them is active."""
    lines = [f"- {inert_line(redact(visible(text)).replace(chr(10), ' ')[:_SHOWN_REASON])}" for text in texts]
    return [f"**{title}**", "", *lines, ""] if lines else []


def _failure_markdown(item: Item) -> str:
    reason = str(item.error) if item.error is not None else "unknown"
    return "\n".join(["## No answer", "", *_listed("Why", [reason, *_reasons(item.attempts)])])


def budget_markdown(budget: BudgetState) -> str:
    """The month's budget with a bar; the same text for every caller."""
    if budget.limit is None:
        return f"## {budget.month}\n\nSpent **${budget.spent:f}**, held ${budget.held:f}. No limit is set."
    return (
        f"## {budget.month}\n\n{money_bar(budget.spent, budget.limit)}\n\n"
        f"| spent | held | left | limit |\n|--:|--:|--:|--:|\n"
        f"| ${budget.spent:f} | ${budget.held:f} | ${budget.left:f} | ${budget.limit:f} |\n"
    )
