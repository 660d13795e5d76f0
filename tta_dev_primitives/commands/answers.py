"""`tta answers`: what is kept of the models' answers, and its deletion."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from dataclasses import asdict

from tta_dev_primitives.commands._options import Config, Flag, Json
from tta_dev_primitives.commands._output import console, counted, moment, say, table
from tta_dev_primitives.commands.ledger import open_ledger, seconds_of

_MOST_SHOWN = 20


def answers(
    *,
    older_than: str | None = None,
    delete: Flag = False,
    config: Config = None,
    json: Json = False,
) -> int:
    """List the stored answers, which make a repeated task free, or delete them.

    Args:
        older_than: Only those older than this: `12h`, `30d` or `8w`.
        delete: Delete them; the same task is asked and paid again. On a terminal it asks first, without an age.
    """
    before = math.inf if older_than is None else time.time() - seconds_of(older_than, "--older-than")
    _, ledger = open_ledger(config)
    if delete and older_than is None and not json and sys.stdin.isatty() and not _agrees():
        return 1
    if delete:
        deleted = asyncio.run(ledger.forget_answers(before))
        line = f"{counted(deleted, 'stored answer')} deleted; the ledger keeps what they cost"
        return say({"deleted": deleted}, line, json=json)
    sums, kept = asyncio.run(ledger.kept_answers(before, most=1_000_000 if json else _MOST_SHOWN))
    documents = [{**asdict(one), "at": moment(one.at)} for one in kept]
    rows = [[moment(k.at), k.model or "", k.role or "", k.use_case or "", f"{k.size:,}"] for k in kept]
    columns = ["stored", "model", "role", "use case", "bytes"]
    since = f", the oldest from {moment(sums.oldest)}" if sums.oldest is not None else ""
    return say(
        {"answers": sums.answers, "bytes": sums.size, "kept": documents},
        *([table("Stored answers", columns, rows, right=["bytes"])] if kept else []),
        f"{counted(sums.answers, 'stored answer')}, {sums.size:,} bytes{since}",
        json=json,
    )


def _agrees() -> bool:
    from rich.prompt import Confirm

    return Confirm.ask(
        "Delete every stored answer? What was paid for is paid again.", default=False, console=console()
    )
