"""`tta init`: a configuration file to start from, and the list of variables for the keys."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from cyclopts import Parameter
from pydantic import SecretStr

from tta_dev_primitives.commands._options import Flag
from tta_dev_primitives.commands._output import console, print_json
from tta_dev_primitives.config.errors import ConfigError, OrchestrationError
from tta_dev_primitives.config.init_file import (
    OWN_SERVER_KEY,
    key_variables,
    one_model_config,
    own_server_keys,
    server_address,
    with_keys_only,
)
from tta_dev_primitives.config.models.providers import load_providers

if TYPE_CHECKING:
    from rich.console import Console

    from tta_dev_primitives.blocks.providers.block_client import BoundClient

Scenario = Literal["balanced", "cost-optimized", "quality-optimized"]
_ABOUT = {
    "balanced": "free models first, the paid one where it is needed (recommended)",
    "cost-optimized": "a lower threshold, free models for nearly everything",
    "quality-optimized": "a high threshold, the best paid model first",
}
_PROVIDERS = {
    "ANTHROPIC_API_KEY": "Anthropic (paid: plans and validates)",
    "GOOGLE_API_KEY": "Google AI Studio (free plan)",
    "GROQ_API_KEY": "Groq (free plan)",
    "OPENROUTER_API_KEY": "OpenRouter (free models)",
}


def init(
    path: Path = Path(".tta/orchestration-config.yaml"),
    /,
    *,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative="")] = False,
    as_in_guide: Flag = False,
    scenario: Scenario | None = None,
    env_example: Path = Path(".env.example"),
    json: Flag = False,
) -> int:
    """Write a configuration file with today's models, and `.env.example` beside it. Existing files are kept.

    On a terminal it asks which scenario or server you want and which keys you have (never for a key itself), and writes
    an empty `.env`.

    Args:
        path: Where to write the configuration.
        yes: Ask nothing: every provider, and the full example unless a scenario is named.
        as_in_guide: The guide's own models instead of today's.
        scenario: One of the guide's three scenarios instead of the full example.
        env_example: Where to write the list of variables for the keys.
        json: Print one JSON document; asks nothing.
    """
    from tta_dev_primitives.config.loader import load_orchestration_config
    from tta_dev_primitives.config.models.resolve import resolve_targets
    from tta_dev_primitives.config.reading.trusted_files import digest_of, trust_file
    from tta_dev_primitives.config.template import ignore_in_git, write_new_file

    out = console(stderr=True)
    asks = not (yes or json or as_in_guide) and sys.stdin.isatty() and sys.stderr.isatty()
    have: list[str] | None = None
    text: str | None = None
    if asks and not os.path.lexists(path):
        chosen = scenario or _ask_scenario(out)
        if callable(chosen):
            text = chosen(out)
        else:
            scenario, have = chosen, _ask_keys(out)
    if text is None:
        text = _text(scenario, as_in_guide)
        text = with_keys_only(text, have) if have else text
    variables = key_variables(text)
    wrote_config = write_new_file(path, text)
    if wrote_config:
        trust_file(path, digest_of(path.read_bytes()))
    else:
        targets = resolve_targets(load_orchestration_config(path, use_env_overrides=False))
        variables = tuple(dict.fromkeys(target.api_key_env for target in targets.values()))
    head = "# Copy to .env (chmod 600 .env) and put your keys in; variables of the shell win over it.\n"
    empty = "".join(f"{name}=\n" for name in variables)
    wrote_env = write_new_file(env_example, head + empty)
    env_text = f"# Keys. Other users cannot read this file.\n{empty}"
    wrote_keys = (asks or yes) and write_new_file(Path(".env"), env_text, mode=0o600)
    ignored = ignore_in_git(".env")
    optional = [name for name in variables if name in own_server_keys() and not _is_set(name)]
    missing = [n for n in variables if not _is_set(n) and (not have or n in have) and n not in optional]
    steps = _next_steps(path, env_example, missing)
    if json:
        files = {str(path): wrote_config, str(env_example): wrote_env}
        print_json({"written": files, "variables": variables, "missing": missing, "next": steps})
        return 0
    out.print(_written(path, wrote_config))
    out.print(_written(env_example, wrote_env))
    if optional:
        out.print(f"{', '.join(optional)}: a key of your own server, in .env; empty when it wants none.")
    if wrote_keys:
        out.print(".env: written, readable by you only" + ("; .gitignore names it" if ignored else ""))
    if missing:
        out.print("One key is enough: models without a key are passed over.")
    out.print("Next: " + "\n      ".join(steps))
    return 0


def _text(scenario: Scenario | None, as_in_guide: bool) -> str:
    from tta_dev_primitives.config.template import guide_config, in_todays_names, scenario_config

    text = guide_config() if scenario is None else scenario_config(scenario)
    return text if as_in_guide else in_todays_names(text)


def _ask_keys(out: Console) -> list[str]:
    """The variables of the keys that are set or that the person says to have."""
    from rich.prompt import Confirm

    out.print("Which API keys do you have? The keys themselves go into .env later.", style="bold")
    have = []
    for variable, provider in _PROVIDERS.items():
        if _is_set(variable):
            out.print(f"  {provider}: {variable} is set")
            have.append(variable)
        elif Confirm.ask(f"  {provider}", default=False, console=out):
            have.append(variable)
    if not have:
        out.print("None yet: the file keeps all its models; `tta demo` and `tta sandbox` need no key.")
    return have


def _ask_scenario(out: Console) -> Scenario | Callable[[Console], str] | None:
    """A scenario, None for the full example, or the questions about another kind of server."""
    from rich.prompt import IntPrompt

    names: tuple[Scenario, ...] = get_args(Scenario)
    out.print("Which scenario?", style="bold")
    for number, name in enumerate(names, start=1):
        out.print(f"  {number} {name}: {_ABOUT[name]}")
    out.print(f"  {len(names) + 1} the guide's full example, with all options written out")
    out.print(
        f"  {len(names) + 2} one model of another provider (OpenAI, Mistral, DeepSeek, xAI, Together ...)"
    )
    out.print(f"  {len(names) + 3} my own server (Ollama, vLLM, LM Studio, LiteLLM)")
    choices = [str(n) for n in range(1, len(names) + 4)]
    number = IntPrompt.ask("  Number", choices=choices, default=1, console=out)
    if number > len(names) + 1:
        return ask_preset if number == len(names) + 2 else ask_own_server
    return names[number - 1] if number <= len(names) else None


def _is_set(variable: str) -> bool:
    from tta_dev_primitives.config.reading.api_keys import find_api_key

    try:
        return find_api_key(variable) is not None
    except ConfigError:
        return False


def _next_steps(path: Path, env_example: Path, missing: list[str]) -> list[str]:
    from tta_dev_primitives.config.loader import SEARCH_PATHS

    found = str(path) in SEARCH_PATHS
    check = "tta check" if found else f"tta check --config {shlex.quote(str(path))}"
    if not missing:
        return [check, 'tta run "What is the capital of France?"']
    if os.path.lexists(".env"):  # copying over it would lose the keys that it holds
        return [f"add {', '.join(missing)} to .env", check]
    return [
        f"cp {shlex.quote(str(env_example))} .env && chmod 600 .env, then add {', '.join(missing)} to .env",
        check,
    ]


def _written(path: Path, done: bool) -> str:
    return f"{path}: {'written' if done else 'exists already, left as it is'}"


_SHOWN = 30


def ask_own_server(out: Console) -> str:
    """The configuration for a server of one's own: its address is asked for, its models are listed."""
    from rich.prompt import Prompt

    from tta_dev_primitives.blocks.providers.address_rules import is_private_host
    from tta_dev_primitives.blocks.providers.block_client import BoundClient

    given, usual = "", "http://127.0.0.1:11434/v1"
    while True:
        asked = given or Prompt.ask("  Its address", default=usual, console=out)
        url, given = server_address(asked), ""
        try:
            client = BoundClient(
                provider="openai-compatible", key=_key(OWN_SERVER_KEY), base_url=url, allow_private_hosts=True
            )
        except OrchestrationError as error:
            out.print(f"  {error}", markup=False)
            continue
        host, usual = client.host, url
        model = _ask_model(out, client, "Name of the model (or another address)")
        if "://" in model:
            given = model
            continue
        private = url.startswith("http://") or is_private_host(host)
        text = one_model_config(
            model,
            "openai-compatible",
            api_key_env=OWN_SERVER_KEY,
            billing="free",
            base_url=url,
            private=private,
        )
        if _is_valid(out, text):
            return text


def ask_preset(out: Console) -> str:
    """The configuration for one of the catalogue's presets."""
    from rich.prompt import Prompt

    from tta_dev_primitives.blocks.providers.block_client import BoundClient

    presets = {name: entry for name, entry in load_providers().items() if entry.base_url is not None}
    name = Prompt.ask("  Which one", choices=list(presets), default="openai", console=out)
    entry = presets[name]
    billing = entry.billing or str(
        Prompt.ask("  Its plan", choices=["free", "paid"], default="free", console=out)
    )
    key = _key(entry.api_key_env)
    # Without a key only a server of one's own lists its models.
    lists = bool(key.get_secret_value()) or entry.own_server
    while True:
        model = _ask_model(out, BoundClient(provider=name, key=key) if lists else None)
        text = one_model_config(model, name, api_key_env=entry.api_key_env, billing=billing)
        if _is_valid(out, text):
            return text


def _is_valid(out: Console, text: str) -> bool:
    """Whether a configuration of typed words can be loaded; otherwise says why not."""
    try:
        key_variables(text)
    except ConfigError as error:
        out.print(f"  {error}", markup=False)
        return False
    return True


def _key(variable: str) -> SecretStr:
    from tta_dev_primitives.config.reading.api_keys import find_api_key

    try:
        return find_api_key(variable) or SecretStr("")
    except OrchestrationError:
        return SecretStr("")


def _ask_model(
    out: Console, client: BoundClient | None, question: str = "Name of the model (as the server calls it)"
) -> str:
    """One of the models that the server lists, by number; its name where the server lists none."""
    from rich.prompt import Prompt

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
            model = Prompt.ask(f"  {question}", console=out) or ""
        return model.strip()
    for number, name in enumerate(names[:_SHOWN], start=1):
        out.print(f"  {number} {name}", markup=False)
    if len(names) > _SHOWN:
        out.print(f"  ... and {len(names) - _SHOWN} more: type the name of one")
    choices = {name: name for name in names} | {
        str(n): name for n, name in enumerate(names[:_SHOWN], start=1)
    }
    picked = Prompt.ask(
        "  Number or name of the model", choices=list(choices), show_choices=False, default="1", console=out
    )
    return choices[picked]


async def _listed(client: BoundClient) -> list[str]:
    async with client:
        return [info.id for info in await client.list_models()]
