"""Whether a file can only have been written by this user (or root), all the way up to a folder of his."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path


def foreign_file(path: Path, roots: Iterable[Path]) -> str | None:
    """Why the file at `path` may be another user's; None: it and its folders are this user's.

    Args:
        path: The file; links are followed.
        roots: The folders below which it must lie.
    """
    real = Path(os.path.realpath(path))
    tops = [Path(os.path.realpath(root)) for root in roots]
    if not any(real.is_relative_to(top) for top in tops if top != Path("/")):
        return f"it does not lie below {' or '.join(dict.fromkeys(map(str, tops)))}"
    for place in (real, *real.parents):
        try:
            found = place.stat()
        except OSError as error:
            return f"{place} cannot be looked at: {error.strerror}"
        if found.st_uid not in (os.geteuid(), 0):
            return f"{place} belongs to another user"
        sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        if found.st_mode & 0o022 and not sticky:
            return f"{place} may be changed by other users"
    return None
