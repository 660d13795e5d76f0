"""Names for API keys that may be stored and shown: a short hash, never the key."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from pydantic import SecretStr

NO_KEY = "nokey"
"""The name of no key at all (local servers)."""


def key_id(key: SecretStr | str | None) -> str:
    """Return 12 hex digits that name `key` on every machine; they cannot be turned back into it."""
    if not key:
        return NO_KEY
    return _short_hash(key.get_secret_value() if isinstance(key, SecretStr) else key)


@lru_cache(maxsize=64)
def _short_hash(value: str) -> str:
    # The salt is fixed, so that processes on several machines share one memory; keys cannot be guessed.
    return hashlib.blake2b(
        value.encode("utf-8", "surrogatepass"), digest_size=6, salt=b"tta-quota", person=b"api-key"
    ).hexdigest()
