"""`tta blocks sync`: the keys of the environment as Prefect blocks."""

from __future__ import annotations

from tta_dev_primitives.commands._options import Config, Json
from tta_dev_primitives.commands._output import say, table


def sync(
    *,
    config: Config = None,
    json: Json = False,
) -> int:
    """Save one credentials block for each provider and key that the configuration names.

    Running it again changes nothing that has not changed; a stored key is never erased.
    """
    from tta_dev_primitives.commands.trust import load_trusted
    from tta_dev_primitives.flows.prefect_support.api_connection import use_server

    loaded = load_trusted(config)
    use_server()
    from tta_dev_primitives.blocks.credentials.sync import sync_blocks

    done = sync_blocks(loaded)
    document = [
        {"name": b.name, "type": b.block_type, "variable": b.variable, "outcome": b.outcome} for b in done
    ]
    rows = [[b.name, b.variable, b.outcome, b.detail] for b in done]
    return say(document, table("Blocks", ["block", "variable", "outcome", ""], rows), json=json)
