"""Variables from the environment and from a `.env` file in the working directory; real variables win.

python-dotenv parses it. No `$NAME` is replaced and nothing is written to the environment. A `.env` that others may
change is refused, one that others may read is warned of (docs/decisions says why), and one that is not UTF-8 is
refused before Prefect reads the same file.
"""

from __future__ import annotations

import grp
import io
import logging
import os
import pwd
import re
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv.parser import parse_stream
from pydantic import SecretStr

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.reading.files import MAX_BYTES, read_regular_file

logger = logging.getLogger(__name__)

_NOT_TEXT = re.compile("[\0\udc80-\udcff]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_BLANKS = re.compile(r"[^\S\n]++")
_MOST_BLANKS = 2_000
_ALLOW = "TTA_ALLOW_OPEN_ENV"

_Signature = tuple[int, int, int, int, int]
_cache: dict[str, tuple[_Signature, Mapping[str, SecretStr]]] = {}
_cache_lock = threading.Lock()


@dataclass(frozen=True, slots=True, repr=False)
class Variable:
    """A variable that is set and not empty. Its text never shows in a repr."""

    secret: SecretStr
    """Its text. Every variable is masked, since the reader does not know which ones are keys."""
    origin: str
    """`environment` or `.env`."""

    @property
    def text(self) -> str:
        """The text in clear; for settings, never for keys."""
        return self.secret.get_secret_value()


def find_variable(name: str, environ: Mapping[str, str] | None = None) -> Variable | None:
    """The variable `name` from the environment, else from `.env`; an empty one counts as absent.

    Args:
        environ: Stands in for the process environment; `.env` is read all the same.

    Raises:
        ConfigError: `.env` may be changed by others, or is not UTF-8.
    """
    secret = SecretStr((os.environ if environ is None else environ).get(name, ""))
    if not _is_empty(secret):
        return Variable(secret, "environment")
    secret = read_dotenv().get(name, _NOTHING)
    return None if _is_empty(secret) else Variable(secret, ".env")


_NOTHING = SecretStr("")


def _is_empty(secret: SecretStr) -> bool:
    return not secret.get_secret_value().strip()


def read_dotenv(folder: Path | None = None) -> Mapping[str, SecretStr]:
    """The variables of `.env` in `folder` (the working directory); empty if there is none.

    Raises:
        ConfigError: Others may change the file, it is absurdly large, or it is not UTF-8.
    """
    path = (folder or Path()) / ".env"
    try:
        found = os.stat(path)
    except OSError:
        return {}
    signature = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode)
    cache_key = os.path.abspath(path)
    with _cache_lock:
        cached = _cache.get(cache_key)
        if cached is not None and cached[0] == signature:
            return cached[1]
        values = _read(path, found)
        _cache[cache_key] = (signature, values)
        return values


def _read(path: Path, found: os.stat_result) -> Mapping[str, SecretStr]:
    if not stat.S_ISREG(found.st_mode):
        if not stat.S_ISDIR(found.st_mode):  # a folder named .env is somebody's virtual environment
            logger.warning("%s is not a regular file: not read", path)
        return {}
    _look_at_permissions(path, found)
    if not os.access(path, os.R_OK):
        logger.warning("%s cannot be read (permission denied): its variables are not used", path)
        return {}
    if found.st_size > MAX_BYTES:
        raise ConfigError(f"{path} has {found.st_size:,} bytes; at most {MAX_BYTES:,} (256 KiB) are read.")
    values, skipped, fault = _parsed(read_regular_file(path, what="File").data, path)
    if fault is not None:
        raise ConfigError(fault)
    if skipped:
        lines = ", ".join(map(str, skipped[:10])) + (" ..." if len(skipped) > 10 else "")
        logger.warning("%s: not KEY=value, skipped: line %s", path, lines)
    return values


def _look_at_permissions(path: Path, found: os.stat_result) -> None:
    if os.environ.get(_ALLOW, "").strip().lower() in ("1", "true", "yes", "on"):
        return
    # Root reads what belongs to others in containers; a file of root's is no user's.
    if found.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0:
        raise ConfigError(
            f"{path} belongs to another user, whose keys would see your texts. To fix: copy it, or delete it "
            f"(or set {_ALLOW}=1)"
        )
    mode = stat.S_IMODE(found.st_mode)
    own_group = _is_private_group(found)
    if mode & 0o002 or (mode & 0o020 and not own_group):
        raise ConfigError(
            f"{path} may be changed by other users, so its keys are not used. To fix: chmod 600 {path} "
            f"(or set {_ALLOW}=1)"
        )
    if mode & 0o004 or (mode & 0o040 and not own_group):
        logger.warning(
            "%s can be read by other users. To fix: chmod 600 %s (or set %s=1)", path, path, _ALLOW
        )


def _is_private_group(found: os.stat_result) -> bool:
    """Whether the file's group is its owner's own (the default on Ubuntu and Fedora, with umask 002)."""
    try:
        group = grp.getgrgid(found.st_gid)
        owner = pwd.getpwuid(found.st_uid)
    except KeyError:
        return False
    return group.gr_name == owner.pw_name and not set(group.gr_mem) - {owner.pw_name}


def _parsed(data: bytes, path: Path) -> tuple[Mapping[str, SecretStr], list[int], str | None]:
    """Variables, skipped lines, and what is wrong with the encoding. Cannot raise, since it holds keys in clear."""
    fault = _encoding_fault(data, path)
    return (*parse_dotenv(data), None) if fault is None else ({}, [], fault)


def _encoding_fault(data: bytes, path: Path) -> str | None:
    to_fix = f"Save it as UTF-8, for example with: iconv -f {{}} -t UTF-8 {path} > fixed.env"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:200]:
        return f"{path}:1: this is UTF-16, not UTF-8. {to_fix.format('UTF-16')}"
    try:
        blanks = max(map(len, _BLANKS.findall(data.decode("utf-8"))), default=0)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return f"{path}:{line}: not UTF-8 (byte {error.start}). {to_fix.format('CP1252')}"
    # The parsers, Prefect's too, take time by the square of such a run: a minute for 250 KB.
    return (
        f"{path}: {blanks:,} blanks in a row are no setting. Delete them." if blanks > _MOST_BLANKS else None
    )


def unfiltered_dotenv(folder: Path | None = None) -> list[tuple[str, SecretStr]]:
    """Each line of `.env` as other readers may take it: any name, also lines that `read_dotenv` skips."""
    path = (folder or Path()) / ".env"
    read_dotenv(folder)
    try:
        text = read_regular_file(path).data.decode().replace("\r\n", "\n").replace("\r", "\n")
    except (FileNotFoundError, ConfigError):
        return []  # a pipe or folder, which Prefect does not read either
    return [
        (one.original.string if one.error or one.key is None else one.key, SecretStr(one.value or ""))
        for one in parse_stream(io.StringIO(text))
    ]


def parse_dotenv(data: bytes) -> tuple[dict[str, SecretStr], list[int]]:
    """The variables in `data`, and the numbers of the lines that could not be read. No `$NAME` is replaced."""
    text = data.decode("utf-8-sig", "surrogateescape")
    values: dict[str, SecretStr] = {}
    skipped: list[int] = []
    for binding in parse_stream(io.StringIO(text)):
        name, value = binding.key, binding.value
        if binding.error or (
            name is not None and (value is None or not _NAME.fullmatch(name) or _NOT_TEXT.search(value))
        ):
            text_of_it = binding.original.string
            empty_lines = text_of_it[: len(text_of_it) - len(text_of_it.lstrip())].count("\n")
            skipped.append(binding.original.line + empty_lines)
        elif name is not None and value is not None:
            values[name] = SecretStr(value)
    return values, skipped
