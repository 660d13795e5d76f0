"""`tta trust`: let the configuration of a folder do what it says."""

from __future__ import annotations

import os
from pathlib import Path

from tta_dev_primitives.blocks.prefect_server.endpoint import FOLDER_FILES, api_settings
from tta_dev_primitives.blocks.prefect_server.folder_settings import folder_settings, trust_name
from tta_dev_primitives.commands._options import Json
from tta_dev_primitives.commands._output import say
from tta_dev_primitives.config import load_orchestration_config
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
