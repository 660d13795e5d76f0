"""The API key of a target: from the environment or `.env` first, else from its saved Prefect block.

A key is bound to (provider, host): the block's name carries both, and a block whose address was changed by
hand is refused. Does not import Prefect unless a block has to be read.
"""

from __future__ import annotations

import logging
import re
import time

from pydantic import SecretStr

from tta_dev_primitives.blocks.providers.address_rules import base_of, host_of, is_private_host
from tta_dev_primitives.blocks.redaction import register_secret
from tta_dev_primitives.config.errors import ConfigError, MissingKeyError
from tta_dev_primitives.config.models.catalogue import load_catalogue
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.reading.api_keys import find_api_key

logger = logging.getLogger(__name__)

_KEEP_S, _ABSENT_S = 300.0, 10.0
"""Loading a block costs 50 ms: how long a key, and that there is none, is believed."""
_read: dict[str, tuple[float, SecretStr | None]] = {}
"""By the block's name: until when it is believed, and its key."""


async def load_key(target: Target) -> SecretStr:
    """Return the key for `target`; empty only for a server on a private address, which may need none.

    Raises:
        MissingKeyError: Neither the variable nor the block holds one; the message names both.
        ConfigError: The key cannot be sent, or the block is bound to another host.
    """
    try:
        found = find_api_key(target.api_key_env)
        missing = None
    except MissingKeyError as error:
        # A placeholder in .env must not hide a good block.
        found, missing = None, error
    if found is None:
        found = await _from_block(target)
    if (
        found is None
        and load_catalogue().is_compatible(target.provider)
        and is_private_host(base_of(target).host)
    ):
        return SecretStr("")
    if found is None:
        said = missing or f"API key not found: set {target.api_key_env} (environment or .env)."
        raise MissingKeyError(
            f"Model '{target.name}': {said} Prefect holds no block {block_name(target)} either "
            "(tta blocks sync saves one).",
            variables=(target.api_key_env,),
        )
    register_secret(found)
    return found


def forget_keys() -> None:
    """Read blocks anew from now on (after a key was rotated or rejected)."""
    _read.clear()


def block_name(target: Target) -> str:
    """Name of the block that holds the key of `target`: `tta-<provider>-<variable>[-<host>]`.

    The host stands in it when it is not the provider's own: no key is sent to another's address.
    """
    host = host_of(target.provider, target.base_url)
    parts = ["tta", target.provider, target.api_key_env]
    if host != host_of(target.provider, None):
        parts.append(host)
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


async def _from_block(target: Target) -> SecretStr | None:
    name = block_name(target)
    until, key = _read.get(name, (0.0, None))
    if time.monotonic() >= until:
        key = await _read_block(name, target)
        _read[name] = (time.monotonic() + (_ABSENT_S if key is None else _KEEP_S), key)
    return key


async def _read_block(name: str, target: Target) -> SecretStr | None:
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        # Asking would start Prefect's ephemeral server, which takes half a minute to find nothing.
        return None
    import httpx

    from tta_dev_primitives.blocks.credentials.provider_credentials import ProviderCredentials, credentials_of

    try:
        block: ProviderCredentials = await credentials_of(target.provider).aload(name)
    except ValueError as error:
        # Prefect's answer for "no such block", and pydantic's for one that an older version saved.
        logger.debug("Block %s is not there: %s", name, type(error).__name__)
        return None
    except (httpx.HTTPError, RuntimeError, OSError) as error:
        raise MissingKeyError(
            f"Model '{target.name}': {target.api_key_env} is not set, and Prefect could not give the block "
            f"{name} ({type(error).__name__}). Set the variable, or see to the Prefect server.",
            variables=(target.api_key_env,),
        ) from None
    if block.host != host_of(target.provider, target.base_url):
        raise ConfigError(
            f"Model '{target.name}': the key in block {name} is bound to {block.host}, "
            f"not to {host_of(target.provider, target.base_url)}. Correct base_url, or save the key anew."
        )
    return block.api_key
