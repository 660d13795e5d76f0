"""Which model takes the place of one that its provider no longer serves."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from tta_dev_primitives.blocks.quotas.availability import Blocked
from tta_dev_primitives.config.errors import MissingKeyError
from tta_dev_primitives.config.models.resolve import replacement_for
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass
from tta_dev_primitives.config.reading.api_keys import key_id
from tta_dev_primitives.flows.calling.admission import waits_for
from tta_dev_primitives.flows.calling.services import Services


@dataclass(frozen=True, slots=True)
class Replacement:
    """The model that takes a retired one's place, or why there is none."""

    target: Target | None
    why_not: str = ""


async def replacement_of(services: Services, retired: Target, *, waits_for_quota: bool) -> Replacement:
    """The catalogue's replacement of `retired`, or why there is none.

    It has the same provider, key and billing. One that is gone itself gives way to its own replacement; one that
    is out for a while takes no place.
    """
    if services.config.on_retired != "replace":
        return Replacement(None, f"on_retired is {services.config.on_retired}")
    if retired.base_url is not None:
        return Replacement(None, "a model with a base_url of its own is not replaced")
    seen, found = {retired.name}, replacement_for(retired, services.config, services.catalogue)
    while found is not None and found.name not in seen:
        block = await _block_of(services, found)
        if block is None or waits_for(block, waits_for_quota):
            return Replacement(replace(found, replaces=retired.name))
        if block.error_class is not ErrorClass.MODEL_GONE:
            return Replacement(None, f"its replacement {found.name} is out, too: {block.reason}")
        seen.add(found.name)
        found = replacement_for(found, services.config, services.catalogue)
    return Replacement(None, "the catalogue knows no replacement of the same provider and billing")


async def serving_now(services: Services, named: Target, *, waits_for_quota: bool) -> Target:
    """The model that serves under a name now: itself, or its replacement while the provider calls it gone."""
    with suppress(MissingKeyError):
        block = await _block_of(services, named)
        if block is not None and block.error_class is ErrorClass.MODEL_GONE:
            found = await replacement_of(services, named, waits_for_quota=waits_for_quota)
            return found.target or named
    return named


async def _block_of(services: Services, target: Target) -> Blocked | None:
    blocked = await services.availability.blocked([(target, key_id(await services.keys.key_of(target)))])
    return blocked.get(target.key)
