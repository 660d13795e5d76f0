"""`tta batches`: the batches of bulk jobs, open and finished; look at one at its provider, or cancel it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tta_dev_primitives.commands._options import Config, Json
from tta_dev_primitives.commands._output import console, moment, print_json, table, usd
from tta_dev_primitives.commands.ledger import open_ledger
from tta_dev_primitives.commands.trust import load_trusted
from tta_dev_primitives.config.errors import ConfigError

if TYPE_CHECKING:
    from tta_dev_primitives.blocks.ledger.batches import Batch

_MOST_SHOWN = 50


def batches(
    action: Literal["list", "show", "cancel"] = "list",
    batch: str | None = None,
    /,
    *,
    config: Config = None,
    json: Json = False,
) -> int:
    """List batches; `show ID` asks the provider and collects what is ready; `cancel ID` stops one.

    What a canceled batch has answered by then is billed, collected and kept.

    Args:
        action: `list`, `show` or `cancel`.
        batch: The id as the list shows it, or its beginning.
    """
    if action == "list":
        if batch is not None:
            raise ConfigError(f"tta batches list takes no id. Write: tta batches show {batch}")
        _, ledger = open_ledger(config)
        found = asyncio.run(ledger.batches())
    else:
        found = [asyncio.run(_ask(action, batch, config))]
    if json:
        documents = [_document(one) for one in found]
        print_json({"batches": documents} if action == "list" else documents[0])
    elif not found:
        console().print("no batches")
    else:
        _show(found)
    return 0


async def _ask(action: str, name: str | None, config_path: Path | None) -> Batch:
    """Do what is asked with one batch at its provider; how it stands then."""
    from tta_dev_primitives.flows.bulk.batch_lifecycle import BatchTiming, ProviderBatches
    from tta_dev_primitives.flows.calling.runtime import Runtime

    runtime = await Runtime.of(load_trusted(config_path))
    provider_batches, ledger = ProviderBatches(runtime.services, BatchTiming()), runtime.ledger
    matching = [one for one in await ledger.batches() if name and one.id.startswith(name)]
    if len(matching) != 1:
        said = f"batch {name}: {len(matching)} batches have this id." if name else f"{action}: which batch?"
        raise ConfigError(f"{said} `tta batches` lists them.")
    batch = matching[0]
    if action == "cancel":
        await provider_batches.cancel(batch)
    await provider_batches.look(batch)
    return (await ledger.batches(ids=[batch.id]))[0]


def _show(found: list[Batch]) -> None:
    rows = [
        [
            one.id,
            one.model,
            f"{one.state}{f' ({one.seen})' if one.seen and one.ended_at is None else ''}",
            f"{one.lines - one.open_lines}/{one.lines}",
            usd(one.held, 4),
            usd(one.charged, 4),
            moment(one.submitted_at),
        ]
        for one in found[:_MOST_SHOWN]
    ]
    columns = ["id", "model", "state", "collected", "held", "charged", "submitted"]
    out = console()
    out.print(table("Batches", columns, rows, right=["collected", "held", "charged"]))
    for one in found[:_MOST_SHOWN]:
        if one.note:
            out.print(f"{one.id}: {one.note}")


def _document(one: Batch) -> dict[str, Any]:
    fields = asdict(one)
    del fields["price"], fields["key_id"]
    ended = None if one.ended_at is None else moment(one.ended_at)
    return {**fields, "submitted_at": moment(one.submitted_at), "ended_at": ended}
