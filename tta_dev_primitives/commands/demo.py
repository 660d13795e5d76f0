"""`tta demo`: the main job against the sandbox provider: no keys, no network, nothing spent."""

from __future__ import annotations

import asyncio
import os
import shutil
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from tta_dev_primitives.commands._options import Flag
from tta_dev_primitives.commands._output import console, print_json, quiet_logs, table, usd
from tta_dev_primitives.config.errors import OrchestrationError

if TYPE_CHECKING:
    from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
    from tta_dev_primitives.deployments.replay.run import Outcome
    from tta_dev_primitives.deployments.sandbox import Sandbox
    from tta_dev_primitives.deployments.sandbox.demo import DemoTask
    from tta_dev_primitives.flows.tasks.result import OrchestrationResult
    from tta_dev_primitives.flows.workflow import MultiModelWorkflow

_KEY = "TTA_SANDBOX_KEY"


@dataclass(frozen=True, slots=True)
class _Done:
    task: DemoTask
    result: OrchestrationResult | None
    error: OrchestrationError | None
    seconds: float


def demo(
    *,
    details: Flag = False,
    json: Flag = False,
) -> int:
    """Say what is saved on recorded outcomes, then run seven tasks against the sandbox provider.

    The recorded outcomes of real models go through the real state machine. In the seven tasks everything but the
    provider is real: HTTP on loopback, the Prefect flow, the spend ledger. The sandbox's answers are labelled as such.

    Args:
        details: Also print every attempt.
        json: Print the results as one JSON document instead of the live view.
    """
    import logging

    quiet_logs(logging.ERROR)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    out = console(stderr=json)
    from tta_dev_primitives.deployments.sandbox import Sandbox
    from tta_dev_primitives.deployments.sandbox.demo import demo_scenario

    started = time.monotonic()
    recorded = _recorded()
    out.print(Text(_sentence(recorded), "bold"))
    _say(
        out,
        "Recorded outcomes of real models, decided just now; `tta replay` compares configurations on them.",
    )
    _say(out, "Now live: a provider on this machine answers; nothing is spent.")
    with Sandbox(demo_scenario()).start() as sandbox:
        done, info = asyncio.run(_all(out, sandbox, _fresh_home()))
    if json:
        tasks = [_as_json(one) for one in done]
        print_json({"ui_url": info.ui_url, "recorded": recorded.to_json(), "tasks": tasks})
    else:
        if details:
            _attempts(out, done)
        _summary(out, done, recorded)
        _addresses(out, done, info)
        took = f"{time.monotonic() - started:.0f} s."
        _say(out, f"{took} Next: `tta init`, put keys into .env, `tta check`, `tta run`.")
    return 0 if all(one.result is not None or one.task.budget_limit_usd is not None for one in done) else 1


def _say(out: Console, text: str, *, indent: str = "", style: str = "") -> None:
    """Print a paragraph of 80 columns, on a terminal and elsewhere."""
    lines = textwrap.wrap(
        text,
        79,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    out.print(Text("\n".join(lines), style))


def _recorded() -> Outcome:
    """The balanced scenario over the outcomes that ship with the product."""
    from tta_dev_primitives.config import load_orchestration_config
    from tta_dev_primitives.config.template import scenario_path
    from tta_dev_primitives.deployments.replay.outcomes import recorded_outcomes, replay_outcomes

    config = load_orchestration_config(scenario_path("balanced"), use_env_overrides=False)
    return replay_outcomes(recorded_outcomes(), config, name="balanced")


def _sentence(one: Outcome) -> str:
    right, paid = (round(share * one.tasks) for share in (one.accuracy, one.paid_accuracy))
    return (
        f"{one.tasks} recorded tasks: ${one.cost:.2f} instead of ${one.paid_alone:.2f} "
        f"({100 * one.saving:.0f} % saved), {right} of {one.tasks} right, the paid model {paid}"
    )


def _fresh_home() -> Path:
    """A folder for the demo's own ledger and configuration, emptied first."""
    from tta_dev_primitives.config.home import make_private, tta_home

    folder = tta_home() / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        make_private(folder)
    except OSError as error:
        raise OrchestrationError(
            f"{folder}: cannot keep the demo's files here ({error.strerror}). "
            "Set TTA_HOME to a folder that you can write."
        ) from None
    return folder


async def _all(out: Console, sandbox: Sandbox, home: Path) -> tuple[list[_Done], ServerInfo]:
    """Run every demo task, one after the other, with its events shown as they happen."""
    from tta_dev_primitives.deployments.sandbox.demo import DEMO_TASKS
    from tta_dev_primitives.flows.prefect_support.api_connection import address_server
    from tta_dev_primitives.flows.workflow import MultiModelWorkflow

    os.environ[_KEY] = "sandbox-needs-no-key"
    _say(out, "Starting a Prefect server on this machine …")
    info = await asyncio.to_thread(address_server)
    workflows: dict[Decimal | None, MultiModelWorkflow] = {}
    done: list[_Done] = []
    for task in DEMO_TASKS:
        if task.budget_limit_usd not in workflows:
            path = _config_file(sandbox, home / f"budget-{len(workflows)}", task.budget_limit_usd)
            workflows[task.budget_limit_usd] = MultiModelWorkflow(path, use_env_overrides=False)
        done.append(await _one(out, workflows[task.budget_limit_usd], task, len(done) + 1))
    return done, info


def _config_file(sandbox: Sandbox, folder: Path, budget_usd: Decimal | None) -> Path:
    """The guide's full example with the sandbox's addresses and a ledger of its own."""
    from tta_dev_primitives.config.template import guide_config
    from tta_dev_primitives.deployments.replay.run import config_at_sandbox

    text = guide_config()
    if budget_usd is not None:
        text = text.replace("budget_limit_usd: 100.0", f"budget_limit_usd: {budget_usd:f}")
    folder.mkdir(mode=0o700)
    return config_at_sandbox(sandbox, text, folder, _KEY)


async def _one(out: Console, workflow: MultiModelWorkflow, task: DemoTask, number: int) -> _Done:
    from tta_dev_primitives.flows.prefect_support import events

    out.print()
    _say(out, f"{number}. {task.use_case} {task.task}", style="bold")
    _say(out, f"shows: {task.shows}", indent="   ", style="dim")
    started = time.monotonic()
    result: OrchestrationResult | None = None
    error: OrchestrationError | None = None
    with events.listening(lambda name, payload: _event(out, name, payload)):
        try:
            result = await workflow.execute(task.task, use_case=task.use_case)
        except OrchestrationError as problem:
            error = problem
    seconds = time.monotonic() - started
    if result is not None:
        _answer(out, result, seconds)
    else:
        _say(out, f"no answer: {error}", indent="   ", style="red")
    return _Done(task, result, error, seconds)


def _event(out: Console, name: str, payload: Mapping[str, Any]) -> None:
    """One line for what a person wants to know while it happens."""
    match name:
        case "tta.attempt.failed":
            out.print("  ", Text("✗", "yellow"), f"{payload['model']}: {payload['error_class']}")
        case "tta.fallback":
            out.print("  ", Text("→", "cyan"), f"falls back to {payload['to']}")
        case "tta.quality.escalated":
            out.print("  ", Text("↑", "cyan"), payload["reason"])
        case "tta.budget.alert" | "tta.budget.exhausted":
            out.print(
                "  ", Text("!", "red"), f"budget: {payload['spent_usd']} of {payload['limit_usd']} USD spent"
            )


_DOES = {"plan": "plans", "execute": "answers", "validate": "judges"}


def _answer(out: Console, result: OrchestrationResult, seconds: float) -> None:
    calls = [
        f"{a.model} {_DOES[a.role]}{' (paid)' * (a.billing == 'paid')}"
        for a in result.attempts
        if a.outcome == "ok"
    ]
    _say(out, f"calls: {', '.join(calls)}", indent="   ", style="dim")
    text = " ".join(result.content.split())
    out.print("  ", Text("✓", "green"), text[:70] + ("…" if len(text) > 70 else ""))
    mark = "accepted" if result.accepted else "not accepted"
    shown = f"{mark} ({result.basis}) · {result.model} · {usd(result.cost_usd)} · {seconds:.1f} s"
    _say(out, shown, indent="   ", style="dim")


def _attempts(out: Console, done: Sequence[_Done]) -> None:
    rows: list[list[str]] = []
    for number, one in enumerate(done, start=1):
        attempts = one.result.attempts if one.result is not None else getattr(one.error, "attempts", ())
        for a in attempts:
            rows.append(
                [
                    str(number),
                    a.role,
                    a.model,
                    a.outcome,
                    str(a.input_tokens + a.output_tokens),
                    usd(a.cost_usd),
                ]
            )
    columns = ["task", "role", "model", "outcome", "tokens", "cost"]
    out.print()
    out.print(table("Attempts", columns, rows, right=["task", "tokens", "cost"]))


def _summary(out: Console, done: Sequence[_Done], recorded: Outcome) -> None:
    costs = [
        [
            str(n),
            one.task.use_case,
            usd(one.result.cost_usd),
            usd(one.result.baseline_cost_usd),
            f"{one.result.savings_ratio:.0%}",
        ]
        for n, one in enumerate(done, start=1)
        if one.result is not None
    ]
    results = [one.result for one in done if one.result is not None]
    cost = sum((r.cost_usd for r in results), Decimal(0))
    baseline = sum((r.baseline_cost_usd for r in results), Decimal(0))
    saved = 1 - cost / baseline if baseline else Decimal(0)
    costs.append(["", "all", usd(cost), usd(baseline), f"{saved:.0%}"])
    columns = ["task", "use case", "cost", "paid model alone", "saved"]
    out.print(table("Cost", columns, costs, right=["task", *columns[2:]]))
    _say(
        out,
        "The paid model checks the first answers of each kind, so seven tasks save nothing yet. With each answer that "
        f"it accepts the checks become rarer: {recorded.tasks} recorded tasks saved {100 * recorded.saving:.0f} %. "
        "Task 7 had no budget for the paid model. --details shows every attempt.",
        style="dim",
    )


def _addresses(out: Console, done: Sequence[_Done], info: ServerInfo) -> None:
    from tta_dev_primitives.blocks.prefect_server.manager import open_link

    runs = [one.result.flow_run_id for one in done if one.result is not None and one.result.flow_run_id]
    links = {"Every run is in the Prefect UI (`tta server stop` ends that server):": open_link(info, "/runs")}
    if runs:
        links["The last one:"] = open_link(info, f"/runs/flow-run/{runs[-1]}")
    out.print()
    for title, link in links.items():
        out.print(title)
        out.print(Text(link, "bold"), soft_wrap=True)


def _as_json(one: _Done) -> dict[str, Any]:
    return {
        "use_case": one.task.use_case,
        "task": one.task.task,
        "shows": one.task.shows,
        "seconds": round(one.seconds, 3),
        "result": None if one.result is None else one.result.to_json(),
        "error": None if one.error is None else str(one.error),
    }
