"""The boundary to Prefect: its private names stand in `compat` modules only, and a run does without each of them."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sandbox_runs import KEY, KEY_VALUE, sandbox_config

from tta_dev_primitives.blocks.prefect_server.manager import stop_server
from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.flows.prefect_support import compat

pytestmark = pytest.mark.prefect

ROOT = Path(__file__).parents[2]
COMPAT = ("flows/prefect_support/compat.py", "blocks/prefect_server/compat.py")
DOCUMENTED = {"_block_type_name", "_block_type_slug", "_description", "_documentation_url", "_logo_url"}
"""Class attributes that Prefect documents for the authors of blocks."""
FORMERLY_USED = (
    "__var__",
    "_active_services",
    "_cache_lock",
    "_context_cache",
    "_datetime",
    "_handle",
    "_internal",
    "_lifespan",
    "_no_limits_cache",
    "_resolve_path",
)


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for room in ("flows", "blocks", "config", "deployments", "tta_dev_primitives"):
        for path in sorted((ROOT / room).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not path.is_symlink() and name not in COMPAT:
                yield name, ast.parse(path.read_text(encoding="utf-8"))


def _private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))


def _from_prefect(tree: ast.Module) -> tuple[set[str], list[str]]:
    """The names that a module binds to things of Prefect, and the private ones that it imports."""
    bound, private = set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "prefect":
            bound |= {alias.asname or alias.name for alias in node.names}
            private += [f"{node.module}.{a.name}" for a in node.names if _private(f"{node.module}.{a.name}")]
        elif isinstance(node, ast.Import):
            ours = [alias for alias in node.names if alias.name.split(".")[0] == "prefect"]
            bound |= {alias.asname or "prefect" for alias in ours}
            private += [alias.name for alias in ours if _private(alias.name)]
    return bound, private


def _root_of(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def test_private_names_stand_in_compat_modules_only() -> None:
    """No import of a private module or name of Prefect, no private attribute of its things, anywhere else."""
    found = []
    for name, tree in _modules():
        bound, private = _from_prefect(tree)
        found += [f"{name}: {one}" for one in private]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr not in DOCUMENTED:
                if node.attr == "__var__" or _root_of(node.value) in bound:
                    found.append(f"{name}:{node.lineno}: {ast.unparse(node)}")
            elif isinstance(node, ast.Constant) and "prefect._" in str(node.value):
                found.append(f"{name}:{node.lineno}: {node.value!r}")
    assert found == []


def test_there_are_nine_at_most_and_each_is_listed() -> None:
    """The lists of the compat modules name every private name that their code holds."""
    listed = {name.rpartition(".")[2] for name in compat.PRIVATE_NAMES}
    assert len(listed) <= 9
    held = set()
    for name in (one for one in COMPAT if (ROOT / one).exists()):
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and _private(node.attr):
                held.add(node.attr)
            elif isinstance(node, ast.Constant) and re.fullmatch(r"_[a-z_]+", str(node.value)):
                held.add(str(node.value))
    assert held == listed


# In the process, under another name: what Python's and Prefect's own code looks for, it finds.
_RENAME_IN_THREADING = """
import threading, types
threading._renamed_atexits = threading.__dict__.pop("_threading_atexits")
for one in list(vars(threading).values()):
    if isinstance(one, types.FunctionType) and "_threading_atexits" in one.__code__.co_names:
        names = ["_renamed_atexits" if n == "_threading_atexits" else n for n in one.__code__.co_names]
        one.__code__ = one.__code__.replace(co_names=tuple(names))
"""


@pytest.fixture
def renamed_prefect(tmp_path: Path) -> Path:
    """A folder with the installed Prefect, in which every private name that we use or used has another name."""
    spec = importlib.util.find_spec("prefect")
    assert spec is not None
    assert spec.origin is not None
    folder = tmp_path / "renamed"
    private = {name.rpartition(".")[2] for name in compat.PRIVATE_NAMES}
    names = re.compile(
        rf"(?<![A-Za-z0-9_])({'|'.join(sorted(private | set(FORMERLY_USED)))})(?![A-Za-z0-9_])"
    )

    def new_name(match: re.Match[str]) -> str:
        return match[1].replace("__var__", "__other_var__").replace("_", "_renamed_", 1)

    def copy(source: str, target: str) -> None:
        renamed = Path(target).with_name(names.sub(new_name, Path(target).stem) + Path(target).suffix)
        if source.endswith(".py"):
            renamed.write_text(
                names.sub(new_name, Path(source).read_text(encoding="utf-8")), encoding="utf-8"
            )
        else:
            renamed.symlink_to(source)

    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(spec.origin).parent, folder / "prefect", ignore=skip, copy_function=copy)
    (folder / "prefect" / "_internal").rename(folder / "prefect" / "_renamed_internal")
    (folder / "sitecustomize.py").write_text(_RENAME_IN_THREADING)
    return folder


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A running sandbox."""
    started = Sandbox().start()
    yield started
    started.stop()


def test_a_run_does_without_each_private_name(
    renamed_prefect: Path, sandbox: Sandbox, tmp_path: Path
) -> None:
    """`tta run` against the sandbox on such a Prefect, server and client: an answer, and nothing else is printed."""
    config = sandbox_config(sandbox, tmp_path)
    (tmp_path / "tta.yaml").write_text(yaml.safe_dump({"orchestration": config}), encoding="utf-8")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TTA_"))}
    environment = kept | {
        "TTA_HOME": str(tmp_path / "home"),
        "TTA_SERVER_PORT": "0",
        "TTA_SERVER_FOR_PID": str(os.getpid()),
        "PYTHONPATH": os.pathsep.join([str(renamed_prefect), *filter(None, [kept.get("PYTHONPATH")])]),
        KEY: KEY_VALUE,
    }
    command = ["-m", "tta_dev_primitives", "run", "-c", "tta.yaml", "-u", "moderate", "--json", "How?"]
    try:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
    finally:
        stop_server(home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accepted"]
    assert "Traceback" not in done.stderr
