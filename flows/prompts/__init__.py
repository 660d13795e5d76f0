"""Prompt texts as data files. The first line of each, such as `[tta:plan/1]`, names it and its version.

A change of a text is a new version: trust in evidence, and the store of answers, are keyed by it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["Prompt", "prompt", "versions"]

_HEAD = re.compile(r"\[tta:(?P<name>[a-z_]+)/(?P<version>\d+)\]")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt text, its first line included."""

    name: str
    version: int
    text: str


@cache
def prompt(name: str) -> Prompt:
    """The prompt `<name>.md` of this folder.

    Raises:
        ValueError: The file does not begin with its name and version.
    """
    text = (files(__name__) / f"{name}.md").read_text(encoding="utf-8").strip()
    head = _HEAD.fullmatch(text.partition("\n")[0])
    if head is None or head["name"] != name:
        raise ValueError(f"flows/prompts/{name}.md: the first line must be [tta:{name}/<version>]")
    return Prompt(name, int(head["version"]), text)


def versions() -> str:
    """Names and versions of the prompts that evidence depends on, such as `plan/1 verdict/1`."""
    kept = (prompt(name) for name in ("plan", "verdict", "compare"))
    return " ".join(f"{p.name}/{p.version}" for p in kept)
