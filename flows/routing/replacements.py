"""Who serves in the place of a model that its provider no longer serves."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from pydantic import SecretStr

from tta_dev_primitives.blocks.credentials.key_ids import key_id
from tta_dev_primitives.blocks.quotas.availability import Availability, Blocked
from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import ErrorClass, MissingKeyError
from tta_dev_primitives.config.models.catalogue import Catalogue
from tta_dev_primitives.config.models.resolve import replacement_for
from tta_dev_primitives.config.models.targets import Target

__all__ = ["serving_now", "stand_in_of"]


class Needs(Protocol):
    """What is used of a runtime."""

    config: OrchestrationConfig
    catalogue: Catalogue
    availability: Availability

    async def key_of(self, target: Target) -> SecretStr:
        """The target's key."""

    def waits_for(self, block: Blocked) -> bool:
        """Whether a model that is out stays a candidate."""


async def stand_in_of(needs: Needs, gone: Target) -> Target | str:
    """The catalogue's replacement of `gone`, or why there is none.

    It has the same provider, key and billing. One that is gone itself gives way to its own replacement; one that
    is out for a while serves nobody.
    """
    if needs.config.on_retired != "replace":
        return f"on_retired is {needs.config.on_retired}"
    if gone.base_url is not None:
        return "a model with a base_url of its own is not replaced"
    seen, found = {gone.name}, replacement_for(gone, needs.config, needs.catalogue)
    while found is not None and found.name not in seen:
        block = await _block_of(needs, found)
        if block is None or needs.waits_for(block):
            return replace(found, replaces=gone.name)
        if block.error_class is not ErrorClass.MODEL_GONE:
            return f"its replacement {found.name} is out, too: {block.reason}"
        seen.add(found.name)
        found = replacement_for(found, needs.config, needs.catalogue)
    return "the catalogue knows no replacement of the same provider and billing"


async def serving_now(needs: Needs, named: Target) -> Target:
    """The model that serves under a name now: itself, or its replacement while the provider calls it gone."""
    with suppress(MissingKeyError):
        block = await _block_of(needs, named)
        if block is not None and block.error_class is ErrorClass.MODEL_GONE:
            found = await stand_in_of(needs, named)
            return found if isinstance(found, Target) else named
    return named


async def _block_of(needs: Needs, target: Target) -> Blocked | None:
    blocked = await needs.availability.blocked([(target, key_id(await needs.key_of(target)))])
    return blocked.get(target.key)
