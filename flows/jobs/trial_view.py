"""What a trial may read: the interpreter, and the code that the module under test imports.

    python -I trial_view.py ROOT MODULE [FOLDER ...]

Prints `{"paths": [...], "names": {"shop": "/src/shop"}, "pytest": true}`: files and folders to show, the import name of
each that lies outside the interpreter, and whether it has pytest. The folders are those of PYTHONPATH.
A symbolic link of the project counts only when it leads to a place of the project that is not hidden there.
Only the standard library; it runs outside the fence, parses, and imports nothing.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import sys
from collections.abc import Iterator

_PARTS = ("bin", "lib", "lib32", "lib64", "libexec", "share", "pyvenv.cfg")
_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/nix/store")
_MOST_BYTES = 2_000_000
_MOST_FILES = 3_000
"""Source files of one package that are searched for imports."""


def main() -> None:
    """Print the view of one module."""
    root, module, *folders = sys.argv[1:]
    sys.path[:0] = projects = [root, *folders]
    paths = interpreter()
    names = dict(imported(projects, module, paths))
    for path in names.values():
        paths += [path, *_linked(path, projects)]
    print(
        json.dumps(
            {
                "paths": sorted({p for path in paths for p in (path, os.path.realpath(path))}),
                "names": names,
                "pytest": importlib.util.find_spec("pytest") is not None,
            }
        )
    )


def interpreter() -> list[str]:
    """The parts of Python's own folders and of the system's that hold programs and libraries."""
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, "/usr", "/usr/local", "/"}
    found = [os.path.join(prefix, part) for prefix in sorted(prefixes) for part in _PARTS]
    return [path for path in (*found, *_FILES) if os.path.exists(path)]


def imported(projects: list[str], module: str, visible: list[str]) -> Iterator[tuple[str, str]]:
    """The import name and place of the module and of what it imports, except what is visible already."""
    shown = tuple(os.path.realpath(path) + os.sep for path in visible)
    waiting, seen = [module.partition(".")[0]], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        place = _place(name)
        if place is None or (os.path.realpath(place) + os.sep).startswith(shown) or _leaves(place, projects):
            continue
        yield name, place
        for source in _sources(place, projects):
            waiting += _imports(source)


def _place(name: str) -> str | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return next(iter(spec.submodule_search_locations), None)
    return spec.origin if spec.has_location else None


def _leaves(path: str, projects: list[str]) -> bool:
    """Whether a path of a project leads out of it, to something hidden in it, or to another kind of file."""
    project = next((p for p in projects if path.startswith(p.rstrip(os.sep) + os.sep)), None)
    if project is None:
        return False  # the interpreter's own installation
    real, top = os.path.realpath(path), os.path.realpath(project).rstrip(os.sep) + os.sep
    hidden = any(part.startswith(".") for part in real.removeprefix(top).split(os.sep))
    return not real.startswith(top) or hidden or os.path.splitext(real)[1] != os.path.splitext(path)[1]


def _linked(path: str, projects: list[str]) -> list[str]:
    """Folders elsewhere that a package holds as symbolic links."""
    if not os.path.isdir(path):
        return []
    with os.scandir(path) as entries:
        links = [entry.path for entry in entries if entry.is_symlink() and entry.is_dir()]
    return [os.path.realpath(link) for link in links if not _leaves(link, projects)]


def _sources(place: str, projects: list[str]) -> Iterator[str]:
    if not os.path.isdir(place):
        yield place
        return
    left = _MOST_FILES
    for top in (place, *_linked(place, projects)):
        for folder, _, files in os.walk(top):
            for file in files:
                if file.endswith(".py") and left > 0:
                    left -= 1
                    yield os.path.join(folder, file)


def _imports(source: str) -> set[str]:
    if not os.path.isfile(source):  # a pipe would be waited for
        return set()
    try:
        with open(source, "rb") as stream:
            # As text: a coding line in bytes would import a codec, perhaps the folder's own.
            tree = ast.parse(stream.read(_MOST_BYTES).decode("utf-8", "replace"))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


if __name__ == "__main__":
    main()
