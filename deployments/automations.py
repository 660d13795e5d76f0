"""`deployments/automations.yaml` on a Prefect server: created or updated by name; safe to repeat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal
from uuid import UUID

import yaml
from prefect.client.orchestration import PrefectClient, get_client
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.deployments.merge import Difference, digests, merge, read_last, write_last

Outcome = Literal["created", "updated", "unchanged", "deleted by a person"]
_BASE = "automations"


@dataclass(frozen=True, slots=True)
class AppliedAutomation:
    """What became of one automation."""

    name: str
    outcome: Outcome
    kept: tuple[Difference, ...] = ()
    """Where the server's value stays against the file."""


async def apply_automations(
    notify: str | None = None, *, stale_after_s: int | None = None, reset: bool = False
) -> list[AppliedAutomation]:
    """Create or update every automation of the file; what people changed or deleted on the server stays.

    Args:
        notify: `<block type slug>/<block name>` of a notification block, such as `slack-webhook/ops`; None: the
            block of the last call, if any. Without one, automations that would only send a notice are left out.
        stale_after_s: Seconds of silence after which a run counts as crashed, instead of the file's; more than
            three heartbeats of the workers.

    Raises:
        ConfigError: The block or a deployment does not exist.
    """
    text = files("tta_dev_primitives.deployments").joinpath("automations.yaml").read_text(encoding="utf-8")
    async with get_client() as client:
        last = await read_last(client, _BASE) or {}
        notify = notify or (None if reset else last.get("notify"))
        block = await _block(client, notify) if notify is not None else None
        done, base = [], {}
        for entry in yaml.safe_load(text)["automations"]:
            found = [await _action(client, action, block) for action in entry["actions"]]
            actions = [action for action in found if action is not None]
            if not actions:
                continue
            if stale_after_s is not None and entry["trigger"]["posture"] == "Proactive":
                entry["trigger"]["within"] = stale_after_s
                actions = [{**action, "parameters": {"silent_s": stale_after_s}} for action in actions]
            wanted = AutomationCore.model_validate({**entry, "actions": actions})
            base[wanted.name] = digests(_content(wanted))
            done.append(
                await _apply(client, wanted, None if reset else last.get("of", {}).get(wanted.name), reset)
            )
        await write_last(client, _BASE, {"notify": notify, "of": base})
    return done


async def _apply(
    client: PrefectClient, wanted: AutomationCore, base: Mapping[str, str] | None, reset: bool
) -> AppliedAutomation:
    found = await client.read_automations_by_name(wanted.name)
    if not found:
        if base is not None:
            return AppliedAutomation(wanted.name, "deleted by a person")
        await client.create_automation(wanted)
        return AppliedAutomation(wanted.name, "created")
    for extra in found[1:]:
        await client.delete_automation(extra.id)
    stored = _content(found[0])
    # Without a base it is one of version 0.1.0, whose triggers must not stay.
    merged = merge(base, _content(wanted), stored, reset=reset or base is None)
    outcome: Outcome = "unchanged"
    if merged.values != stored:
        # Whether it is switched on stays as it is.
        update = {
            **wanted.model_dump(mode="json", exclude_unset=True),
            **merged.values,
            "enabled": found[0].enabled,
        }
        await client.update_automation(found[0].id, AutomationCore.model_validate(update))
        outcome = "updated"
    return AppliedAutomation(wanted.name, outcome, merged.kept)


def _content(automation: Automation | AutomationCore) -> dict[str, Any]:
    """The fields that people may change; ids that the server gives are left out."""
    content = automation.model_dump(mode="json", include={"description", "trigger", "actions"})
    trigger = content["trigger"]
    trigger.pop("id", None)
    # Sets: their order is chance.
    trigger.update(
        {name: sorted(trigger[name]) for name in ("after", "expect", "for_each") if name in trigger}
    )
    return content


async def _action(client: PrefectClient, entry: dict[str, Any], block: UUID | None) -> dict[str, Any] | None:
    """The action as Prefect takes it; None: a notice without a block to send it by."""
    action = dict(entry)
    if action.pop("do", None) == "notify":
        if block is None:
            return None
        return {"type": "send-notification", "block_document_id": str(block), **action}
    name = action.pop("deployment", None)
    if name is not None:
        try:
            action["deployment_id"] = str((await client.read_deployment_by_name(name)).id)
        except ObjectNotFound:
            raise ConfigError(f"deployment {name} is not on the server: run `tta deploy` first.") from None
    return action


async def _block(client: PrefectClient, notify: str) -> UUID:
    kind, separator, name = notify.partition("/")
    if not separator or not kind or not name:
        raise ConfigError(f"--notify {notify!r}: write <block type>/<block name>, such as slack-webhook/ops.")
    try:
        document = await client.read_block_document_by_name(name, kind)
    except ObjectNotFound:
        raise ConfigError(
            f"--notify {notify}: Prefect holds no such block. Make it in the UI (Blocks, Notification), or leave "
            "--notify out."
        ) from None
    return document.id
