"""How server and user prove to each other that they know the secret of this start, without sending it.

The server answers a challenge. A link to the UI carries a token that is good once and for some hours.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import struct

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
