"""The ledger's file on disk: private to its user, and never on a network file system."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from tta_dev_primitives.config.errors import LedgerConfigError
from tta_dev_primitives.config.home import make_private

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


_MOUNTS = Path("/proc/self/mounts")
_OCTAL = re.compile(rb"\\([0-7]{3})")


def file_system_of(path: Path, mounts: bytes) -> tuple[str, str]:
    """Where the file system that holds `path` is mounted, and its type."""
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        fields = line.split(b" ")
        if len(fields) < 3:
            continue
        point = os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), fields[1]))
        inside = point == "/" or str(path) == point or str(path).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, os.fsdecode(fields[2])
    return best, kind


def refuse_mounts(path: Path) -> None:
    """Refuse a network file system, and a file that is mounted alone (both known on Linux only)."""
    if not _MOUNTS.exists():
        return
    point, kind = file_system_of(path, _MOUNTS.read_bytes())
    if kind in _NETWORK:
        raise LedgerConfigError(
            f"Ledger {path}: this is on a network file system ({kind}), where SQLite's locks do not hold. "
            f"Use a local disk, or PostgreSQL: TTA_LEDGER_URL=postgresql://user:password@host/name"
        )
    if point == str(path) and path.is_file():
        raise LedgerConfigError(
            f"Ledger {path}: this file is mounted alone; its write-ahead log would be another one outside. "
            f"Mount its folder instead."
        )


def refuse_hard_links(path: Path) -> None:
    """Refuse a file that has a second name: each name has a write-ahead log of its own."""
    if path.is_file() and (names := path.stat().st_nlink) > 1:
        raise LedgerConfigError(
            f"Ledger {path}: the file has {names} names (hard links), and each name has a write-ahead "
            f"log of its own. Delete the other names; to share a ledger, share or mount its folder."
        )


def make_private_file(path: Path) -> None:
    """Make sure that `path` is a regular file for this user only (0600, a new folder 0700).

    An existing file is never opened here: closing it would drop the locks that SQLite holds on it for
    another connection of this process.
    """
    make_private(path.parent)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise LedgerConfigError(
                f"Ledger {path}: not a regular file; give the ledger a file of its own"
            ) from None
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            path.chmod(0o600)
