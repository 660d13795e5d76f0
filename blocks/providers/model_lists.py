"""What the providers' own model lists say of the configured models: one request a provider, address and key."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tta_dev_primitives.blocks.credentials.keys import load_key
from tta_dev_primitives.blocks.providers.client import ProviderClient
from tta_dev_primitives.blocks.wire.types import ModelInfo
from tta_dev_primitives.config.errors import MissingKeyError, OrchestrationError
from tta_dev_primitives.config.models.catalogue import Catalogue, load_catalogue
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError


@dataclass(frozen=True, slots=True)
class ListState:
    """What a provider's list says of one model."""

    target: Target
    state: Literal["served", "retires", "gone", "refused", "keyless", "unknown"]
    """`retires`: served, and the provider itself announces its end; `refused`: the key is not accepted;
    `keyless`: there is no key to ask with; `unknown`: the list could not be had."""
    note: str


async def ask_model_lists(
    targets: Sequence[Target], catalogue: Catalogue, *, client: ProviderClient
) -> list[ListState]:
    """Ask each provider once which models it serves; costs nothing."""
    asked: dict[tuple[str, str | None, str], asyncio.Task[Sequence[ModelInfo]]] = {}
    async with asyncio.TaskGroup() as group:
        for target in targets:
            where = (target.provider, target.base_url, target.api_key_env)
            if where not in asked:
                asked[where] = group.create_task(_quietly(client, target))
    lists = {where: task.result() for where, task in asked.items()}
    return [_state(t, lists[t.provider, t.base_url, t.api_key_env], catalogue) for t in targets]


class _Failed(list[ModelInfo]):
    """An empty list, and why it is empty; `text` names no model, as the list is of all."""

    def __init__(self, why: OrchestrationError, text: str) -> None:
        super().__init__()
        self.why, self.text = why, text


async def _quietly(client: ProviderClient, target: Target) -> Sequence[ModelInfo]:
    try:
        return await client.list_models(target, key=await load_key(target))
    except OrchestrationError as error:
        return _Failed(error, str(error).removeprefix(f"{target.provider} model {target.api_model}: "))


def _state(target: Target, listed: Sequence[ModelInfo], catalogue: Catalogue) -> ListState:
    if isinstance(listed, _Failed):
        why = listed.why
        if isinstance(why, ProviderError) and why.error_class is ErrorClass.MODEL_GONE:
            return ListState(target, "unknown", f"{target.provider} gives no model list at this address")
        if isinstance(why, MissingKeyError):
            return ListState(target, "keyless", str(why))
        refused = isinstance(why, ProviderError) and why.error_class is ErrorClass.AUTH
        return ListState(target, "refused" if refused else "unknown", listed.text)
    found = listed_as(target, listed, catalogue)
    if found is None or found.lifecycle == "retired":
        said = "is listed as retired" if found else "is not in the model list"
        return ListState(target, "gone", f"{target.api_model} {said}")
    if found.retires_at or found.lifecycle == "deprecated":
        when = f" until {found.retires_at[:10]}" if found.retires_at else ", and deprecated"
        return ListState(target, "retires", f"is served as {found.id}{when}")
    return ListState(target, "served", f"is served as {found.id}")


def listed_as(target: Target, listed: Iterable[ModelInfo], catalogue: Catalogue) -> ModelInfo | None:
    """The entry of a provider's list that is this model, or None.

    Anthropic lists dated ids for undated names, Ollama lists a name with its default tag.
    """
    entry = catalogue.find(target.api_model, target.provider)
    names = [target.api_model, *(entry.names if entry is not None else ())]
    if load_catalogue().is_compatible(target.provider):
        names.append(f"{target.api_model}:latest")
    by_id = {info.id: info for info in listed}
    return next((by_id[name] for name in names if name in by_id), None)
