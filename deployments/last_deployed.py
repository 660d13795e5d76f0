"""What `tta deploy` deployed last, kept on the server as Prefect variables: the base of the next merge."""

from __future__ import annotations

import re
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import VariableCreate, VariableUpdate


async def read_last(client: PrefectClient, name: str) -> dict[str, Any] | None:
    """The base of a deployment or of the automations; None when none is kept."""
    found = await client.read_variable_by_name(_variable(name))
    return found.value if found is not None and isinstance(found.value, dict) else None


async def write_last(client: PrefectClient, name: str, base: dict[str, Any]) -> None:
    """Keep the base for the next `tta deploy`, from whatever machine."""
    variable = _variable(name)
    if await client.read_variable_by_name(variable) is None:
        await client.create_variable(VariableCreate(name=variable, value=base, tags=["tta"]))
    else:
        await client.update_variable(VariableUpdate(name=variable, value=base))


def _variable(name: str) -> str:
    return "tta_deployed_" + re.sub(r"[^a-z0-9]+", "_", name.lower())
