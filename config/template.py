"""Configuration files to start from: the guide's full example, and the same shape with today's models."""

from __future__ import annotations

import logging
import os
import re
from datetime import date
from pathlib import Path

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.models.catalogue import Catalogue, load_catalogue, today_utc
from tta_dev_primitives.config.options import OrchestratorConfig

logger = logging.getLogger("tta_dev_primitives.config.orchestration_config")

DEFAULT_PATH = ".tta/orchestration-config.yaml"
_HERE = Path(__file__).parent


def create_default_config(output_path: str | os.PathLike[str] = DEFAULT_PATH) -> Path:
    """Write the guide's full example to `output_path`, creating its folder.

    A file that is already there is left as it is, and a warning says so: run it twice and nothing is lost.

    Args:
        output_path: Where to write.

    Returns:
        The path of the file.

    Raises:
        ConfigError: The file cannot be written there.
    """
    if not isinstance(output_path, (str, os.PathLike)):
        raise ConfigError(
            f"output_path: {output_path!r:.80} is no path. Expected the path of the file to write."
        )
    path = Path(os.path.expanduser(os.fspath(output_path)))
    if path.parent.name == ".tta":
        # The guide copies the example from here when the configuration itself was lost.
        write_new_file(path.with_name(path.name + ".example"), guide_config())
    if write_new_file(path, guide_config()):
        logger.info("Created default configuration: %s", path)
    else:
        logger.warning("%s already exists and was left as it is; remove it first for a fresh one", path)
    return path


def guide_config() -> str:
    """The guide's full example, as YAML text."""
    return (_HERE / "default-config.yaml").read_text(encoding="utf-8")


def scenario_config(name: str) -> str:
    """One of the guide's scenarios (`cost-optimized`, `balanced`, `quality-optimized`), as YAML text."""
    return scenario_path(name).read_text(encoding="utf-8")


def scenario_path(name: str) -> Path:
    """The file of a scenario."""
    return _HERE / "scenarios" / f"{name}.yaml"


def todays_config() -> str:
    """The guide's full example with the models that the catalogue recommends today, as YAML text."""
    return in_todays_names(guide_config())


def in_todays_names(text: str) -> str:
    """A configuration's text with every model that is retired or retires soon replaced by its successor.

    A text without an orchestrator means the default one: it is written out where its model is about to go.
    """
    known, today = load_catalogue(), today_utc()
    text = _with_orchestrator(text, known, today)
    for entry in known.models:
        successor = known.successor(entry, today)
        if successor is None:
            continue
        for name in entry.names:
            text = re.sub(
                rf"(?<= ){re.escape(name)}(?= *(?:#.*)?$)", successor.name, text, flags=re.MULTILINE
            )
    return text


def _with_orchestrator(text: str, known: Catalogue, today: date) -> str:
    """The text with the default orchestrator written out, if it has none and the default's model is about to go."""
    model = OrchestratorConfig().model
    going = any(model in entry.names and known.successor(entry, today) is not None for entry in known.models)
    if not going or re.search(r"(?m)^  orchestrator:", text):
        return text
    section = f"  orchestrator:\n    model: {model}\n    api_key_env: {OrchestratorConfig().api_key_env}\n\n"
    return re.sub(r"(?m)^(?=  executors:)", section, text, count=1)


def ignore_in_git(name: str) -> bool:
    """Add `name` to `.gitignore` when the working folder belongs to git and no rule covers it; whether it was added."""
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), None)
    if root is None:
        return False
    text, covered, rules = "", False, {name, f"{name}*", f"*{name}", f"**/{name}"}
    for folder in dict.fromkeys((root, here)):
        path = folder / ".gitignore"
        text = path.read_text("utf-8", "replace") if path.is_file() else ""
        for line in map(str.strip, text.splitlines()):
            if line.removeprefix("!").strip("/") in rules:
                covered = not line.startswith("!")
    if covered:
        return False
    path = here / ".gitignore"
    try:
        # As git does: a link is not followed.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        with open(descriptor, "a", encoding="utf-8", newline="\n") as stream:
            stream.write(("" if not text or text.endswith("\n") else "\n") + f"{name}\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. Add {name} to it.") from None
    return True


def write_new_file(path: Path, text: str, *, mode: int = 0o644) -> bool:
    """Write `text` to `path` whole or not at all; False, and nothing done, if something is there already."""
    if path.is_dir():
        raise ConfigError(
            f"{path} is a folder; give the name of a file, such as {path / 'orchestration-config.yaml'}"
        )
    try:
        if os.path.lexists(path):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        # Never more open than 0644: the loader refuses a file that everyone may write.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with open(descriptor, "w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
        except BaseException:
            path.unlink()
            raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, FileExistsError):  # of mkdir: the folder's name is taken by a file
            reason = f"{path.parent} is not a folder"
        raise ConfigError(f"{path} cannot be written: {reason}") from error
    return True
