"""The embedded Prefect server process; its arguments are the descriptors of its socket and of its lock.

Started by `prefect_server.ensure_server`, which has prepared the environment (settings, key, umask), taken
the lock and bound the socket: a client may connect before this process is ready to answer.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

from tta_dev_primitives.blocks.prefect_server.asgi_guard import Activity, Guard
from tta_dev_primitives.blocks.prefect_server.database_template import install_template
from tta_dev_primitives.blocks.prefect_server.manager import versions
from tta_dev_primitives.blocks.prefect_server.server_settings import (
    OWN_DATABASE,
    ServerHome,
    idle_limit,
    is_loopback,
)
from tta_dev_primitives.config.home import tta_home

_LOG_LIMIT = 2_000_000
_QUIET_S = 3.0
"""Registering block types writes for half a second; it waits until no client has called for this long."""


def main() -> int:
    """Serve until SIGTERM or until idle; the exit status is 0 for both."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    home = ServerHome(tta_home())
    if not _detach(listener, int(sys.argv[2]), home):
        return 0
    # Start-up creates half a million long-lived objects: collecting among them costs a fifth of the start.
    gc.disable()
    _prepare_database(home)
    app, activity = _build_app(home, listener)
    asyncio.run(_serve(app, activity, listener, home))
    return 0


def _detach(listener: socket.socket, lock: int, home: ServerHome) -> bool:
    """Go on in a child that no process has to wait for; True there, False in the process that was started.

    The state file is written in between, so the starter finds it when its child has ended.
    """
    pid = os.fork()
    if pid == 0:
        fcntl.flock(lock, fcntl.LOCK_EX)  # already ours, unless the file system ties locks to processes
        os.set_inheritable(lock, False)
        return True
    host, port = listener.getsockname()[:2]
    state = {"pid": pid, "host": host, "port": port, **versions()}
    part = home.state_file.with_suffix(".part")
    part.write_text(json.dumps({**state, "started_at": datetime.now(UTC).isoformat()}))
    part.rename(home.state_file)
    return False


def _prepare_database(home: ServerHome) -> None:
    """Copy the template if this home has no database; else Prefect's migrations make or upgrade it."""
    if os.environ["PREFECT_SERVER_DATABASE_CONNECTION_URL"] != OWN_DATABASE:
        return  # the user's own database
    if not install_template(home.database):
        # SQLite would create it 0644 under a lax umask; ours is 077, and this says so once more.
        home.database.touch(mode=0o600)


def _build_app(home: ServerHome, listener: socket.socket) -> tuple[Guard, Activity]:
    from prefect.server.api.server import create_app

    from tta_dev_primitives.blocks.prefect_server.message_broker import backlog, drop_no_message

    drop_no_message()
    queue_write_transactions()
    host, port = listener.getsockname()[:2]
    # A server on another address has a password, and names that we do not know.
    names = [host if ":" not in host else f"[{host}]", "127.0.0.1", "localhost", "[::1]"]
    served = dict.fromkeys(names) if is_loopback(host) else {}
    activity = Activity()
    guard = Guard(
        create_app(final=True),
        activity=activity,
        hosts=served,
        origins=[f"http://{name}:{port}" for name in served],
        secret=os.environ["PREFECT_SERVER_API_AUTH_STRING"],
        backlog=backlog,
        status=lambda: {
            "pid": os.getpid(),
            "backlog": backlog(),
            "prefect": version("prefect"),
            "stops_after_s": idle_limit(),
        },
    )
    return guard, activity


async def _serve(app: Guard, activity: Activity, listener: socket.socket, home: ServerHome) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        ws_per_message_deflate=False,  # it would cost every client more than the event that it packs
        timeout_keep_alive=60,  # a resident client keeps its connection between two runs
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    # Uvicorn raises a caught SIGTERM again when it has closed everything; by then it has done its work.
    signal.signal(signal.SIGTERM, lambda *_: None if server.started else os._exit(0))
    tasks = [
        asyncio.create_task(_after_start(server, activity, home)),
        asyncio.create_task(_watch(server, activity, home)),
    ]
    try:
        await server.serve(sockets=[listener])
    finally:
        _say("stopped")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _after_start(server: Any, activity: Activity, home: ServerHome) -> None:
    """What need not delay the first answer."""
    while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
        await asyncio.sleep(0.02)
    _say("serving")
    # What exists now lives as long as the process: no collection needs to look at it again.
    gc.collect()
    gc.freeze()
    gc.enable()
    while activity.idle_s < _QUIET_S:  # noqa: ASYNC110 - quiet has a length, an event has none
        await asyncio.sleep(0.5)
    await _register_blocks(home.folder / "blocks-registered")


async def _register_blocks(memo: Path) -> None:
    """Enter the block types of Prefect and of the installed collections, once for each set of versions."""
    collections = entry_points(group="prefect.collections")
    names = {f"{c.dist.name}={c.dist.version}" for c in collections if c.dist is not None}
    wanted = " ".join([f"prefect={version('prefect')}", *sorted(names)])
    if await asyncio.to_thread(lambda: memo.is_file() and memo.read_text() == wanted):
        return
    import prefect.plugins
    from prefect.server.database import provide_database_interface
    from prefect.server.models.block_registration import run_block_auto_registration

    prefect.plugins.load_prefect_collections()
    async with await provide_database_interface().session() as session:
        await run_block_auto_registration(session=session)
    await asyncio.to_thread(memo.write_text, wanted)


async def _watch(server: Any, activity: Activity, home: ServerHome) -> None:
    """End the server when it is no longer wanted; keep its log small."""
    limit = idle_limit()
    pause = min(30.0, max(0.2, limit / 4)) if limit else 30.0
    if _owner() is not None:
        pause = 1.0
    while True:
        await asyncio.sleep(pause)
        if not server.started:
            continue
        try:
            reason = await _why_end(activity, home, limit)
        except Exception as error:  # a database that is busy or gone must not end the watch
            _say(f"cannot tell whether it is idle: {error!r}")
            continue
        if reason:
            _say(reason)
            server.should_exit = True
            return


async def _why_end(activity: Activity, home: ServerHome, limit: float) -> str | None:
    owner = _owner()
    if owner is not None and not _alive(owner):
        return f"process {owner}, for which it was started, has ended"
    if not await asyncio.to_thread(home.lock_file.is_file):
        return "its folder was removed"
    await asyncio.to_thread(_cap_log, home.log_file)
    if limit and activity.idle_s > limit and not await _runs_in_flight():
        return f"no use for {activity.idle_s:.0f} s"
    return None


def _owner() -> int | None:
    """The process this server is for (a test session, a demo); None when it serves all commands."""
    return int(os.environ.get("TTA_SERVER_FOR_PID") or 0) or None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except ProcessLookupError:
        return False
    return True


async def _runs_in_flight() -> int:
    """Flow runs that are running and began within a day; a killed process leaves its run so for ever."""
    import sqlalchemy as sa
    from prefect.server.database import provide_database_interface

    db = provide_database_interface()
    since = datetime.now(UTC) - timedelta(days=1)
    query = sa.select(sa.func.count()).where(
        db.FlowRun.state_type == "RUNNING", db.FlowRun.start_time > since
    )
    async with db.session_context() as session:
        return int(await session.scalar(query) or 0)


def _cap_log(log: Path) -> None:
    """Keep one older part; stdout appends to the same open file, so it is copied and cut, not renamed."""
    if log.is_file() and log.stat().st_size > _LOG_LIMIT:
        log.with_suffix(".log.1").write_bytes(log.read_bytes())
        os.truncate(log, 0)


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} tta server {os.getpid()}: {text}", flush=True)


_open: ContextVar[bool] = ContextVar("tta_sqlite_transaction_open", default=False)


def queue_write_transactions() -> None:
    """Change Prefect's SQLite configuration in this process; other databases are not touched.

    A Prefect whose configuration has another shape keeps its own transactions.
    """
    from prefect.server.database import configurations

    sqlite: Any = getattr(configurations, "AioSqliteConfiguration", None)
    begin = getattr(sqlite, "begin_transaction", None)
    if begin is None:
        return

    @asynccontextmanager
    async def begin_in_turn(
        self: Any, session: Any, with_for_update: bool = False
    ) -> AsyncGenerator[Any, None]:
        # A transaction inside another of the same task must not wait for it: it begins as Prefect wrote it.
        outermost = not _open.get()
        token = _open.set(True)
        try:
            async with begin(self, session, with_for_update=with_for_update or outermost) as transaction:
                yield transaction
        finally:
            _open.reset(token)

    sqlite.begin_transaction = begin_in_turn


if __name__ == "__main__":
    sys.exit(main())
