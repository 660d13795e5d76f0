"""Is the Prefect API that runs use reachable, of a fitting version, and safe? Does not import prefect."""

from __future__ import annotations

import os
import socket
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote, urlsplit

from tta_dev_primitives.blocks.prefect_server.access import client_auth
from tta_dev_primitives.blocks.prefect_server.endpoint import (
    ConfiguredApi,
    configured_api,
    server_version,
    shown,
)
from tta_dev_primitives.blocks.prefect_server.manager import server_status
from tta_dev_primitives.blocks.prefect_server.server_settings import ServerHome, is_loopback, release_of
from tta_dev_primitives.config.check import CheckLine, fail, ok, warn
from tta_dev_primitives.config.errors import PrefectServerError

_ok, _warn, _fail = (partial(line, "prefect") for line in (ok, warn, fail))


def check_server(*, home: Path | None = None) -> list[CheckLine]:
    """Everything that is wrong with the Prefect API, each with its remedy; starts nothing.

    A configured API is asked for its version and whether it lets strangers in; of a server on this machine
    the files are looked at too: their modes, and where the key of saved blocks lies.
    """
    configured = configured_api()
    if configured is None:
        return list(_embedded(ServerHome.find(home)))
    return list(_configured(configured))


def _embedded(place: ServerHome) -> Iterator[CheckLine]:
    status = server_status(home=place.root)
    if status.problem:
        yield _fail(f"the embedded server (process {status.pid}): {status.problem}", "tta server stop")
    elif status.running:
        yield _ok(f"the embedded server runs at {status.ui_url}, Prefect {status.version}")
        yield from _waits_for_a_worker(
            ConfiguredApi(f"{status.ui_url}/api", "embedded", auth=client_auth(place))
        )
    else:
        yield _ok(f"the embedded server is started on first use (Prefect {version('prefect')})")
    for path in (place.folder, place.key_file.parent, place.key_file, place.auth_file, place.database):
        yield from _private(path)
    yield from _key_in_database(place.database)
    if place.database.exists() and not place.key_file.exists():
        yield _fail(
            f"{place.key_file} is missing: blocks that were saved with it cannot be read",
            "Restore the file; or run `tta server stop` and `tta blocks sync` to save the blocks again.",
        )


def _configured(api: ConfiguredApi) -> Iterator[CheckLine]:
    try:
        running = server_version(api)
    except PrefectServerError as error:
        yield _fail(str(error))
        return
    parts = urlsplit(api.url)
    local = is_loopback(parts.hostname or "")
    where = f"Prefect API {shown(api.url)} ({api.source})"
    yield _ok(f"{where} answers" + (f", Prefect {running}" if running else ""))
    if running and release_of(running) < release_of(version("prefect")):
        fix = (
            "Upgrade the server first: Prefect supports a newer server with an older client, not the reverse."
        )
        yield _warn(f"{where} runs Prefect {running}, older than {version('prefect')} here", fix)
    if not local and parts.scheme != "https":
        fix = "Put TLS in front of it and use its https address."
        yield _fail(f"{where} is plain http: passwords and block secrets can be read on the way", fix)
    if not local and _lets_strangers_in(api):
        fix = "Set PREFECT_SERVER_API_AUTH_STRING on the server and PREFECT_API_AUTH_STRING here."
        yield _fail(f"{where} answers without a password: anyone can read the secrets of blocks", fix)
    yield from _waits_for_a_worker(api)
    if local:
        yield from _open_elsewhere(api)
        database = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser() / "prefect.db"
        yield from _private(database)
        yield from _key_in_database(database)


def _lets_strangers_in(api: ConfiguredApi) -> bool:
    stranger = replace(api, auth=None, key=None, headers={})
    try:
        status, _ = stranger.get("/admin/version")
    except OSError:
        return False
    return status == 200


def _open_elsewhere(api: ConfiguredApi) -> Iterator[CheckLine]:
    """A finding when a server that is used over loopback answers strangers at this machine's other addresses too."""
    parts = urlsplit(api.url)
    for address in own_addresses():
        host = f"[{address}]" if ":" in address else address
        netloc = host if parts.port is None else f"{host}:{parts.port}"
        if _lets_strangers_in(replace(api, url=parts._replace(netloc=netloc).geturl())):
            yield _fail(
                f"the server at {shown(api.url)} also answers at {netloc} without a password: other machines can "
                "read the secrets of blocks",
                "Start it with --host 127.0.0.1; or set PREFECT_SERVER_API_AUTH_STRING on it (and put TLS in front), "
                "and PREFECT_API_AUTH_STRING here.",
            )
            return


def own_addresses() -> list[str]:
    """The addresses at which other machines reach this one, as far as its routes tell; nothing is sent."""
    found = []
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((elsewhere, 9))
                address = str(probe.getsockname()[0])
        except OSError:
            continue
        if not is_loopback(address):
            found.append(address)
    return found


def _waits_for_a_worker(api: ConfiguredApi) -> Iterator[CheckLine]:
    """A finding when deployments wait for a worker: Prefect itself lets their runs be late without a word."""
    try:
        _, deployed = api.get("/deployments/name/orchestrate/on-demand")
        name = deployed.get("work_pool_name") if isinstance(deployed, dict) else None
        if not name:
            return
        _, pool = api.get(f"/work_pools/{quote(name)}")
    except OSError:
        return
    if isinstance(pool, dict) and pool.get("status") == "NOT_READY":
        fix = f"PREFECT_API_URL={shown(api.url)} prefect worker start --pool {name}"
        yield _warn(f"no worker of the pool {name} is online: deployed runs wait", fix)


def _private(path: Path) -> Iterator[CheckLine]:
    """A finding when others than the owner may read `path`."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        yield _fail(f"{path}: {error.strerror}", "Let your user own it.")
        return
    if mode & 0o077:
        wanted = "700" if path.is_dir() else "600"
        yield _fail(f"{path} has mode {mode:o}: other users can read it", f"chmod {wanted} {path}")


def _key_in_database(database: Path) -> Iterator[CheckLine]:
    """A finding when the key of the blocks lies beside them, as Prefect does without a key of its own."""
    if not database.is_file():
        return
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=2.0)) as opened:
            query = "SELECT count(*) FROM configuration WHERE key = 'ENCRYPTION_KEY'"
            (keys,) = opened.execute(query).fetchone()
    except sqlite3.Error as error:
        yield _warn(f"{database} cannot be read: {error}")
        return
    if keys:
        yield _fail(
            f"{database} holds the encryption key of its own blocks: a copy of the file gives the secrets away",
            "Start the server with PREFECT_SERVER_ENCRYPTION_KEY set, then save the blocks again: tta blocks sync.",
        )
