"""`tta trust`: let the configuration of a folder do what it says; the same question as other commands ask it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tta_dev_primitives.blocks.credentials.config_trust import refuse_untrusted, trust_config, untrusted
from tta_dev_primitives.blocks.prefect_server.endpoint import (
    FOLDER_FILES,
    ConfiguredApi,
    api_doubt,
    api_settings,
    configured_api,
    trust_api,
)
from tta_dev_primitives.blocks.prefect_server.folder_settings import folder_settings, trust_name
from tta_dev_primitives.commands._options import Json
from tta_dev_primitives.commands._output import console, say
from tta_dev_primitives.config import OrchestrationConfig, load_orchestration_config
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.loader import SEARCH_PATHS
from tta_dev_primitives.config.reading.files import read_regular_file
from tta_dev_primitives.config.reading.trusted_files import digest_of, digest_of_settings, trust_file


def trust(path: Path = Path(), /, *, json: Json = False) -> int:
    """Trust a configuration, or the configuration, `.env` and Prefect address of a folder, as they are now.

    A change of a file ends its trust; a changed key in `.env` does not.

    Args:
        path: A folder (the current one when not given), or one configuration file.
    """
    files = _files(path)
    if not files:
        raise ConfigError(
            f"{path.absolute()}: nothing here needs trust; {SEARCH_PATHS[0]} and .env are looked at."
        )
    for file, digest in files.items():
        trust_file(file, digest)
    shown = list(dict.fromkeys(str(file).removesuffix("#prefect") for file in files))
    return say({"trusted": shown}, *(f"trusted as it is now: {name}" for name in shown), json=json)


def _files(path: Path) -> dict[Path, str]:
    if not path.is_dir():
        load_orchestration_config(path)  # its errors name the file and the key
        return {path.absolute(): digest_of(read_regular_file(path).data)}
    found: dict[Path, str] = {}
    for name in SEARCH_PATHS[:2]:
        file = path.absolute() / name
        if os.path.lexists(file):
            found |= _files(file)
            break
    for name in FOLDER_FILES:
        settings = api_settings(path.absolute() / name)
        if settings:
            found[path.absolute() / name] = digest_of_settings(settings)
    for file, settings in folder_settings(path.absolute()):
        found[trust_name(file)] = digest_of_settings(settings)
    return found


def load_trusted(path: Path | None) -> OrchestrationConfig:
    """Load the configuration, and ask or refuse when it needs trust.

    Raises:
        UntrustedConfigError: It needs trust, and nothing can be asked or the answer is no.
    """
    config = load_orchestration_config(path)
    ask_trust(config)
    return config


def ask_trust(config: OrchestrationConfig) -> None:
    """Ask once what the files of the working folder may do; without a terminal, refuse what needs trust.

    Raises:
        UntrustedConfigError: The configuration needs trust, and nothing can be asked or the answer is no.
    """
    doubts = untrusted(config)
    api = configured_api()
    about_api = None if api is None else api_doubt(api)
    if (doubts or about_api) and sys.stdin.isatty() and sys.stderr.isatty():
        _ask(config, doubts, api, about_api)
    refuse_untrusted(config)


def _ask(
    config: OrchestrationConfig, doubts: list[str], api: ConfiguredApi | None, about_api: str | None
) -> None:
    from rich.prompt import Confirm

    out = console(stderr=True)
    out.print("These files came with the working folder, and ask for more than it may without your word:")
    for doubt in [*doubts, *([about_api] if about_api else [])]:
        out.print(f"  {doubt}")
    if Confirm.ask("Trust them as they are now?", default=False, console=out):
        trust_config(config)
        if api is not None and about_api is not None:
            trust_api(api)
