"""The questions of `tta init` about a preset or a server of one's own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pydantic import SecretStr

from tta_dev_primitives.config.errors import OrchestrationError
from tta_dev_primitives.config.init_file import OWN_SERVER_KEY, one_model_config, server_address
from tta_dev_primitives.config.models.catalogue import load_catalogue

if TYPE_CHECKING:
    from rich.console import Console

    from tta_dev_primitives.blocks.providers.block_client import BoundClient

_SHOWN = 30


def ask_own_server(out: Console) -> str:
    """The configuration for a server of one's own: its address is asked for, its models are listed."""
    from rich.prompt import Prompt

    from tta_dev_primitives.blocks.providers.address_rules import is_private_host
    from tta_dev_primitives.blocks.providers.block_client import BoundClient

    while True:
        url = server_address(Prompt.ask("  Its address", default="http://127.0.0.1:11434/v1", console=out))
        try:
            client = BoundClient(
                provider="openai-compatible", key=_key(OWN_SERVER_KEY), base_url=url, allow_private_hosts=True
            )
        except OrchestrationError as error:
            out.print(f"  {error}", markup=False)
            continue
        host = client.host
        model = _ask_model(out, client)
        private = url.startswith("http://") or is_private_host(host)
        return one_model_config(
            model,
            "openai-compatible",
            api_key_env=OWN_SERVER_KEY,
            billing="free",
            base_url=url,
            private=private,
        )


def ask_preset(out: Console) -> str:
    """The configuration for one of the catalogue's presets."""
    from rich.prompt import Prompt

    from tta_dev_primitives.blocks.providers.block_client import BoundClient

    presets = {
        name: entry for name, entry in load_catalogue().providers.items() if entry.base_url is not None
    }
    name = Prompt.ask("  Which one", choices=list(presets), default="openai", console=out)
    entry = presets[name]
    billing = entry.billing or str(
        Prompt.ask("  Its plan", choices=["free", "paid"], default="free", console=out)
    )
    key = _key(entry.api_key_env)
    # Without a key only a server of one's own lists its models.
    lists = bool(key.get_secret_value()) or entry.own_server
    model = _ask_model(out, BoundClient(provider=name, key=key) if lists else None)
    return one_model_config(model, name, api_key_env=entry.api_key_env, billing=billing)


def _key(variable: str) -> SecretStr:
    from tta_dev_primitives.config.reading.api_keys import find_api_key

    try:
        return find_api_key(variable) or SecretStr("")
    except OrchestrationError:
        return SecretStr("")


def _ask_model(out: Console, client: BoundClient | None) -> str:
    """One of the models that the server lists, by number; its name where the server lists none."""
    from rich.prompt import IntPrompt, Prompt

    try:
        names = [] if client is None else sorted(asyncio.run(_listed(client)))
    except OrchestrationError as error:
        said = str(error).removeprefix(f"{client.provider} model any: ") if client else str(error)
        out.print(f"  It lists no models now: {said}", markup=False)
        out.print("  Is it running? A server that wants a key lists them when OWN_SERVER_API_KEY is set.")
        names = []
    if not names:
        model = ""
        while not model.strip():
            model = Prompt.ask("  Name of the model (as the server calls it)", console=out) or ""
        return model.strip()
    for number, name in enumerate(names[:_SHOWN], start=1):
        out.print(f"  {number} {name}", markup=False)
    choices = [str(number) for number in range(1, len(names[:_SHOWN]) + 1)]
    number = IntPrompt.ask(
        "  Number of the model", choices=choices, show_choices=False, default=1, console=out
    )
    return names[number - 1]


async def _listed(client: BoundClient) -> list[str]:
    async with client:
        return [info.id for info in await client.list_models()]
