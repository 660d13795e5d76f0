"""A Python module as text: its import name, its public names. Nothing of it is run here."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.jobs.sources import read_text
from tta_dev_primitives.flows.tasks.request import MAX_TASK_BYTES

__all__ = ["Module", "code_in", "read_module", "unmentioned"]

_MOST_BYTES = MAX_TASK_BYTES - 1_000
"""The task's own words around the source fit into the rest."""
_BLOCK = re.compile(
    r"^(?P<fence>`{3,})[ \t]*(?:python|py)?[ \t]*\n(?P<code>.*?)^(?P=fence)[ \t]*$", re.M | re.S | re.I
)


@dataclass(frozen=True, slots=True)
class Module:
    """One source file."""

    path: Path
    source: str
    name: str
    """Its import name, seen from `root`."""
    root: Path
    """The folder that must be on the import path."""
    public: tuple[str, ...]
    """Top-level classes and functions without a leading underscore."""


def read_module(path: Path) -> Module:
    """Read a module.

    Raises:
        ConfigError: There is no such file, or it is not Python.
    """
    source = read_text(path, "Python module", most=_MOST_BYTES)
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise ConfigError(f"{path}:{line}: not Python: {getattr(error, 'msg', error)}") from None
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = tuple(n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_"))
    full = path.resolve()
    root = full.parent
    parts = [] if full.stem == "__init__" else [full.stem]
    while (root / "__init__.py").is_file() and root != root.parent:
        parts.insert(0, root.name)
        root = root.parent
    if not parts or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{path}: its name cannot be imported; a module's name is an identifier.")
    return Module(full, source, ".".join(parts), root, public)


def unmentioned(text: str, module: Module) -> list[str]:
    """Public names of the module that the text leaves out."""
    return [name for name in module.public if not re.search(rf"\b{re.escape(name)}\b", text)]


def code_in(text: str) -> str:
    """The code of an answer: its largest Python block, or the whole text where there is none."""
    blocks: Sequence[str] = [found["code"] for found in _BLOCK.finditer(text)]
    return max(blocks, key=len) if blocks else text
