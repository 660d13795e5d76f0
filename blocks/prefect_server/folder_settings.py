"""Prefect settings that came with the working folder: Prefect reads them by itself, and some of them run code.

Prefect takes settings from `.env` (names in any case), `prefect.toml` and `pyproject.toml` of the working folder.
A logging configuration names classes that are called; a client setting sends headers. Without trust only the
address of the API and its own password are taken. Does not import prefect.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tta_dev_primitives.config.errors import ConfigError, UntrustedConfigError
from tta_dev_primitives.config.reading.dotenv import read_dotenv, unfiltered_dotenv
from tta_dev_primitives.config.reading.files import read_regular_file
from tta_dev_primitives.config.reading.trusted_files import (
    digest_of,
    digest_of_settings,
    is_home,
    is_trusted,
)

_TAKEN = frozenset({"PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_LOGGING_LEVEL"})
"""What `.env` may say; where the address leads to is checked elsewhere."""
_TAKEN_API = frozenset({"url", "key", "auth_string"})
_UNREADABLE = "text that is no TOML"
_WORD = re.compile(r"[^\s\"'\[\]{}(),;=]{1,200}")
_IN_QUOTES = re.compile(r"'([^'\n]{1,500})'|\"([^\"\n]{1,500})\"")
_LONGEST_NAME = 500
_MOST_DOTS = 300
"""A key of many parts takes memory by their square: `a.a.a...` in 200 KB takes 40 GB."""
_MOST_FILES = 20


def refuse_folder_settings(folder: Path | None = None) -> None:
    """Stop before Prefect is imported with settings that came with the working folder and are not trusted.

    A process that has imported Prefect already runs the user's own code there: nothing is checked.
    """
    if "prefect" in sys.modules or is_home(folder or Path()):
        return
    for path, settings in folder_settings(folder):
        if not is_trusted(trust_name(path), digest_of_settings(settings)):
            names = ", ".join(sorted(settings)[:4])
            raise UntrustedConfigError(
                f"{path}: {names} would change how Prefect runs here.\n"
                "This came with the working folder and is not trusted. Read it, then run `tta trust` "
                "(or set TTA_TRUST=1)."
            )


def trust_name(path: Path) -> Path:
    """Under which name these settings of a file are trusted: `.env` has a trust of its own for other variables."""
    return path.with_name(f"{path.name}#prefect")


def folder_settings(folder: Path | None = None) -> Iterator[tuple[Path, dict[str, str]]]:
    """Each file of the folder with the Prefect settings that need trust; files without any are left out."""
    here = Path.cwd() if folder is None else folder
    taken = read_dotenv(folder)
    found = {
        name: value.get_secret_value()
        for name, value in unfiltered_dotenv(folder)
        # Prefect's reader compares names in lower case, in which other alphabets have letters of ours.
        if _decides_prefect(name)
        if name not in os.environ
        # Prefect replaces `$NAME` by a variable of the user's, which may be a key.
        if name not in _TAKEN or name not in taken or "$" in value.get_secret_value()
    }
    if found:
        yield here / ".env", found | _named_files(here, found.values())
    for name in ("prefect.toml", "pyproject.toml"):
        table: Any = _toml(here / name)
        if name == "pyproject.toml" and _UNREADABLE not in table:
            tool = table.get("tool")
            table = tool.get("prefect") if isinstance(tool, Mapping) else None
        settings = dict(_settings(table))
        if settings:
            yield here / name, settings | _named_files(here, settings.values())


def _named_files(here: Path, texts: Iterable[str]) -> dict[str, str]:
    """The digest of each file that settings name, and of those that it names: Prefect runs what they say."""
    found: dict[str, str] = {}
    todo = list(texts)
    while todo and len(found) < _MOST_FILES:
        text = todo.pop()
        words = (text[:_LONGEST_NAME], *_WORD.findall(text), *(a or b for a, b in _IN_QUOTES.findall(text)))
        for word in dict.fromkeys(words):
            named = here / word
            for path in (named, named / "profiles.toml", named / "logging.yml"):
                try:
                    data = read_regular_file(path).data
                except (FileNotFoundError, ConfigError):
                    continue
                if f"text of {path}" not in found:
                    found[f"text of {path}"] = digest_of(data)
                    todo.append(data.decode("utf-8", "replace"))
    return found


def _decides_prefect(name: str) -> bool:
    """Whether a variable, or a line that was not understood, changes how Prefect runs; TTA_HOME holds its profile."""
    if name.lstrip().startswith("#"):
        return False
    return name == "TTA_HOME" or "prefect" in unicodedata.normalize("NFKC", name).casefold()


def _settings(table: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(table, Mapping):
        return
    for key, value in table.items():
        if key == "api" and isinstance(value, Mapping):
            yield from (
                (f"api.{name}", str(inner)) for name, inner in value.items() if name not in _TAKEN_API
            )
        else:
            yield str(key), str(value)


def _toml(path: Path) -> dict[str, Any]:
    """The file as Prefect reads it. One that cannot be read needs trust: another reader may understand it."""
    text = ""
    try:
        text = read_regular_file(path).data.decode().replace("\r\n", "\n").replace("\r", "\n")
        if any(line.count(".") > _MOST_DOTS for line in text.split("\n")):
            return {_UNREADABLE: text}
        return tomllib.loads(text)
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        return {_UNREADABLE: text}
