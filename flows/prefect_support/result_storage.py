"""Where Prefect keeps the results of our flows: a folder of our home, which spares a request a run."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from prefect.filesystems import LocalFileSystem
from typing_extensions import override

from tta_dev_primitives.config.home import tta_home

__all__ = ["RESULTS", "ResultFolder"]


class ResultFolder(LocalFileSystem):
    """A folder that holds results side by side, under plain names.

    Prefect asks for a path a dozen times a run, and its own class follows every link on the way each time; it also
    goes to a thread three times for a write of a few kilobytes.
    """

    _block_type_name = "TTA Result Folder"

    @override
    def _resolve_path(self, path: str) -> Path:
        folder, name = os.path.split(os.path.join(self.basepath or "", path))
        if folder != self.basepath or name in (".", ".."):
            raise ValueError(f"{path} is no plain name in {self.basepath}")
        return Path(folder, name)

    @override
    async def awrite_path(self, path: str, content: bytes) -> str:
        target = self._resolve_path(path)
        _write(target, content)
        return str(target)


def _write(target: Path, content: bytes) -> None:
    """Write a private file as a whole: Prefect's own writes in place, and a reader could see half a result."""
    half = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        with open(half, "xb", opener=_private) as file:
            file.write(content)
        os.replace(half, target)
    except OSError:
        half.unlink(missing_ok=True)
        raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _private_folder() -> Path:
    """The folder, readable by its owner only; without one Prefect says so when it writes the first result."""
    folder = tta_home() / "results"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return folder
    return folder


RESULTS = _private_folder()
