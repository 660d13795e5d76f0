"""Where ledger, keys, server and logs are kept: in folders of this user only."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tta_dev_primitives.config.reading.dotenv import find_variable


def tta_home() -> Path:
    """The folder of ledger, keys, server and logs: `TTA_HOME` (environment, then `.env`), default `~/.tta`."""
    found = find_variable("TTA_HOME")
    return Path("~/.tta" if found is None else found.text.strip()).expanduser().absolute()


def make_private(folder: Path) -> None:
    """Make a folder and what is missing above it, open to this user only, whatever the umask is."""
    if not folder.parent.exists():
        make_private(folder.parent)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
