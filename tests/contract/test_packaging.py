"""What the wheel holds is what the folders hold."""

from __future__ import annotations

import fnmatch
import re
import runpy
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("config", "blocks", "flows", "deployments")


@pytest.fixture(scope="module")
def setuptools_table() -> dict[str, object]:
    """The packaging section of pyproject.toml."""
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    return table


def _folders() -> dict[str, Path]:
    """Package name -> its folder, for every package on disk."""
    found = {"tta_dev_primitives": ROOT / "tta_dev_primitives"}
    found["tta_dev_primitives.commands"] = ROOT / "tta_dev_primitives" / "commands"
    for room in ROOMS:
        for init in (ROOT / room).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            found[".".join(("tta_dev_primitives", *parts))] = init.parent
    return found


def test_every_package_on_disk_is_listed(setuptools_table: dict[str, object]) -> None:
    """A new folder that is not in the list would be missing from the wheel."""
    assert sorted(setuptools_table["packages"]) == sorted(_folders())  # type: ignore[call-overload]


def test_every_data_file_is_listed(setuptools_table: dict[str, object]) -> None:
    """A data file that no pattern names would be missing from the wheel."""
    patterns = setuptools_table["package-data"]
    assert isinstance(patterns, dict)
    homes = {folder: name for name, folder in _folders().items()}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*"):
            if not path.is_file() or path.suffix in (".py", ".pyc"):
                continue
            home = next(parent for parent in path.parents if parent in homes)
            inside = path.relative_to(home).as_posix()
            assert any(fnmatch.fnmatch(inside, p) for p in patterns.get(homes[home], [])), path


def test_the_links_lead_to_the_rooms() -> None:
    """Type checkers and editors find the rooms under the import name."""
    for room in ROOMS:
        assert (ROOT / "tta_dev_primitives" / room).resolve() == ROOT / room


def test_the_wheel_holds_every_module(tmp_path: Path) -> None:
    """A wheel built from this tree has every Python file and every data file of the rooms."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, timeout=110)
    (wheel,) = tmp_path.glob("*.whl")
    held = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("tta_dev_primitives/")}
    wanted = {
        "tta_dev_primitives/py.typed",
        "tta_dev_primitives/cli.py",
        "tta_dev_primitives/commands/run.py",
    }
    for room in ROOMS:
        files = (p for p in (ROOT / room).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        wanted |= {f"tta_dev_primitives/{p.relative_to(ROOT).as_posix()}" for p in files}
    assert wanted <= held


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-test.txt"])
def test_extras_are_pinned_like_the_package(name: str) -> None:
    """Pip 23.2, which Python 3.11 brings, takes `name==1` for no pin of `name[extra]` and refuses to install."""
    text = (ROOT / name).read_text()
    script = runpy.run_path(str(ROOT / ".ci" / "pin_extras.py"))
    assert script["wanted_extras"]()["sqlalchemy"] == {"asyncio"}
    assert script["pinned"](text) == text, (
        "run: python .ci/pin_extras.py requirements.txt requirements-test.txt"
    )
    plain = re.search(r"^sqlalchemy(==\S+)", text, re.MULTILINE)
    assert plain
    assert f"\nsqlalchemy[asyncio]{plain[1]} " in text
