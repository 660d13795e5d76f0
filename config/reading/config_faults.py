"""What is wrong with a configuration: where, what stood there, what was expected."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from tta_dev_primitives.config.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""Where a value stands: `("orchestration", "executors", 0, "model")`."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One mistake in one file or variable."""

    message: str
    path: KeyPath = ()
    line: int | None = None
    variable: str | None = None
    """The environment variable at fault, when it is not the file."""

    def text(self, source: str | None) -> str:
        """One line: `file:line: key: message`, or `VARIABLE: message`."""
        if self.variable is not None:
            return f"{self.variable}: {self.message}"
        place = source or "configuration"
        if self.line is not None:
            place = f"{place}:{self.line}"
        return ": ".join(part for part in (place, dotted(self.path), self.message) if part)


def config_error(faults: Sequence[Fault], source: str | None) -> ConfigError:
    """All faults of one load as one error, in the order of the file, variables last."""
    ordered = sorted(faults, key=lambda f: (f.variable is not None, f.line or 0))
    lines = list(dict.fromkeys(fault.text(source) for fault in ordered))
    if len(lines) == 1:
        return ConfigError(lines[0], faults=tuple(ordered))
    head = f"Invalid configuration, {len(lines)} faults:"
    return ConfigError("\n  ".join([head, *lines]), faults=tuple(ordered))


def dotted(path: KeyPath) -> str:
    """`orchestration.executors[0].model`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{_cut(part)}" if text else _cut(part)
    return text


def near_miss(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` most likely meant; camelCase and dashes are near, and so is a beginning."""
    by_plain = {_plain(candidate): candidate for candidate in known}
    meant = _plain(name[:80])
    found = difflib.get_close_matches(meant, list(by_plain), n=1, cutoff=0.6)
    if not found and len(meant) > 2:
        found = [plain for plain in by_plain if plain.startswith(meant)]
    return by_plain[found[0]] if len(found) == 1 else None


def _plain(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").replace(" ", "_").lower()


def shown(value: object) -> str:
    """A value as a message shows it: short, on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, Decimal)):
        return _cut(f"{value:f}" if isinstance(value, Decimal) else str(value))
    if isinstance(value, dict):
        return "a block of keys"
    if isinstance(value, (list, tuple)):
        return "a list"
    return repr(_cut(str(value)))


def _cut(text: str, limit: int = 60) -> str:
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
