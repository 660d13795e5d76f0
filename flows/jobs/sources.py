"""Files that a job reads."""

from __future__ import annotations

from pathlib import Path

from tta_dev_primitives.config.errors import ConfigError


def read_text(path: Path, what: str, *, most: int = 10_000_000, mixed: bool = False) -> str:
    """A file's text.

    Args:
        path: The file.
        what: What it is wanted for, for the message.
        most: Bytes that are read at most.
        mixed: Bytes that are not UTF-8 become a replacement character, as a patch of several files may hold.

    Raises:
        ConfigError: It is missing, empty, too large, no file, or not UTF-8.
    """
    try:
        data = path.read_bytes()
        if len(data) > most:
            raise ConfigError(f"{path}: {len(data):,} bytes; at most {most:,} are taken. Split it.")
        text = data.decode("utf-8", "replace" if mixed else "strict")
    except FileNotFoundError:
        raise ConfigError(f"{what} not found: {path}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); convert it first.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if not text.strip():
        raise ConfigError(f"{path}: the file is empty; expected a {what.lower()}.")
    return text
