"""`tta run`: one task, one answer."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Annotated

from cyclopts import Parameter
from rich.console import RenderableType

from tta_dev_primitives.commands._options import Config, Flag
from tta_dev_primitives.commands._output import (
    console,
    counted,
    print_json,
    print_text,
    quiet_logs,
    table,
    usd,
)
from tta_dev_primitives.commands._schema import read_schema
from tta_dev_primitives.commands.trust import ask_trust
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.tasks.result import OrchestrationResult

_LONGEST_NAME = 4096
"""No path is longer; a task may be."""


def run(
    text: str,
    /,
    *,
    use_case: Annotated[str | None, Parameter(name=["--use-case", "-u"])] = None,
    system: Annotated[str | None, Parameter(name=["--system", "-s"])] = None,
    schema: str | None = None,
    config: Config = None,
    json: Flag = False,
    raw: Flag = False,
    fresh: Flag = False,
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], negative="")] = False,
) -> int:
    """Run one task and print its answer; the cost and the attempts go to stderr.

    Args:
        text: The task; `-` reads it from standard input.
        use_case: simple, moderate, complex, expert, speed-critical or reasoning; found out when not given.
        system: Extra instructions for the models.
        schema: The answer is data: a JSON Schema file, or module:Model.
        json: Print the whole result as one JSON document.
        fresh: Ask and pay again, also where an answer is stored.
        raw: Write control characters of the answer as they are, into a file or pipe. A terminal shows symbols.
        verbose: Show the log of the run on stderr.
    """
    import logging

    quiet_logs(logging.INFO if verbose else logging.WARNING)
    task, output = _read(text), read_schema(schema)
    from tta_dev_primitives.orchestration import MultiModelWorkflow

    workflow = MultiModelWorkflow(config)
    ask_trust(workflow.config)
    result = workflow.run(task, use_case=use_case, system=system, output_type=output, fresh=fresh)
    if json:
        print_json(result.to_json())
    else:
        print_text(result.content, raw=raw)
        _summary(result)
    return 0


def _read(text: str) -> str:
    if text != "-":
        if len(text) < _LONGEST_NAME and os.path.isfile(text):
            raise ConfigError(
                f"{text} is a file. Did you mean the text of this file? Use -: tta run - < {shlex.quote(text)}"
            )
        return text
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"standard input: not UTF-8 text (byte {error.start}). Convert it, for example with iconv -t utf-8."
        ) from None


def _summary(result: OrchestrationResult) -> None:
    out = console(stderr=True)
    verdict = "accepted" if result.accepted else "NOT accepted"
    out.print()
    out.print(f"{verdict} ({result.basis}) · {result.model} via {result.provider} · {result.use_case}")
    alone, limit, saved = "", "no limit", ""
    if result.baseline_cost_usd:
        alone = f" · paid model alone {usd(result.baseline_cost_usd)} · saved {result.savings_ratio:.0%}"
    out.print(f"cost {usd(result.cost_usd)}{alone}")
    if result.budget.limit_usd is not None:
        limit = usd(result.budget.limit_usd, 2)
    if result.saved is not None and result.saved.baseline_cost_usd:
        saved = f" · {counted(result.saved.tasks, 'task')} · saved {result.saved.ratio:.0%}"
    out.print(f"month {result.budget.month}: {usd(result.budget.spent_usd)} of {limit}{saved}")
    if len(result.attempts) > 1:
        out.print(attempts_table(result))
    for warning in result.warnings:
        out.print(f"warning: {warning}")


def attempts_table(result: OrchestrationResult) -> RenderableType:
    """Every attempt of a result, one a row."""
    rows = [
        [
            a.role,
            a.model,
            a.outcome + (" (stored)" if a.reused else ""),
            str(a.input_tokens),
            str(a.output_tokens),
            usd(a.cost_usd),
            f"{a.latency_s:.2f}",
        ]
        for a in result.attempts
    ]
    columns = ["role", "model", "outcome", "in", "out", "cost", "seconds"]
    return table("Attempts", columns, rows, right=columns[3:])
