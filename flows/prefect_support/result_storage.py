"""Where Prefect keeps the results of our flows: the default storage of the user, or else a folder of our home."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from functools import lru_cache
from typing import Any, Literal

from prefect.client.orchestration import get_client
from prefect.filesystems import LocalFileSystem
from prefect.results import get_default_result_storage
from prefect.settings import PREFECT_API_URL, get_current_settings

from tta_dev_primitives.blocks.prefect_server.server_settings import EMBEDDED_MARK
from tta_dev_primitives.config.home import make_private, tta_home

_LOG = logging.getLogger("tta_dev_primitives.runs")
RESULTS = tta_home() / "results"
KEPT: dict[str, Any] = {
    "persist_result": True,
    "result_storage": RESULTS,
    "result_serializer": "json",
    "retries": 0,
}
"""Options of every flow whose result is kept; what is worth another try, the run itself tries."""
_ASK_S = 5.0


class _PrivateFolder(LocalFileSystem):
    """A folder whose files this user alone can read, whatever the umask is."""

    _block_type_slug = "tta-private-folder"

    async def awrite_path(self, path: str, content: bytes) -> str:
        written = await super().awrite_path(path, content)
        os.chmod(written, 0o600)
        return written


def private_results() -> LocalFileSystem:
    """Our own folder, as a storage."""
    return _PrivateFolder(basepath=str(RESULTS))


def is_private_results(storage: object) -> bool:
    """Whether a storage is what `private_results` gives."""
    return isinstance(storage, _PrivateFolder)


def make_results_folder() -> None:
    """Make the folder, readable by its owner only; without one Prefect reports it with the first result."""
    with suppress(OSError):
        make_private(RESULTS)


def delete_old_results(before: float) -> int:
    """Delete the results that were written before a moment (seconds since 1970); returns how many."""
    deleted = 0
    for path in RESULTS.glob("*"):
        # Another process may delete it at the same time.
        with suppress(FileNotFoundError):
            if path.is_file() and path.stat().st_mtime < before:
                path.unlink()
                deleted += 1
    return deleted


def users_storage() -> Literal["block", "folder"] | None:
    """The default storage of the user: a block of the settings or of the server, or a folder; None: not set."""
    results, address = get_current_settings().results, PREFECT_API_URL.value()
    if results.default_storage_block is not None or (address is not None and _server_has_default(address)):
        return "block"
    return "folder" if "local_storage_path" in results.model_fields_set else None


async def look_for_users_storage() -> None:
    """Ask a server that is not ours for its default storage, beside the event loop; `users_storage` then knows it."""
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.to_thread(users_storage), _ASK_S)


@lru_cache(maxsize=8)
def _server_has_default(address: str) -> bool:
    """Ask once a process: newer servers keep a default storage for all clients; the embedded one has none."""
    if address == os.environ.get(EMBEDDED_MARK):
        return False
    try:
        with get_client(sync_client=True) as client:
            read: Any = getattr(client, "read_server_default_result_storage", None)
            return read is not None and read().default_result_storage_block_id is not None
    except Exception as problem:
        _LOG.debug("the default result storage of %s was not read: %s", address, type(problem).__name__)
        return False


async def storage_of(chosen: Any) -> Any:
    """The storage that a flow's `result_storage` stands for."""
    if chosen is None:
        found: Any = get_default_result_storage()
        return await found if hasattr(found, "__await__") else found
    return chosen if isinstance(chosen, LocalFileSystem) else LocalFileSystem(basepath=str(chosen))
