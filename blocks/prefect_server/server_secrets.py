"""The embedded server's secrets: files of mode 0600 in `$TTA_HOME/keys`. Does not import prefect."""

from __future__ import annotations

import base64
import os
import secrets
from contextlib import suppress
from pathlib import Path

from tta_dev_primitives.blocks.prefect_server.server_settings import ServerHome, is_loopback
from tta_dev_primitives.config.errors import PrefectConfigError

__all__ = ["client_auth", "server_secrets"]


def server_secrets(place: ServerHome, host: str) -> dict[str, str]:
    """The variables with the server's secrets, which are made where they do not exist yet.

    The encryption key must be there before the first block is saved; changed later, no old block can be read.
    `TTA_SERVER_AUTH=1` (or a PREFECT_SERVER_API_AUTH_STRING) makes the API, and the UI, ask for a password.

    Raises:
        PrefectConfigError: `host` is not on loopback and no password is asked for.
    """
    given = os.environ.get("PREFECT_SERVER_ENCRYPTION_KEY")
    found = {
        "PREFECT_SERVER_ENCRYPTION_KEY": _secret_file(
            place.key_file, given or base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        )
    }
    auth = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    wanted = bool(auth) or (os.environ.get("TTA_SERVER_AUTH") or "0").lower() not in {
        "0",
        "false",
        "no",
        "off",
    }
    if not is_loopback(host) and not wanted:
        raise PrefectConfigError(
            f"TTA_SERVER_HOST={host} opens the Prefect API, and the secrets in it, to other machines: "
            "set TTA_SERVER_AUTH=1 (and put TLS in front), or leave it on 127.0.0.1."
        )
    if wanted:
        if auth:
            place.auth_file.unlink(missing_ok=True)
        value = _secret_file(place.auth_file, auth or f"tta:{secrets.token_urlsafe(24)}")
        found["PREFECT_SERVER_API_AUTH_STRING"] = value
    else:
        place.auth_file.unlink(missing_ok=True)
    return found


def _secret_file(path: Path, value: str) -> str:
    """The secret in `path`; written there with mode 0600 when there is none. What is written first stays."""
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(value + "\n")
    return path.read_text().strip()


def client_auth(place: ServerHome) -> str | None:
    """The `user:password` that the running server asks for, if it does."""
    return place.auth_file.read_text().strip() if place.auth_file.is_file() else None
