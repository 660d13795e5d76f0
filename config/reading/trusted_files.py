"""Which files of a working folder the user trusts: path and digest, in a file of mode 0600 below `TTA_HOME`.

A folder that was cloned or unpacked brings its own configuration and `.env`. A change of a trusted file ends the
trust. `TTA_TRUST=1` in the environment trusts all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.home import make_private
from tta_dev_primitives.config.reading.dotenv import read_dotenv

_STORE = "trusted.json"
_MOST = 1_000_000


def is_home(folder: Path) -> bool:
    """Whether `folder` is the user's home: what lies there is his own."""
    return os.path.realpath(folder) == os.path.realpath(Path.home())


def digest_of(data: bytes) -> str:
    """The digest of a file's content."""
    return hashlib.sha256(data).hexdigest()


def digest_of_settings(settings: Mapping[str, str]) -> str:
    """The digest of a file whose other content may change, such as the keys in `.env`."""
    return digest_of(json.dumps(dict(settings), sort_keys=True).encode())


def dotenv_settings(folder: Path | None = None) -> dict[str, str]:
    """What `.env` in `folder` says besides keys: `TTA_*` and the address of the Prefect API."""
    found = read_dotenv(folder)
    names = [name for name in found if name.startswith("TTA_") or name == "PREFECT_API_URL"]
    settings = {name: found[name].get_secret_value() for name in names}
    return {name: text for name, text in settings.items() if text.strip()}


def is_trusted(path: Path, digest: str) -> bool:
    """Whether the user trusted the file at `path` with this content.

    Raises:
        ConfigError: The list of trusted files may be changed by others, or is damaged.
    """
    # Of the environment, never of `.env`.
    everything = os.environ.get("TTA_TRUST", "").strip().lower() in {"1", "true", "yes", "on"}
    return everything or digest in _read().get(os.path.realpath(path), [])


def trust_file(path: Path, digest: str) -> None:
    """Trust the file at `path` from now on, with exactly this content."""
    known = _read()
    known[os.path.realpath(path)] = [digest]
    place = _place()
    try:
        make_private(place.parent)
        descriptor, part = tempfile.mkstemp(dir=place.parent, prefix=_STORE)
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            json.dump(known, file, indent=1)
        os.replace(part, place)
    except OSError as error:
        raise ConfigError(
            f"{place} cannot be written: {error.strerror}. Set TTA_HOME to a folder of yours."
        ) from None


def _place() -> Path:
    """Never where a `.env` says: that file is what may not be trusted."""
    return Path(os.environ.get("TTA_HOME", "").strip() or "~/.tta").expanduser().absolute() / _STORE


def _read() -> dict[str, list[str]]:
    place = _place()
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{place} cannot be read: {error.strerror}.") from None
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        foreign = found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o022
        if not stat.S_ISREG(found.st_mode) or foreign:
            raise ConfigError(f"{place} may be changed by other users. Delete it, then run: tta trust")
        data = file.read(_MOST)
    try:
        known = json.loads(data)
        return {str(name): [str(digest) for digest in digests] for name, digests in known.items()}
    except (ValueError, AttributeError, TypeError):
        raise ConfigError(f"{place} is damaged. Delete it, then run: tta trust") from None


def foreign_file(path: Path, roots: Iterable[Path]) -> str | None:
    """Why the file at `path` may be another user's; None: it and its folders are this user's."""
    real = Path(os.path.realpath(path))
    tops = [Path(os.path.realpath(root)) for root in roots]
    if not any(real.is_relative_to(top) for top in tops if top != Path("/")):
        return f"it does not lie below {' or '.join(dict.fromkeys(map(str, tops)))}"
    for place in (real, *real.parents):
        try:
            found = place.stat()
        except OSError as error:
            if place == real and isinstance(error, FileNotFoundError):
                continue  # Reading it says so.
            return f"{place} cannot be looked at: {error.strerror}"
        if found.st_uid not in (os.geteuid(), 0):
            return f"{place} belongs to another user"
        sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        if found.st_mode & 0o022 and not sticky:
            return f"{place} may be changed by other users"
    return None
