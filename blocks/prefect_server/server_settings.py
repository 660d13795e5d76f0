"""Settings of the embedded Prefect server and of the processes that use it. Does not import prefect.

The tuned values are measured, not guessed; docs/benchmarks.md and the comments say against what.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from tta_dev_primitives.blocks.prefect_server.probe import without_proxy
from tta_dev_primitives.config.errors import PrefectConfigError
from tta_dev_primitives.config.home import tta_home

EMBEDDED_MARK = "TTA_SERVER_URL"
"""Set beside PREFECT_API_URL when that address is our own server, not one the user configured."""
OWN_DATABASE = "sqlite+aiosqlite:///prefect.db"
"""Relative to the server's working folder: an address cannot hold a path with `?` in it."""
_HOME_MARK = "TTA_SERVER_HOME"
"""Set with it: whose server that is, should it have to be started again after TTA_HOME has changed."""
_CONSOLE_LEVEL = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"

# What the server process may inherit. Provider keys must not live on in a process that outlasts the command.
_INHERITED = (
    "HOME",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "PATH",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "TMPDIR",
    "TZ",
    "USER",
)
_INHERITED_PREFIXES = (
    "LC_",
    "LD_",
    "DYLD_",
    "PYTHON",
    "SSL_CERT_",
    "VIRTUAL_ENV",
    "COVERAGE_",
    "TTA_SERVER_",
)
# Prefect builds a TLS context even for http: 1 ms with one certificate, 45 ms with the system's bundle.
_PLACEHOLDER_CERTIFICATE = Path(__file__).resolve().parent / "placeholder.pem"
_USER_TUNING = ("PREFECT_SERVER_", "PREFECT_API_DATABASE_", "PREFECT_UI_")


def release_of(version: str) -> tuple[int, ...]:
    """The numbers of a release: `3.9.1+local` and `3.9.1rc1` are 3.9.1."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])


def idle_limit() -> float:
    """Seconds without use after which the server ends itself; 0 means never.

    Raises:
        PrefectConfigError: TTA_SERVER_IDLE_S holds something else.
    """
    asked = os.environ.get("TTA_SERVER_IDLE_S") or "1800"
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", asked):
        raise PrefectConfigError(f"TTA_SERVER_IDLE_S is {asked!r}; write seconds such as 1800; 0: never.")
    return float(asked)


def is_loopback(host: str) -> bool:
    """Whether `host`, without a port, is plainly this machine; `x.localhost` may resolve to anything."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


class ServerHome:
    """Where the embedded server keeps its files, all below `$TTA_HOME`, all readable by the user only."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # PREFECT_HOME of server and clients: the user's own `~/.prefect` stays untouched.
        self.prefect_home = root / "prefect"
        self.log_file = root / "logs" / "server.log"
        self.key_file = root / "keys" / "prefect-encryption.key"
        # `user:password` of the API, of the last start.
        self.auth_file = root / "keys" / "prefect-auth"
        self.folder = root / "server"
        # Prefect's own (flow runs, events, blocks); never the ledger.
        self.database = self.folder / "prefect.db"
        # Held by the server process from before it starts until it is gone, however it ends.
        self.lock_file = self.folder / "lock"
        # Process id, port and versions of the running server (JSON).
        self.state_file = self.folder / "state.json"

    @classmethod
    def find(cls, root: Path | None = None) -> ServerHome:
        """Of `root`, else of the server that this process was pointed at, else of `$TTA_HOME`."""
        known = os.environ.get(_HOME_MARK)
        return cls((root or (Path(known) if known else tta_home())).expanduser().absolute())


def server_settings(home: ServerHome, *, host: str, port: int) -> dict[str, str]:
    """The tuned environment of the server process, secrets excepted."""
    shown = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound
    origins = f"http://{shown}:{port},http://localhost:{port}"
    return {
        "PREFECT_HOME": str(home.prefect_home),
        "PREFECT_PROFILE": "ephemeral",
        "PREFECT_SERVER_API_HOST": host,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_UI_API_URL": f"http://{shown}:{port}/api" if shown == host else "/api",
        "PREFECT_UI_STATIC_DIRECTORY": str(home.folder / "ui"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": OWN_DATABASE,
        # A web page of another origin must not read the API of a server on this machine (default: "*").
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origins,
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_COLORS": "false",
        # Registered by our own process, when no client waits.
        "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
        "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "DO_NOT_TRACK": "1",
        # The default writes one task-run event a transaction. Server CPU a flow of three tasks: 62 ms, not 100.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        # Prefect's own drops events when 50,000 are not written.
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_QUEUE_MAX_SIZE": "1000000",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "2",
        # Ended flow runs with their artifacts, logs and task runs, and events. The user's variable wins.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(90 * 86_400),
    }


def process_environment(
    home: ServerHome, *, host: str, port: int, environ: Mapping[str, str]
) -> dict[str, str]:
    """The whole environment of the server process: a short list of inherited variables and the tuned ones.

    A `PREFECT_SERVER_*` variable of the user wins over our tuning, never over address and origins.
    """
    kept = {k: v for k, v in environ.items() if k in _INHERITED or k.startswith(_INHERITED_PREFIXES)}
    tuned = server_settings(home, host=host, port=port)
    fixed = {"PREFECT_SERVER_API_HOST", "PREFECT_SERVER_API_PORT", "PREFECT_SERVER_CORS_ALLOWED_ORIGINS"}
    users = {k: v for k, v in environ.items() if k.startswith(_USER_TUNING) and k not in fixed}
    if users.keys() & {"PREFECT_API_DATABASE_CONNECTION_URL"}:
        del tuned["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    return {**kept, **tuned, **users, "TTA_HOME": str(home.root)}


def client_settings(url: str, *, home: ServerHome | None = None, auth: str | None = None) -> dict[str, str]:
    """The environment of a process that runs flows against `url`.

    Args:
        home: Given for the embedded server only. A server that the user configured keeps the user's address,
            key, PREFECT_HOME, profile and log settings.
    """
    settings = {"DO_NOT_TRACK": "1"}
    if url.startswith("http://") and "PREFECT_API_SSL_CERT_FILE" not in os.environ:
        settings["PREFECT_API_SSL_CERT_FILE"] = str(_PLACEHOLDER_CERTIFICATE)
    if home is None:
        return settings
    settings |= {
        "PREFECT_API_URL": url,
        EMBEDDED_MARK: url,
        _HOME_MARK: str(home.root),
        "PREFECT_HOME": str(home.prefect_home),
        "PREFECT_PROFILE": "ephemeral",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Two requests that have one answer here: our server has no CSRF tokens and is of our version.
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
        # The terminal stays quiet; the lines of a run reach its log in the UI.
        _CONSOLE_LEVEL: os.environ.get(_CONSOLE_LEVEL, os.environ.get("PREFECT_LOGGING_LEVEL", "WARNING")),
    }
    if auth is not None:
        settings["PREFECT_API_AUTH_STRING"] = auth
    # Prefect's client would send requests to a server on this machine through the user's proxy.
    return settings | without_proxy(urlsplit(url).hostname or "")


def apply_environment(settings: Mapping[str, str]) -> None:
    """Put `settings` into this process, for good.

    Before prefect is imported this is only `os.environ`; afterwards Prefect's root settings are read again.
    Inside a running flow or a `temporary_settings` block those inner settings stay as they are.
    """
    os.environ.update(settings)
    context = sys.modules.get("prefect.context")
    if context is not None:
        context.refresh_global_settings_context()
