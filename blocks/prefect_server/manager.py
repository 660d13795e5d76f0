"""The Prefect API that runs use: the configured one, else an embedded server that is started on first use.

One server a `$TTA_HOME`, shared by all commands. Its process holds an exclusive lock on `server/lock` from
before it starts until it is gone, however it ends: the process that gets the lock knows that no server runs. A stale
state file or a reused process id does no harm, and two commands at once start one server.

Does not import prefect.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tta_dev_primitives.blocks.prefect_server.access import (
    OPEN_PATH,
    client_auth,
    make_token,
    proof_of,
    server_secrets,
)
from tta_dev_primitives.blocks.prefect_server.endpoint import (
    ConfiguredApi,
    configured_api,
    server_version,
)
from tta_dev_primitives.blocks.prefect_server.folder_settings import refuse_folder_settings
from tta_dev_primitives.blocks.prefect_server.probe import get_json
from tta_dev_primitives.blocks.prefect_server.server_settings import (
    ServerHome,
    client_settings,
    idle_limit,
    process_environment,
)
from tta_dev_primitives.config.errors import PrefectConfigError, PrefectServerError
from tta_dev_primitives.config.home import make_private

_PORTS, _LAST_PORT = range(4242, 4262), 65_535
_LOG = logging.getLogger("tta_dev_primitives.server")
_MOST_STARTS = 2
_UNUSED_S = 10.0
_START_S, _STOP_S, _KILL_S = 60.0, 15.0, 5.0
_STARTING = "--- starting ---"


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A Prefect API to run flows against."""

    url: str
    """The API address, ending in `/api`."""
    ui_url: str
    pid: int | None = None
    """Process of the embedded server; None for a configured one."""
    started: bool = False
    """This call started it."""
    ready: bool = True
    """It has answered; False only after `wait=False`."""
    home: ServerHome | None = field(default=None, repr=False)

    @property
    def embedded(self) -> bool:
        """Our own server, not one the user configured."""
        return self.home is not None


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What `tta server status` shows."""

    running: bool
    url: str | None = None
    ui_url: str | None = None
    pid: int | None = None
    version: str | None = None
    idle_s: float | None = None
    """Seconds since its last use."""
    stops_after_s: float | None = None
    """Idle seconds after which it ends itself; 0 is never."""
    configured_in: str | None = None
    """Where the address of a server that the user configured is written; None for the embedded one."""
    problem: str | None = None
    """Why a server that should answer does not."""


def ensure_server(*, wait: bool = True) -> ServerInfo:
    """The API to use: the configured one, checked, else the embedded server, started when it is not up.

    Args:
        wait: False returns as soon as the address is bound; requests then wait until the server answers, so
            that the caller can import prefect meanwhile. `wait_until_ready` reports a failed start.

    Raises:
        PrefectServerError: The configured API cannot be used, or the embedded one cannot be started.
        UntrustedConfigError: Settings of Prefect came with the working folder and are not trusted.
    """
    refuse_folder_settings()
    configured = configured_api()
    if configured is not None:
        server_version(configured)
        return ServerInfo(url=configured.url, ui_url=_ui_of(configured.url))
    return start_server(wait=wait)


def start_server(*, home: Path | None = None, wait_s: float = _START_S, wait: bool = True) -> ServerInfo:
    """Like `ensure_server`, but always the embedded server."""
    place = ServerHome.find(home)
    _make_folders(place)
    deadline = time.monotonic() + wait_s
    starts = 0
    while True:
        with _lock(place) as lock:
            if lock is not None:
                # Another command may stop it while it starts, or a busy machine its database: once more, then say why.
                if starts == _MOST_STARTS:
                    raise PrefectServerError(
                        f"The embedded Prefect server ended while it started. {_log_tail(place)}"
                    )
                _LOG.info("Starting a Prefect server on this machine …")
                _spawn(place, lock)
                starts += 1
            elif not _running(place):
                continue  # it was looked at in this moment, or has just ended
        info = _info(place)
        if info is not None:
            if not starts and _is_outdated(place, info):
                stop_server(home=place.root)
                continue
            info = replace(info, started=starts > 0)
            if not wait or _healthy(info, deadline):
                return replace(info, ready=wait)
        if time.monotonic() > deadline:
            raise PrefectServerError(
                f"The embedded Prefect server did not answer within {wait_s:.0f} s. "
                f"Look into {place.log_file}, or run `tta server stop` and try again."
            )
        time.sleep(0.02)


def wait_until_ready(info: ServerInfo) -> ServerInfo:
    """Wait until a server that was started with `wait=False` answers.

    Raises:
        PrefectServerError: It ended, or did not answer in time; the message holds what its log says.
    """
    if info.home is None or info.ready or _healthy(info, time.monotonic() + _START_S):
        return replace(info, ready=True)
    raise PrefectServerError(f"The embedded Prefect server did not start. {_log_tail(info.home)}")


def is_serving(info: ServerInfo) -> bool:
    """Whether the embedded server of `info` runs and is still the one of `$TTA_HOME`; sends nothing."""
    place = info.home
    if place is None or not _running(place):
        return False
    now = _info(place)
    return now is not None and now.pid == info.pid and ServerHome.find(None).root == place.root


def stop_server(*, home: Path | None = None) -> ServerStatus:
    """End the embedded server (SIGTERM, after 15 seconds SIGKILL)."""
    place = ServerHome.find(home)
    info = _info(place) if _running(place) else None
    if info is None or info.pid is None:
        return ServerStatus(running=False)
    for how, patience in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, _KILL_S)):
        with suppress(ProcessLookupError):
            os.kill(info.pid, how)
        deadline = time.monotonic() + patience
        while _running(place):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return ServerStatus(running=True, url=info.url, ui_url=info.ui_url, pid=info.pid)
    raise PrefectServerError(f"The Prefect server (process {info.pid}) does not end; kill it by hand.")


def server_status(*, home: Path | None = None) -> ServerStatus:
    """The state of the API that runs would use; starts nothing and never raises for a server that is down."""
    configured = configured_api()
    if configured is not None:
        return _configured_status(configured)
    place = ServerHome.find(home)
    info = _info(place) if _running(place) else None
    if info is None:
        return ServerStatus(running=False)
    base = ServerStatus(running=True, url=info.url, ui_url=info.ui_url, pid=info.pid)
    try:
        status = _proven_status(info, timeout_s=5.0)
    except OSError as error:
        return replace(base, problem=f"it does not answer: {error}")
    if status is None:
        return replace(base, problem="what answers on its port does not know its secret")
    return replace(
        base, version=status["prefect"], idle_s=status["idle_s"], stops_after_s=status["stops_after_s"]
    )


def server_environment(info: ServerInfo) -> dict[str, str]:
    """The variables for a process that runs flows against `info`; give them to `apply_environment`."""
    auth = client_auth(info.home) if info.home is not None else None
    return client_settings(info.url, home=info.home, auth=auth)


def _configured_status(api: ConfiguredApi) -> ServerStatus:
    base = ServerStatus(running=True, url=api.url, ui_url=_ui_of(api.url), configured_in=api.source)
    try:
        return replace(base, version=server_version(api))
    except PrefectServerError as error:
        return replace(base, running=False, problem=str(error))


def _ui_of(url: str) -> str:
    return url.removesuffix("/api")


def _make_folders(place: ServerHome) -> None:
    try:
        for folder in (
            place.root,
            place.folder,
            place.prefect_home,
            place.log_file.parent,
            place.key_file.parent,
        ):
            make_private(folder)
        for folder in (place.folder, place.key_file.parent):
            folder.chmod(0o700)
        place.lock_file.touch(mode=0o600)
    except OSError as error:
        raise PrefectServerError(
            f"{error.filename or place.root}: cannot keep the Prefect server's files here "
            f"({error.strerror}). Set TTA_HOME to a folder that you can write."
        ) from None


@contextmanager
def _lock(place: ServerHome, how: int = fcntl.LOCK_EX) -> Iterator[int | None]:
    """The server's lock, or None when another process has it: the server, or one that looks or starts right now."""
    descriptor = os.open(place.lock_file, os.O_RDWR)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        yield None
        return
    try:
        yield descriptor
    finally:
        # Our copy only: a server that was started meanwhile keeps the lock through its own.
        os.close(descriptor)


def _running(place: ServerHome) -> bool:
    if not place.lock_file.is_file():
        return False
    # Shared: two processes that look at the same time must not take each other for the server.
    with _lock(place, fcntl.LOCK_SH) as lock:
        return lock is None


def _spawn(place: ServerHome, lock: int) -> None:
    """Start the process; on return it holds lock and socket, and has written its state file."""
    host = os.environ.get("TTA_SERVER_HOST") or "127.0.0.1"
    idle_limit()  # a wrong one is said here; the server's process would end over it
    with _listen(host, _state(place).get("port")) as listener:
        port = listener.getsockname()[1]
        environment = process_environment(place, host=host, port=port, environ=os.environ)
        environment |= server_secrets(place)
        place.state_file.unlink(missing_ok=True)
        # Opened for appending: the server cuts the file when it grows too large.
        with open(place.log_file, "ab", opener=_private) as log:
            log.write(f"{_STARTING}\n".encode())
            log.flush()
            child = subprocess.run(  # noqa: S603 - our own module
                [
                    sys.executable,
                    "-m",
                    "tta_dev_primitives.blocks.prefect_server.server_process",
                    str(listener.fileno()),
                    str(lock),
                ],
                env=environment | _import_path(),
                cwd=place.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(listener.fileno(), lock),
                start_new_session=True,
                umask=0o077,
                check=False,
            )
    if child.returncode != 0:
        raise PrefectServerError(f"The embedded Prefect server cannot be started. {_log_tail(place)}")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _import_path() -> dict[str, str]:
    """Lets the child find this package when it runs from a clone: its working folder is another."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "tta_dev_primitives" / "blocks").exists():
        return {}  # installed: site-packages is on the path already
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}


def _listen(host: str, last: object) -> socket.socket:
    """A listening socket: on TTA_SERVER_PORT, else where the last server was, else the first free of ours."""
    asked = os.environ.get("TTA_SERVER_PORT")
    if asked and not (re.fullmatch(r"[0-9]{1,5}", asked) and int(asked) <= _LAST_PORT):
        raise PrefectConfigError(f"TTA_SERVER_PORT is {asked!r}; write a port number, 0 to {_LAST_PORT}.")
    ports = [int(asked)] if asked else [*([last] if isinstance(last, int) else []), *_PORTS, 0]
    for port in ports:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Named as TCP, or asyncio leaves Nagle's delay on: 40 ms for an answer sent in two parts.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(512)
        except OSError as error:
            listener.close()
            problem = error
        else:
            return listener
    raise PrefectServerError(
        f"No address for the Prefect server on {host}: {problem.strerror}. "
        "Choose another TTA_SERVER_PORT or TTA_SERVER_HOST."
    )


def _state(place: ServerHome) -> dict[str, str | int]:
    try:
        state = json.loads(place.state_file.read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def versions() -> dict[str, str]:
    """What a server's state file says of its code."""
    return {"prefect": version("prefect"), "tta": version("tta-dev-primitives")}


def _is_outdated(place: ServerHome, info: ServerInfo) -> bool:
    """It runs another Prefect, or other code of ours, than is installed now, and no client is using it."""
    if versions().items() <= _state(place).items():
        return False
    with suppress(OSError):
        _, status = get_json(f"{info.ui_url}/tta/status", timeout_s=2.0)
        return isinstance(status, dict) and bool(status["idle_s"] > _UNUSED_S)
    return False


def _info(place: ServerHome) -> ServerInfo | None:
    state = _state(place)
    host, port, pid = state.get("host"), state.get("port"), state.get("pid")
    if not isinstance(host, str) or not isinstance(port, int) or not isinstance(pid, int):
        return None
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)  # noqa: S104
    base = f"http://{shown}:{port}"
    return ServerInfo(url=f"{base}/api", ui_url=base, pid=pid, home=place)


def _healthy(info: ServerInfo, deadline: float) -> bool:
    """True when the API answers; waits in the accept queue of a server that is still starting."""
    with suppress(OSError):
        status, _ = get_json(f"{info.url}/health", timeout_s=max(0.1, deadline - time.monotonic()))
        return status == 200 and _proven_status(info, timeout_s=5.0) is not None
    return False


def _proven_status(info: ServerInfo, *, timeout_s: float) -> dict[str, Any] | None:
    """What the server says of itself; None when it cannot prove that it knows the secret, which is not sent.

    A server that an older version started has no secret and proves nothing.
    """
    secret = client_auth(info.home) if info.home is not None else None
    nonce = secrets.token_hex(16)
    _, status = get_json(f"{info.ui_url}/tta/status?nonce={nonce}", timeout_s=timeout_s)
    if not isinstance(status, dict):
        return None
    said = status.get("proof")
    proven = secret is None or (isinstance(said, str) and hmac.compare_digest(said, proof_of(secret, nonce)))
    return status if proven else None


def holds_port(home: ServerHome, port: int) -> bool:
    """Whether the server of `home` lives and holds `port`: no other process can have it then. Sends nothing."""
    return _running(home) and _state(home).get("port") == port


def open_link(info: ServerInfo, path: str = "/runs") -> str:
    """A link that opens the UI at `path` without a prompt, once; a configured server's plain address."""
    secret = client_auth(info.home) if info.home is not None else None
    if secret is None:
        return f"{info.ui_url}{path}"
    return f"{info.ui_url}{OPEN_PATH}{make_token(secret, time.time())}{path}"


def _log_tail(place: ServerHome) -> str:
    """What the last start logged: its last error if it has one, else its last line."""
    try:
        text = place.log_file.read_text(errors="replace")
    except OSError:
        text = ""
    lines = [line.strip() for line in text.rpartition(_STARTING)[2].splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line] or lines or ["nothing"]
    return f"Its log says: {telling[-1][:300]} ({place.log_file})"
