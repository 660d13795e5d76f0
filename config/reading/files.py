"""Opening what a user points at: a regular file of sane size, whatever the path really is."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from tta_dev_primitives.config.errors import ConfigError

MAX_BYTES = 256 * 1024
"""More than any configuration needs; a larger file is refused before it is parsed."""


@dataclass(frozen=True, slots=True)
class FileContent:
    """The bytes of a file and what the file system says of it."""

    data: bytes = field(repr=False)
    stat: os.stat_result


def read_regular_file(path: Path, *, what: str = "Configuration file") -> FileContent:
    """Read `path` whole; it may be a symbolic link that ends at a regular file.

    A FIFO or device neither blocks nor is read: it is looked at before it is opened, opened without blocking,
    and looked at again.

    Raises:
        FileNotFoundError: There is no such file (or the link leads nowhere).
        ConfigError: It is not a regular file, cannot be read, or is larger than `MAX_BYTES`.
    """
    try:
        _require_regular(os.stat(path), path, what)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            _require_regular(found, path, what)
            data = stream.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{what} not found: {path}") from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{what} {str(path)!r}: not a usable path ({error})") from None
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        size = max(found.st_size, len(data))
        del data  # a traceback with local variables must not show what is in the file
        raise ConfigError(f"{what} {path} has {size:,} bytes; at most {MAX_BYTES:,} (256 KiB) are read.")
    return FileContent(data, found)


def _require_regular(found: os.stat_result, path: Path, what: str) -> None:
    if stat.S_ISREG(found.st_mode):
        return
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    kind = kinds.get(stat.S_IFMT(found.st_mode), "not a regular file")
    raise ConfigError(f"{what} {path} is {kind}; give the path of a regular file.")
