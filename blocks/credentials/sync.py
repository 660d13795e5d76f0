"""Save the keys that a configuration names as Prefect blocks, so that workers without the variables can run.

Importing this module imports Prefect. Running it again changes nothing that has not changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pydantic import SecretStr

from tta_dev_primitives.blocks.credentials.keys import block_name, forget_keys
from tta_dev_primitives.blocks.credentials.provider_credentials import ProviderCredentials, credentials_of
from tta_dev_primitives.blocks.providers.address_rules import base_of, host_of
from tta_dev_primitives.blocks.redaction import register_secret
from tta_dev_primitives.config.errors import MissingKeyError
from tta_dev_primitives.config.models.providers import load_providers
from tta_dev_primitives.config.models.resolve import resolve_targets
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.options import OrchestrationConfig
from tta_dev_primitives.config.reading.api_keys import find_api_key

Outcome = Literal["created", "updated", "unchanged", "no key", "other host"]


@dataclass(frozen=True, slots=True)
class SyncedBlock:
    """What became of one block."""

    name: str
    block_type: str
    variable: str
    outcome: Outcome
    detail: str = ""


def sync_blocks(
    config: OrchestrationConfig, *, environ: Mapping[str, str] | None = None
) -> tuple[SyncedBlock, ...]:
    """Save one credentials block for each provider, variable and host that `config` names.

    A stored key is never erased: where the variable is not set, the block stays as it is. Prefect must be
    reachable.

    Args:
        config: The loaded configuration.
        environ: Stands in for the process environment; `.env` is read all the same.

    Raises:
        ConfigError: A key cannot be sent, or an address breaks a rule.
    """
    wanted: dict[str, Target] = {}
    for target in resolve_targets(config).values():
        base_of(target)
        wanted.setdefault(block_name(target), target)
    done = tuple(_sync(name, target, environ) for name, target in wanted.items())
    forget_keys()
    return done


def _sync(name: str, target: Target, environ: Mapping[str, str] | None) -> SyncedBlock:
    kind, detail = credentials_of(target.provider), ""
    report = partial(SyncedBlock, name, kind.get_block_type_slug(), target.api_key_env)
    try:
        key = find_api_key(target.api_key_env, environ)
    except MissingKeyError as error:
        key, detail = None, str(error)
    if key is not None:
        register_secret(key)
    stored = _stored(kind, name)
    if stored is not None and stored.host != host_of(target.provider, target.base_url):
        detail = f"the stored key is bound to {stored.host}; delete the block to replace it"
        return report("other host", detail)
    if stored is None and key is None:
        return report("no key", detail or f"{target.api_key_env} is not set")
    preset = load_providers().get(target.provider)
    merged = kind(
        api_key=key or (stored.api_key if stored else None),
        # A block knows the format of a preset, not its address.
        base_url=target.base_url or (preset.base_url if preset is not None else None),
        allow_private_hosts=target.allow_private_hosts or base_of(target).reach == "private",
    )
    if stored is not None and _fields(merged) == _fields(stored):
        return report("unchanged", detail)
    merged.save(name, overwrite=True, _sync=True)  # type: ignore[call-arg]  # added by Prefect's decorator
    return report("created" if stored is None else "updated", detail)


def _stored(kind: type[ProviderCredentials], name: str) -> ProviderCredentials | None:
    try:
        found: ProviderCredentials = kind.load(name, _sync=True)  # type: ignore[call-arg, assignment]
    except ValueError as error:
        if "Unable to find block document" in str(error):
            return None
        raise
    return found


def _fields(block: ProviderCredentials) -> tuple[SecretStr | None, str | None, bool]:
    return block.api_key, block.base_url, block.allow_private_hosts
