"""When a provider no longer serves a model: who serves instead, and how the result and the events say so."""

from __future__ import annotations

from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ProviderError
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.prefect_support import events
from tta_dev_primitives.flows.tasks.item import Item
from tta_dev_primitives.flows.tasks.result import Attempt


def emit_failure(item: Item, target: Target, attempt: Attempt, error: ProviderError) -> None:
    """Send the event of one failed attempt; one that only repeats what the run knows has none."""
    if getattr(error, "known", False):
        return
    events.emit("tta.attempt.failed", _payload(item, target, attempt.role, error), resource=_resource(target))


async def replace_retired(
    runtime: Runtime, item: Item, retired: Target, role: str, error: ProviderError
) -> Target | None:
    """Put the replacement in the place of a model of the item's case; None when another model's turn is next."""
    found = await emit_retired(runtime, item, retired, role, error)
    return item.replaced(retired, found) if found is not None else None


async def emit_retired(
    runtime: Runtime, item: Item, retired: Target, role: str, error: ProviderError
) -> Target | None:
    """Say in the result and in an event that a model is retired and what serves instead; None when nothing does."""
    found = await runtime.replacement_of(retired)
    if found.target is not None:
        note_replacement(item, found.target)
    else:
        item.note(
            f"{retired.name}: {retired.provider} no longer serves it and it is not tried again for a day "
            f"({found.why_not}). `tta models` lists today's."
        )
    if not getattr(error, "known", False):
        named = found.target.name if found.target is not None else None
        payload = {**_payload(item, retired, role, error), "replacement": named}
        events.emit("tta.model.retired", payload, resource=_resource(retired))
    return found.target


def note_replacement(item: Item, target: Target) -> None:
    """Say in the result that `target` serves in the place of the model that the configuration names."""
    if target.replaces is not None:
        item.note(
            f"{target.replaces} is gone: {target.name} of the same provider and billing serves instead "
            "(on_retired: replace). Name it in the configuration."
        )


def _payload(item: Item, target: Target, role: str, error: ProviderError) -> dict[str, object]:
    return {
        "item": item.id,
        "model": target.name,
        "provider": target.provider,
        "role": role,
        "error_class": error.error_class.value,
        "status": error.status,
        "reason": str(error),
    }


def _resource(target: Target) -> str:
    return f"tta.model.{target.provider}/{target.name}"
