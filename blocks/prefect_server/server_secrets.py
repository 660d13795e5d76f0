"""The embedded server's secrets: files of mode 0600 in `$TTA_HOME/keys`. Does not import prefect."""

from __future__ import annotations

import base64
import os
import secrets
from contextlib import suppress
from pathlib import Path

from tta_dev_primitives.blocks.prefect_server.server_settings import ServerHome


def server_secrets(place: ServerHome) -> dict[str, str]:
    """The variables with the server's secrets, for a start.

    The encryption key must be there before the first block is saved; changed later, no old block can be read. The
    password of the API is new at each start (PREFECT_SERVER_API_AUTH_STRING sets one of the user's): what a process
    that takes the port later is sent opens nothing.
    """
    given = os.environ.get("PREFECT_SERVER_ENCRYPTION_KEY")
    key = _secret_file(place.key_file, given or base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    auth = os.environ.get("PREFECT_SERVER_API_AUTH_STRING") or f"tta:{secrets.token_urlsafe(24)}"
    place.auth_file.unlink(missing_ok=True)
    return {
        "PREFECT_SERVER_ENCRYPTION_KEY": key,
        "PREFECT_SERVER_API_AUTH_STRING": _secret_file(place.auth_file, auth),
    }


def _secret_file(path: Path, value: str) -> str:
    """The secret in `path`; written there with mode 0600 when there is none. What is written first stays."""
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(value + "\n")
    return path.read_text().strip()


def client_auth(place: ServerHome) -> str | None:
    """The `user:password` of the running server; None for one that an older version started without."""
    try:
        return place.auth_file.read_text().strip()
    except FileNotFoundError:
        return None
