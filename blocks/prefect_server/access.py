"""The secrets of the embedded server, files of mode 0600 in `$TTA_HOME/keys`, and how they are proved without sending.

Server and user prove to each other that they know the secret of this start: the server answers a challenge. A link
to the UI carries a token that is good once and for some hours.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
import struct
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


OPEN_PATH = "/tta/open/"
"""`/tta/open/<token>/<page>`: gives the browser what the UI sends with its requests, then goes to the page."""
TOKEN_S = 12 * 3600
_NONCE, _MAC = 8, 15


def proof_of(secret: str, nonce: str) -> str:
    """What only a server that knows `secret` can answer to `nonce`."""
    return hmac.new(secret.encode(), f"tta-server|{nonce}".encode(), hashlib.sha256).hexdigest()


def make_token(secret: str, now: float) -> str:
    """A token for one opening of the UI until `TOKEN_S` after `now` (seconds since 1970)."""
    body = secrets.token_bytes(_NONCE) + struct.pack(">I", int(now) + TOKEN_S)
    return base64.urlsafe_b64encode(body + _mac(secret, body)).decode()


class Tokens:
    """Which tokens were used; the server's side."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._used: dict[bytes, int] = {}

    def take(self, token: str, now: float) -> bool:
        """Whether `token` opens the UI; the same one does so once."""
        try:
            raw = base64.urlsafe_b64decode(token.encode())
        except (ValueError, binascii.Error):
            return False
        body, mac = raw[:-_MAC], raw[-_MAC:]
        if len(body) != _NONCE + 4 or not hmac.compare_digest(mac, _mac(self._secret, body)):
            return False
        (ends,) = struct.unpack(">I", body[_NONCE:])
        self._used = {nonce: end for nonce, end in self._used.items() if end > now}
        if ends <= now or body in self._used:
            return False
        self._used[body] = ends
        return True


def open_page(secret: str, path: str) -> bytes:
    """The page that signs the browser in.

    The secret goes where Prefect's UI keeps a password: the storage of this origin. A cookie would also be sent to
    every other port of this machine.
    """
    password = base64.b64encode(secret.encode()).decode()
    goal = path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"
    script = (
        f"localStorage.setItem('prefect-password', {_quoted(password)}); location.replace({_quoted(goal)});"
    )
    return f"<!doctype html><meta charset=utf-8><title>tta</title><script>{script}</script>".encode()


def _quoted(text: str) -> str:
    return json.dumps(text).replace("<", "\\u003c")


def _mac(secret: str, body: bytes) -> bytes:
    return hmac.new(secret.encode(), b"tta-open|" + body, hashlib.sha256).digest()[:_MAC]
