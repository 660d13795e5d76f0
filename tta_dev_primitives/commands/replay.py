"""`tta replay`: what a configuration saves, and at which quality, on recorded answers."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tta_dev_primitives.commands._options import Json
from tta_dev_primitives.commands._output import console, print_json, quiet_logs, table, usd
from tta_dev_primitives.config.errors import ConfigError

if TYPE_CHECKING:
    from tta_dev_primitives.deployments.replay.recorded import Record
    from tta_dev_primitives.deployments.replay.router_axes import Axes
    from tta_dev_primitives.deployments.replay.run import Outcome

_SCENARIOS = ("cost-optimized", "balanced", "quality-optimized")


def replay(
    data: Path | None = None,
    /,
    *,
    config: Annotated[list[Path] | None, Parameter(name=["--config", "-c"], negative="")] = None,
    limit: int | None = None,
    seed: int = 1,
    concurrency: int = 10,
    chart: Path | None = None,
    json: Json = False,
) -> int:
    """Replay recorded answers through the sandbox, the real flow and a ledger of its own, and print the outcome.

    Without DATA the 400 recorded outcomes that ship with the product go through the state machine alone.

    Args:
        data: JSONL: prompt, use_case, models {name: {answer, correct, input_tokens, output_tokens}}.
        config: Configuration files to compare; the guide's three scenarios when not given.
        limit: Only the first so many records.
        seed: Of the order in which the tasks are run, and of the coins that choose audits.
        concurrency: Calls open at once.
        chart: Also write the cost-quality chart, as SVG.
    """
    quiet_logs(logging.ERROR)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    _check_options(limit, concurrency, chart)
    axes: Axes | None = None
    from tta_dev_primitives.config import load_orchestration_config
    from tta_dev_primitives.config.template import scenario_path

    files = config or [scenario_path(name) for name in _SCENARIOS]
    # Errors name the file and the key.
    configs = {path: load_orchestration_config(path, use_env_overrides=False) for path in files}
    if data is None:
        from tta_dev_primitives.deployments.replay.outcomes import recorded_outcomes, replay_outcomes

        shipped = recorded_outcomes(limit)
        outcomes = [
            replay_outcomes(shipped, one, name=path.stem, seed=seed, concurrency=concurrency)
            for path, one in configs.items()
        ]
    else:
        from tta_dev_primitives.deployments.replay.recorded import read_records
        from tta_dev_primitives.deployments.replay.router_axes import axes_of

        texts, records = (
            [(path.stem, path.read_text("utf-8")) for path in files],
            read_records(data, limit=limit),
        )
        try:
            outcomes = asyncio.run(_all(records, texts, seed, concurrency))
        except KeyboardInterrupt:
            print("tta: Interrupted; a replay keeps nothing, and no provider was called.", file=sys.stderr)
            return 130
        axes = axes_of(records)
    if chart is not None:
        _draw(chart, outcomes, axes)
    if json:
        ours = None if axes is None else axes.ours
        shown = None if ours is None else {"apgr": ours.apgr, "cpt50": ours.cpt(0.5), "cpt80": ours.cpt(0.8)}
        print_json({"scenarios": [one.to_json() for one in outcomes], "routellm_axes": shown})
        return 0
    _show(outcomes, axes)
    if chart is not None:
        console().print(f"chart: {chart}")
    return 0


def _draw(file: Path, outcomes: Sequence[Outcome], axes: Axes | None) -> None:
    from tta_dev_primitives.config.template import write_new_file
    from tta_dev_primitives.deployments.replay.chart import chart

    file.unlink(missing_ok=True)
    write_new_file(file, chart(outcomes, axes))


def _check_options(limit: int | None, concurrency: int, chart: Path | None) -> None:
    """Refuse what could only fail later, or would destroy a file that is no chart."""
    for name, value in (("--limit", limit), ("--concurrency", concurrency)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}: {value} is not 1 or more.")
    if chart is not None and chart.suffix.lower() != ".svg":
        raise ConfigError(f"--chart {chart}: charts are SVG; give the name of a file that ends in .svg.")
    if chart is not None and chart.is_dir():
        raise ConfigError(f"--chart {chart}: is a folder; give the name of a file.")


async def _all(
    records: Sequence[Record], texts: Sequence[tuple[str, str]], seed: int, concurrency: int
) -> list[Outcome]:
    from tta_dev_primitives.deployments.replay.run import replay_scenario

    done: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="tta-replay-") as root:
        for number, (name, text) in enumerate(texts):
            folder = Path(root) / str(number)
            folder.mkdir(mode=0o700)
            done.append(
                await replay_scenario(
                    records, text, name=name, folder=folder, seed=seed, concurrency=concurrency
                )
            )
    return done


def _show(outcomes: Sequence[Outcome], axes: Axes | None) -> None:
    columns = ["scenario", "saving", "of paid", "calls", "rejected", "missed", "cost"]
    rows = [
        [
            one.scenario,
            f"{one.saving:.1%}",
            f"{one.relative:.1%}",
            f"{one.free_calls}+{one.paid_calls}",
            f"{one.rejected}{' !' if one.violated else ''}",
            f"{one.missed_at_most:.0f}",
            usd(one.cost, 4),
        ]
        for one in outcomes
    ]
    out = console()
    out.print(table(f"Replay of {outcomes[0].tasks} tasks", columns, rows, right=columns[1:]))
    out.print(
        "saving: against the paid model alone on its own recorded tokens, all costs included; of paid: right answers "
        "as a share of the paid model's; calls: free+paid; rejected: delivered answers that differ from the paid "
        "model's, ! more than the threshold allows; missed: with 95 % confidence no more un-judged ones were rejected.",
        style="dim",
    )
    for one in outcomes:
        if one.failed:
            out.print(f"{one.scenario}: {one.failed} of {one.tasks} tasks got no answer.")
    if axes is None:
        return
    ours, published = axes.ours, axes.published
    out.print(
        f"RouteLLM's axes, routing by agreement of cheap models: APGR {ours.apgr:.3f}, "
        f"CPT(50 %) {ours.cpt(0.5):.1%}, CPT(80 %) {ours.cpt(0.8):.1%}; oracle APGR {axes.oracle.apgr:.3f}"
    )
    if published is not None:
        out.print(
            f"RouteLLM's best published: APGR {published[2]:.3f}, CPT(50 %) {published[0]:.1%}, "
            f"CPT(80 %) {published[1]:.1%}"
        )
