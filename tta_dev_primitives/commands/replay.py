"""`tta replay`: what a configuration saves, and at which quality, on recorded answers."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tta_dev_primitives.commands._output import console, print_json, quiet_logs, table, usd

if TYPE_CHECKING:
    from tta_dev_primitives.deployments.replay_run import Outcome

__all__ = ["replay"]

_SCENARIOS = ("cost-optimized", "balanced", "quality-optimized")


def replay(
    data: Path,
    /,
    *,
    config: Annotated[list[Path] | None, Parameter(name=["--config", "-c"], negative="")] = None,
    limit: int | None = None,
    seed: int = 1,
    concurrency: int = 10,
    chart: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Replay recorded answers through the sandbox, the real flow and a ledger of its own, and print the outcome.

    Args:
        data: JSONL: prompt, use_case, models {name: {answer, correct, input_tokens, output_tokens}}.
        config: Configuration files to compare; the guide's three scenarios when not given.
        limit: Only the first so many records.
        seed: Of the order in which the tasks are run.
        concurrency: Calls open at once.
        chart: Also write the cost-quality chart, as SVG.
        json: Print one JSON document.
    """
    quiet_logs(logging.ERROR)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    from tta_dev_primitives.config.template import scenario_config, write_new_file
    from tta_dev_primitives.deployments.router_axes import PUBLISHED, agreement_curve, oracle_curve
    from tta_dev_primitives.deployments.sandbox.replay import read_records

    records = read_records(data, limit=limit)
    given = [(path.stem, path.read_text(encoding="utf-8")) for path in config or ()]
    texts = given or [(name, scenario_config(name)) for name in _SCENARIOS]
    outcomes = asyncio.run(_all(records, texts, seed, concurrency))
    ours, oracle = agreement_curve(records), oracle_curve(records)
    published = PUBLISHED.get(str(records[0].get("dataset"))) if ours is not None else None
    if chart is not None:
        from tta_dev_primitives.deployments.replay_chart import chart as draw

        chart.unlink(missing_ok=True)
        write_new_file(chart, draw(outcomes, ours, oracle, published))
    if json:
        axes = None if ours is None else {"apgr": ours.apgr, "cpt50": ours.cpt(0.5), "cpt80": ours.cpt(0.8)}
        print_json({"scenarios": [one.to_json() for one in outcomes], "routellm_axes": axes})
        return 0
    _show(outcomes)
    out = console()
    if ours is not None and oracle is not None:
        out.print(
            f"RouteLLM's axes, routing by agreement of cheap models: APGR {ours.apgr:.3f}, "
            f"CPT(50 %) {ours.cpt(0.5):.1%}, CPT(80 %) {ours.cpt(0.8):.1%}; oracle APGR {oracle.apgr:.3f}"
        )
        if published is not None:
            out.print(
                f"RouteLLM's best published: APGR {published[2]:.3f}, CPT(50 %) {published[0]:.1%}, "
                f"CPT(80 %) {published[1]:.1%}"
            )
    if chart is not None:
        out.print(f"chart: {chart}")
    return 0


async def _all(
    records: Sequence[Mapping[str, Any]], texts: Sequence[tuple[str, str]], seed: int, concurrency: int
) -> list[Outcome]:
    from tta_dev_primitives.deployments.replay_run import replay_scenario

    done: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="tta-replay-") as root:
        for name, text in texts:
            folder = Path(root) / name
            folder.mkdir(mode=0o700)
            done.append(
                await replay_scenario(
                    records, text, name=name, folder=folder, seed=seed, concurrency=concurrency
                )
            )
    return done


def _show(outcomes: Sequence[Outcome]) -> None:
    columns = [
        "scenario",
        "saving",
        "right",
        "paid",
        "relative",
        "free",
        "paid calls",
        "disowned",
        "at most",
        "cost",
    ]
    rows = [
        [
            one.scenario,
            f"{one.saving:.1%}",
            f"{one.accuracy:.1%}",
            f"{one.paid_accuracy:.1%}",
            f"{one.relative:.1%}",
            str(one.free_calls),
            str(one.paid_calls),
            str(one.disowned) + (" !" if one.violated else ""),
            f"<= {one.missed_at_most:.0f}",
            usd(one.cost, 4),
        ]
        for one in outcomes
    ]
    out = console()
    out.print(table(f"Replay of {outcomes[0].tasks} tasks", columns, rows, right=columns[1:]))
    out.print(
        "saving: against the paid model alone on its own recorded tokens, all costs included; relative: accuracy "
        "against the paid model's; disowned: delivered answers that differ from the paid model's; at most: with "
        "95 % confidence no more un-judged answers were.",
        style="dim",
    )
