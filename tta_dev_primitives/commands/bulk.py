"""`tta bulk`: a file of tasks, with how far it is on stderr; running it again does only what is missing."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.text import Text

from tta_dev_primitives.commands._options import Config, Flag
from tta_dev_primitives.commands._output import console, counted, print_json, quiet_logs, table, usd
from tta_dev_primitives.commands._schema import read_schema
from tta_dev_primitives.commands.trust import ask_trust
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.bulk.arguments import duration, moment, usd_amount, whole
from tta_dev_primitives.flows.bulk.arguments import patience as seconds

if TYPE_CHECKING:
    from tta_dev_primitives.flows.bulk.job_report import BulkReport
    from tta_dev_primitives.flows.bulk.progress import ModelLine, Progress

_MOST_FIELDS = 40
_MOST_REASON = 400
_OTHER_FORMS = (
    ".parquet",
    ".xlsx",
    ".xls",
    ".ods",
    ".tsv",
    ".gz",
    ".zip",
    ".yaml",
    ".yml",
    ".xml",
    ".html",
    ".md",
)


def bulk(
    tasks: Path,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    concurrency: Annotated[int, Parameter(name=["--concurrency", "-n"])] = 50,
    config: Config = None,
    schema: str | None = None,
    json: Flag = False,
    max_cost: str | None = None,
    until: str | None = None,
    patience: str | None = None,
    wait: Flag = False,
    ordered: Flag = False,
    force: Flag = False,
    chunk: int | None = None,
    detail: Literal["chunk", "item"] = "chunk",
    keep_going: Flag = False,
    allow_extra: Flag = False,
    samples: int = 1,
    batch: Flag = False,
    shards: int = 1,
    notify: Flag = False,
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], negative="")] = False,
) -> int:
    """Run a file of tasks; stopped or killed, the same command goes on where it was and pays nothing twice.

    Exit: 0 every task has an answer; 1 some failed, are left or could not be read; 3 the budget or --max-cost
    refused some; 4 no model answered anything; 130 interrupted.

    Args:
        tasks: JSONL lines {"id", "task", "use_case"?, "system"?, "schema"?}, or a .csv with these columns.
        out: The results, one JSON line a task, or a .csv. Tasks in it are skipped.
        concurrency: Provider calls open at once.
        schema: The answers are data: a JSON Schema file, or module:Model. A line's own "schema" goes before it.
        json: Print the report as one JSON document on stdout.
        max_cost: The most the job may cost, USD, over all its runs.
        until: Start nothing new after this moment, such as 2026-11-30T18:00 (local time) or ...+00:00.
        patience: How long the job may wait for free quota before it may spend: 0, 90s, 30m, 4h, 2d or inf
            (default 1h). With --batch also how long it waits for batches (default: until they are back).
        wait: Wait for quota however long it takes, instead of ending.
        ordered: Put the results into the order of the tasks at the end.
        force: Go on although configuration or tasks changed since the last run.
        chunk: Tasks a task run; up to 100, twice the concurrency.
        detail: Task runs for each chunk, or for each item (slower).
        keep_going: Go on although the same check refuses answer after answer.
        allow_extra: Copy unknown fields of the tasks to the results. Without it such lines are refused.
        samples: Independent answers of each task; their ids end with #1, #2 and so on.
        batch: Send paid calls in batches of their providers: half the price, answered within a day. Ctrl-C leaves
            them running; the same command collects them.
        shards: Deployment runs that share the work, on as many workers (`tta deploy`); 1: this process does it.
        notify: Ring the terminal's bell at the end.
        verbose: Show the log on stderr.
    """
    quiet_logs(logging.INFO if verbose else logging.ERROR)
    parameters: dict[str, Any] = {
        "input_path": str(tasks),
        "output_path": str(out),
        "concurrency": whole("--concurrency", concurrency),
        "chunk_size": None if chunk is None else whole("--chunk", chunk),
        "max_cost": None if max_cost is None else usd_amount("--max-cost", max_cost),
        "until": None if until is None else moment("--until", until, zone=None),
        "patience_s": seconds("--patience", patience or "1h"),
        "batch": batch,
        "ordered": ordered,
        "detail": detail,
        "keep_going": keep_going,
        "allow_extra": allow_extra,
        "samples": whole("--samples", samples),
        "force": force,
        "shards": whole("--shards", shards, most=100),
        "config_path": None if config is None else str(config),
    }
    output = read_schema(schema)
    if output is not None:
        parameters["output_schema"] = dict(output.schema)
    _look_at_files(tasks, out)
    waits: dict[str, float] = {"in_process_s": math.inf} if wait else {}
    waits["batch_wait_s"] = math.inf if patience is None or wait else duration("--patience", patience)
    with progress_view(console(stderr=True)) as observer:
        report = asyncio.run(_run(parameters, config, {"observer": observer, "output": output, **waits}))
    if json:
        print_json(report.to_json())
    _print_report(report, tasks)
    if notify:
        console(stderr=True).bell()
    return _exit_code(report)


async def _run(parameters: dict[str, Any], config: Path | None, local: dict[str, Any]) -> BulkReport:
    """Run the job; `local` are options that only a caller in this process can give."""
    # Imported here: with Prefect these take seconds, which a wrong option must not cost.
    from tta_dev_primitives.flows.workflow import MultiModelWorkflow

    workflow = MultiModelWorkflow(config)
    ask_trust(workflow.config)
    runtime = await workflow.ready()
    from tta_dev_primitives.flows.bulk.bulk_flow import run_file
    from tta_dev_primitives.flows.bulk.runner import JobOptions
    from tta_dev_primitives.flows.calling.runtime import active

    with active(runtime):
        return await run_file(JobOptions(**local), **parameters)


def _look_at_files(tasks: Path, out: Path) -> None:
    from tta_dev_primitives.flows.bulk.reader import input_size

    if input_size(tasks) == 0:
        raise ConfigError(
            f'{tasks}: it is empty. Expected lines such as {{"id": "1", "task": "Summarize ..."}}.'
        )
    if out.suffix.lower() in _OTHER_FORMS:
        raise ConfigError(
            f"{out}: results are written as JSONL or CSV. Choose an --out such as {out.with_suffix('.csv')}."
        )
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out}: its folder does not exist. Make it, or choose another --out.")


def _print_report(report: BulkReport, tasks: Path) -> None:
    out = console(stderr=True)
    for line in report.broken_lines[:20]:
        out.print(f"{tasks}: line {line.line}: {line.reason} (not run)")
    if report.broken > 20:
        out.print(f"... {report.broken} broken lines in all")
    for line in report.duplicates[:5]:
        out.print(f"{tasks}: line {line.line}: {line.reason}: {line.id} (the first one runs)")
    if report.duplicate > 5:
        out.print(f"... {report.duplicate} lines with an id that stood before")
    for line in report.failures[:3]:
        out.print(f"{tasks}: line {line.line}: {line.id} failed: {_shortened(line.reason)}")
    if report.failed > 3:
        out.print(f"... {report.failed} failed tasks in all; {report.output} holds the reason of each")
    if report.models:
        out.print(models_table("Models in this run", report.models))
    fields = [
        [" ".join(name.split()), str(f.agreed), str(f.disputed), str(f.corrected), str(f.unchecked)]
        for name, f in list(report.fields.items())[:_MOST_FIELDS]
    ]
    columns = ["field", "agreed", "disputed", "corrected", "unchecked"]
    if fields:
        out.print(table("Fields in this run", columns, fields, right=columns[1:]))
    before = f" ({report.done_before} before this run)" if report.done_before else ""
    unaccepted = report.done - report.done_before - report.accepted
    unread = report.broken + report.duplicate
    before += f" · {counted(report.reused, 'stored answer')}" if report.reused else ""
    before += f" · {unaccepted} not accepted" if unaccepted else ""
    before += f" · {counted(unread, 'line')} not run" if unread else ""
    out.print(
        f"{report.done} done{before} · {report.failed} failed · {report.left} left · {report.seconds:.1f} s · "
        f"cost {usd(report.cost_usd)}{_saved(report)}"
    )
    for warning in report.warnings:
        out.print(f"warning: {warning}")
    out.print(_next_step(report))


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_REASON else text[:_MOST_REASON] + " …"


def _saved(report: BulkReport) -> str:
    """What the paid model alone would have cost; the saving is against its batch price where that was paid."""
    if not report.baseline_cost_usd:
        return ""
    one_by_one = report.baseline_one_by_one_usd
    batches = "" if one_by_one is None else f" in batches ({usd(one_by_one)} one by one)"
    return f" · paid model alone {usd(report.baseline_cost_usd)}{batches} · saved {report.savings_ratio:.0%}"


def _next_step(report: BulkReport) -> str:
    again = "the same command goes on from there and pays for nothing twice"
    if report.state == "interrupted" and (report.left or report.reason):
        why = report.reason or "interrupted"
        return f"{why[:1].upper()}{why[1:]}; {again}."
    if report.resume_at is not None:
        local = report.resume_at.astimezone()
        price = "" if report.paid_rest_usd is None else f" for about {usd(report.paid_rest_usd)}"
        return (
            f"{report.reason}. Run it again after {local:%Y-%m-%d %H:%M:%S %Z} ({again}); or now: with --wait it "
            f"waits, with --patience 0 it pays{price}."
        )
    if report.state == "incomplete":
        return f"Stopped: {report.reason}; {again}."
    if report.failed:
        return f"Results: {report.output}. Run it again to try the failed ones once more."
    return f"Results: {report.output}"


def _exit_code(report: BulkReport) -> int:
    if report.state == "interrupted":
        return 130
    if report.errors.get("budget") or (report.reason or "").startswith("Budget:"):
        return 3
    if report.failed and not report.done and set(report.errors) == {"models"}:
        return 4
    return 1 if report.failed or report.left or report.broken else 0


_EVERY_S = 10.0


def models_table(title: str, models: Mapping[str, ModelLine]) -> RenderableType:
    """What each model did for a job, one a row."""
    rows = [
        [name, *(f"{n:,}" for n in (m.calls, m.failed, m.answers, m.tokens)), usd(m.cost_usd)]
        for name, m in sorted(models.items())
    ]
    columns = ["model", "calls", "failed", "answers", "tokens", "cost"]
    return table(title, columns, rows, right=columns[1:])


@contextmanager
def progress_view(console: Console) -> Iterator[Callable[[Progress], None]]:
    """What shows a job's progress: on a terminal a bar, a line and the models, redrawn in place; else plain lines."""
    if not console.is_terminal:
        yield line_printer(console)
        return
    starting = Text("Starting …")
    with Live(starting, console=console, refresh_per_second=4, transient=True) as live:
        yield lambda progress: live.update(_renderable(progress))


def line_printer(console: Console) -> Callable[[Progress], None]:
    """Prints a line with the models at its end every ten seconds, the first one ten seconds after the job has begun."""
    last: float | None = None

    def update(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        last = now if last is None else last
        if now - last >= _EVERY_S:
            last = now
            models = [
                f"{name}: {m.answers} answers, {m.calls} calls, {m.failed} failed"
                for name, m in sorted(progress.models.items())
            ]
            console.print(" · ".join([progress.line(), *models]))

    return update


def _renderable(progress: Progress) -> RenderableType:
    # A bare bar does not end its line: what follows would stand beyond the terminal's edge.
    bar = Padding(ProgressBar(total=100, completed=progress.percent), 0)
    models = [models_table("", progress.models)] if progress.models else []
    return Group(bar, Text(progress.line()), *models)
