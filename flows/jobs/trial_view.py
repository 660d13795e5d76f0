"""What a trial may read: the interpreter, and the code that the module under test imports.

    python -I trial_view.py ROOT MODULE [FOLDER ...]

Prints `{"paths": [...], "names": {"shop": "/src/shop"}, "pytest": true}`: files and folders to show, the import name of
each that lies outside the interpreter, and whether it has pytest. The folders are those of PYTHONPATH.
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
_MOST_FILES = 3_000
"""Source files of one package that are searched for imports."""


def main() -> None:
    """Print the view of one module."""
    root, module, *folders = sys.argv[1:]
    sys.path[:0] = folders
    paths = interpreter()
    names = dict(imported(root, module, paths))
    for path in names.values():
        paths += [path, *_linked(path)]
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


def imported(root: str, module: str, visible: list[str]) -> Iterator[tuple[str, str]]:
    """The import name and place of the module and of what it imports, except what is visible already."""
    sys.path.insert(0, root)
    shown = tuple(os.path.realpath(path) + os.sep for path in visible)
    waiting, seen = [module.partition(".")[0]], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        place = _place(name)
        if place is None or (os.path.realpath(place) + os.sep).startswith(shown):
            continue
        yield name, place
        for source in _sources(place):
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


def _linked(path: str) -> list[str]:
    """Folders elsewhere that a package holds as symbolic links."""
    if not os.path.isdir(path):
        return []
    with os.scandir(path) as entries:
        return [os.path.realpath(entry.path) for entry in entries if entry.is_symlink() and entry.is_dir()]


def _sources(place: str) -> Iterator[str]:
    if not os.path.isdir(place):
        yield place
        return
    left = _MOST_FILES
    for top in (place, *_linked(place)):
        for folder, _, files in os.walk(top):
            for file in files:
                if file.endswith(".py") and left > 0:
                    left -= 1
                    yield os.path.join(folder, file)


def _imports(source: str) -> set[str]:
    try:
        with open(source, "rb") as stream:
            # As text: a coding line in bytes would import a codec, perhaps the folder's own.
            tree = ast.parse(stream.read().decode("utf-8", "replace"))
    except (OSError, SyntaxError, ValueError):
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
