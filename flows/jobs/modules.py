"""Python modules as text: import names, public names, and where a page documents them. Nothing of them is run here."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows.jobs.sources import read_text
from tta_dev_primitives.flows.tasks.request import MAX_TASK_BYTES

_KINDS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_BUILTINS = frozenset(dir(builtins))
_WORD = re.compile(r"[^\W\d]\w*")
_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_SPAN = re.compile(r"`([^`\n]+)`")
_CALL = re.compile(r"(?:async )?(?:def |class )?(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)\(")
_HEADING = re.compile(r"(?P<level>#{1,6})\s+(?P<text>.*)")
_OUTER = re.compile(
    r"(?P<fence>`{3,}|~{3,})[ \t]*(?:markdown|md)?[ \t]*\n(?P<page>.*)\n(?P=fence)", re.S | re.I
)
_MOST_BYTES = MAX_TASK_BYTES - 1_000
"""The task's own words around the source fit into the rest."""
_BLOCK = re.compile(
    r"^(?P<fence>`{3,})[ \t]*(?:python|py)?[ \t]*\n(?P<code>.*?)(?:^(?P=fence)[ \t]*$|(?P<open>\Z))",
    re.M | re.S | re.I,
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
    """Classes, functions and methods without a leading underscore; a method as `Class.method`."""
    known: frozenset[str]
    """Every identifier that its source names."""


def read_module(path: Path) -> Module:
    """Read a module.

    Raises:
        ConfigError: There is no such file, or it is not Python.
    """
    source = read_text(path, "Python module", most=_MOST_BYTES)
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # nested deeper than Python reads
        line = getattr(error, "lineno", None) or 1
        raise ConfigError(f"{path}:{line}: not Python: {getattr(error, 'msg', error)}") from None
    full = path.resolve()
    root = full.parent
    parts = [] if full.stem == "__init__" else [full.stem]
    while (root / "__init__.py").is_file() and root != root.parent:
        parts.insert(0, root.name)
        root = root.parent
    if not parts or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{path}: its name cannot be imported; a module's name is an identifier.")
    return Module(full, source, ".".join(parts), root, tuple(_public(tree)), frozenset(_WORD.findall(source)))


def read_modules(paths: Sequence[Path]) -> list[Module]:
    """The modules of several files and packages; of a folder all its modules without a leading underscore.

    Raises:
        ConfigError: A file or folder is missing, a folder holds no module, or a file is not Python.
    """
    modules: list[Module] = []
    for path in paths:
        files = (
            [path]
            if not path.is_dir()
            else [file for file in sorted(path.rglob("*.py")) if _listed(file, path)]
        )
        if not files:
            raise ConfigError(f"{path}: the folder holds no Python module.")
        read = [read_module(file) for file in files]
        modules += [module for module in read if module.public or len(read) == 1]
    return modules


def _listed(file: Path, package: Path) -> bool:
    parts = file.relative_to(package).parts
    own = any(part.startswith((".", "_")) for part in parts if part != "__init__.py")
    elsewhere = not file.resolve().is_relative_to(package.resolve())
    if own or elsewhere or not file.is_file():
        return False
    with file.open("rb") as stream:
        return bool(stream.read(_MOST_BYTES).strip())


def _public(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if not isinstance(node, _KINDS) or node.name.startswith("_"):
            continue
        yield node.name
        if isinstance(node, ast.ClassDef):
            methods = (n.name for n in node.body if isinstance(n, _KINDS) and not n.name.startswith("_"))
            yield from (f"{node.name}.{name}" for name in dict.fromkeys(methods))


def undocumented(page: str, module: Module) -> list[str]:
    """Public names that no heading and no code of the page holds; a name in prose does not count.

    A method counts with its class (`Class.method`), or by its own name below a heading that names the class.
    """
    documented = set(_documented(page))
    return [
        name for name in module.public if name not in documented and not _inherits(name, documented, module)
    ]


def invented(page: str, module: Module) -> list[str]:
    """Names that the page presents as callable and that the module's source does not hold."""
    found = []
    for line in _without_blocks(page).splitlines():
        for span in _SPAN.findall(line):
            called = _CALL.match(span)
            if called is not None:
                last = called["name"].rpartition(".")[2]
                if last not in module.known and last not in _BUILTINS:
                    found.append(called["name"])
    return list(dict.fromkeys(found))


def page_in(answer: str) -> str:
    """The Markdown page of an answer: without a fence around the whole, and without escapes inside names."""
    text = answer.strip()
    outer = _OUTER.fullmatch(text)
    if outer is not None and not re.search(rf"^{outer['fence']}\s*$", outer["page"], re.M):
        text = outer["page"].strip()
    return re.sub(r"(?<=\w)\\_|\\_(?=\w)", "_", text)


def _documented(page: str) -> Iterator[str]:
    """The names in headings and code; below the heading of a class, names also as its methods."""
    owner, fenced = "", False
    for line in page.splitlines():
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        heading = _HEADING.match(line) if not fenced else None
        if heading is not None:
            names = _NAME.findall(heading["text"])
            yield from names
            classes = [name for name in names if name[:1].isupper()]
            owner = classes[0].partition(".")[0] if classes else "" if len(heading["level"]) < 3 else owner
        else:
            names = _NAME.findall(line if fenced else " ".join(_SPAN.findall(line)))
            yield from names
        yield from (
            part for name in names for part in (name.rpartition(".")[2], ".".join(name.split(".")[-2:]))
        )
        if owner:
            yield from (f"{owner}.{name.rpartition('.')[2]}" for name in names)


def _inherits(name: str, documented: set[str], module: Module) -> bool:
    """Whether a method's bare name is documented and no other class of the module has one of that name."""
    owner, _, method = name.rpartition(".")
    same = [one for one in module.public if one.rpartition(".")[2] == method]
    return bool(owner) and method in documented and len(same) == 1


def _without_blocks(page: str) -> str:
    return re.sub(r"^(```|~~~).*?^\1", "", page, flags=re.M | re.S)


def code_in(text: str) -> str:
    """The code of an answer: its largest Python block, or the whole text where there is none."""
    blocks: Sequence[str] = [b["code"] for b in _BLOCK.finditer(text) if b["open"] is None]
    return max(blocks, key=len) if blocks else text
