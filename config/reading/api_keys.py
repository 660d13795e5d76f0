"""API keys as they may be sent: found, cleaned, never shown. Messages name the variable, not the value."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache

from pydantic import SecretStr

from tta_dev_primitives.config.errors import ConfigError, MissingKeyError
from tta_dev_primitives.config.reading.dotenv import find_variable

_PLACEHOLDER = re.compile(
    r"your[-_ ].*|.*[-_ ]your[-_ ].*|<.*>|\[.*\]|\{.*\}|\$.*|x{3,}|\*{3,}|.*\.\.\.|(sk|gsk)[-_]x+"
    r"|(change|replace)[-_ ]?me|(insert|put|add|paste|enter)[-_ ].*|todo|tbd|none|null|placeholder"
    r"|(my[-_ ])?api[-_ ]?key",
    re.IGNORECASE | re.DOTALL,
)
_MAX_LENGTH = 4096


def find_api_key(variable: str, environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """The API key in the environment variable `variable`, else in `.env`; None when it is missing or empty.

    Raises:
        MissingKeyError: It holds a placeholder such as `your-google-key`.
        ConfigError: The value cannot be a key: a line break, quote, blank or non-ASCII character.
    """
    found = find_variable(variable, environ)
    return None if found is None else check_key(found.secret, variable)


def check_key(secret: SecretStr, variable: str) -> SecretStr:
    """`secret` as a key, less one trailing line break."""
    # Only frames that cannot raise hold the text: a traceback with local variables shows no key.
    key = SecretStr(secret.get_secret_value().removesuffix("\n").removesuffix("\r"))
    if is_placeholder(key.get_secret_value()):
        raise MissingKeyError(
            f"API key not found: {variable} still holds a placeholder. Put your own key there.",
            variables=[variable],
        )
    fault = _fault_of(key.get_secret_value())
    if fault:
        raise ConfigError(f"{variable}: {fault}. Set it again with the bare key.")
    return key


def is_placeholder(text: str) -> bool:
    """Whether `text` is what examples put where a key belongs."""
    return bool(_PLACEHOLDER.fullmatch(text.strip().strip("\"'")))


def _fault_of(key: str) -> str | None:
    if len(key) > _MAX_LENGTH:
        return f"the key is longer than {_MAX_LENGTH} characters"
    if "\n" in key or "\r" in key:
        return "the key contains a line break"
    if "\0" in key:
        return "the key contains a NUL character"
    if not key.isascii():
        return "the key contains a character that is not ASCII"
    if any(quote in key for quote in "\"'`"):
        return "the key contains a quote"
    if not all("!" <= character <= "~" for character in key):
        return "the key contains a blank or control character"
    return None


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
