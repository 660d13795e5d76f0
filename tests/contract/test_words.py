"""Plain technical English: banned words stand nowhere in the product, and old names do not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("config", "blocks", "flows", "deployments", "tta_dev_primitives", "docs")
KINDS = {".py", ".md", ".yaml", ".yml", ".j2", ".json"}
BANNED = re.compile(r"\b(purse|mend(?:s|ed|ing)?|nobody|whoever|disown\w*|tells|told)\b", re.I)
OLD_NAMES = re.compile(
    r"(?:^|_)(lanes?|stand_ins?|standings?|tall(?:y|ies)|purse|mend|disown\w*|endors\w*|presume|framed|tells?|told|"
    r"bring|brought|nobody|whoever|upkeep|together|served|desks?|pump)(?:$|_)"
    r"|Lane|Standing|Tally|Strata|StandIn|Purse|Upkeep|Desk|Pump"
)
"""Names before the vocabulary of CONTRIBUTING's glossary; DESIGN-level names (options, JSON keys, database columns)
are strings, not identifiers."""
OLD_MODULES = {
    "scheduler",
    "wait_policy",
    "waiting",
    "certificate",
    "replies",
    "batch_desk",
    "standings",
}
ALLOWED = {
    ("flows/upkeep.py", "upkeep"),  # where version 0.1.0 kept flows: refused with the remedy
    ("config/check.py", "served"),  # HTTP's own word: models that a key serves
    ("blocks/prefect_server/server_process.py", "served"),
}


def _product(folder: str) -> Iterator[Path]:
    return (p for p in (ROOT / folder).rglob("*") if p.suffix in KINDS and p.is_file())


def test_no_banned_word_is_used() -> None:
    """Each of them has a plain word in CONTRIBUTING's glossary."""
    files = [p for folder in FOLDERS for p in _product(folder)]
    files += [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "mkdocs.yml"]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if BANNED.search(line)
    ]
    assert found == []


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that a module gives: functions, classes, arguments, variables, attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case (
                ast.arg(arg=name)
                | ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(attr=name, ctx=ast.Store())
            ):
                yield node.lineno, name


def test_no_old_name_comes_back() -> None:
    """Functions, classes, variables and files bear the glossary's words."""
    found = []
    for path in (p for folder in FOLDERS[:-1] for p in _product(folder) if p.suffix == ".py"):
        where = path.relative_to(ROOT).as_posix()
        if where.startswith("tta_dev_primitives/") and path.resolve() != path:
            continue
        found += [
            f"{where}:{line}: {name}"
            for line, name in [(1, path.stem), *_names(ast.parse(path.read_text(encoding="utf-8")))]
            if (
                OLD_NAMES.search(name)
                or OLD_NAMES.search(name.lower())
                or (line == 1 and name in OLD_MODULES)
            )
            and (where, name) not in ALLOWED
        ]
    assert found == []
