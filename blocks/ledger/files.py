"""The ledger's file on disk: private to its user, and never on a network file system."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tta_dev_primitives.config.errors import LedgerConfigError

__all__ = ["file_system_of", "make_private_file", "refuse_network_file_system"]

_NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb",
        "smb3",
        "smbfs",
        "ncpfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "beegfs",
    }
    | {"gpfs", "ocfs2", "gfs2", "davfs"}
    | {f"fuse.{name}" for name in ("ceph", "glusterfs", "sshfs", "s3fs", "gcsfuse", "rclone", "davfs2")}
)
"""SQLite's locks do not hold between the machines that share one of these."""


def file_system_of(path: Path, mounts: str) -> str:
    """The type of the file system that holds `path`.

    Args:
        path: An absolute path; it need not exist.
        mounts: The text of `/proc/self/mounts`.
    """
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ").replace("\\011", "\t")
        inside = point == "/" or str(path) == point or str(path).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def refuse_network_file_system(path: Path) -> None:
    """Raise `LedgerConfigError` when `path` lies on a network file system (known on Linux only)."""
    table = Path("/proc/self/mounts")
    if not table.exists():
        return
    kind = file_system_of(path, table.read_text(errors="replace"))
    if kind in _NETWORK:
        raise LedgerConfigError(
            f"Ledger {path}: this is on a network file system ({kind}), where SQLite's locks do not hold. "
            f"Use a local disk, or PostgreSQL: TTA_LEDGER_URL=postgresql://user:password@host/name"
        )


def make_private_file(path: Path) -> None:
    """Make sure that `path` is a regular file for this user only (0600, a new folder 0700).

    An existing file is never opened here: closing it would drop the locks that SQLite holds on it for
    another connection of this process.

    Raises:
        LedgerConfigError: It is not a regular file.
        OSError: The folder or file cannot be made.
    """
    if not path.parent.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise LedgerConfigError(
                f"Ledger {path}: not a regular file; give the ledger a file of its own"
            ) from None
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            path.chmod(0o600)
