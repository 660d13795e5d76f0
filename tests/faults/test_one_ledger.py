"""One ledger has one path: a second name is refused, and no character of a path leads to another file."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from tta_dev_primitives.blocks.ledger.database.protocol import database_for, default_ledger_url
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.types import CallInfo
from tta_dev_primitives.blocks.prefect_server.manager import start_server, stop_server
from tta_dev_primitives.config.errors import LedgerConfigError

ODD = "a b?c=d#e%20f;ä€"
_RESERVE = """
import asyncio, sys
from decimal import Decimal
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.types import CallInfo
call = CallInfo(provider="p", model="m", role="execute")
try:
    asyncio.run(Ledger.open(sys.argv[1]).reserve(call, Decimal("0.1"), Decimal(1)))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


async def _reserve(url: str) -> None:
    call = CallInfo(provider="p", model="m", role="execute")
    try:
        await Ledger.open(url).reserve(call, Decimal("0.1"), Decimal(1))
    finally:
        await database_for(url).aclose()


async def test_a_second_name_of_a_ledger_is_refused(tmp_path: Path) -> None:
    """Two hard links have two write-ahead logs. Both names are refused until one of them is gone."""
    first, second = tmp_path / "a" / "ledger.db", tmp_path / "b" / "ledger.db"
    second.parent.mkdir()
    await _reserve(f"sqlite:///{first}")
    os.link(first, second)
    for path in (first, second):
        with pytest.raises(LedgerConfigError, match=rf"{path}: .*2 names.*Delete the other"):
            await _reserve(f"sqlite:///{path}")
    second.unlink()
    await _reserve(f"sqlite:///{first}")


async def test_a_name_that_is_added_while_the_ledger_is_open_stops_it(tmp_path: Path) -> None:
    """The first reservation after the link is refused: no second process has spent by then."""
    path = tmp_path / "ledger.db"
    ledger = Ledger.open(f"sqlite:///{path}")
    await ledger.balance()
    os.link(path, tmp_path / "other.db")
    with pytest.raises(LedgerConfigError, match="2 names"):
        await ledger.reserve(CallInfo(provider="p", model="m", role="execute"), Decimal("0.1"), Decimal(1))
    await ledger.database.aclose()


async def test_a_symbolic_link_is_the_same_ledger(tmp_path: Path) -> None:
    """It is resolved before the file is opened: one write-ahead log."""
    await _reserve(f"sqlite:///{tmp_path / 'ledger.db'}")
    (tmp_path / "link.db").symlink_to(tmp_path / "ledger.db")
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'link.db'}")
    assert (await ledger.balance()).held == Decimal("0.1")
    assert ledger.database.place == str(tmp_path / "ledger.db")
    await ledger.database.aclose()


async def test_a_link_beside_the_ledger_is_not_followed(tmp_path: Path) -> None:
    """A folder that came from elsewhere changes no file outside of it."""
    await _reserve(f"sqlite:///{tmp_path / 'ledger.db'}")
    (tmp_path / "ledger.db").rename(tmp_path / "theirs.db")
    theirs = tmp_path / "page.html"
    theirs.write_text("mine")
    theirs.chmod(0o644)
    (tmp_path / "theirs.db.queue").symlink_to(theirs)
    with pytest.raises(LedgerConfigError, match="not a regular file"):
        await Ledger.open(f"sqlite:///{tmp_path / 'theirs.db'}").balance()
    assert (theirs.read_text(), stat.S_IMODE(theirs.stat().st_mode)) == ("mine", 0o644)


def _mounts_allowed() -> bool:
    tool = shutil.which("unshare")
    return (
        bool(tool)
        and subprocess.run([tool or "", "-rm", "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not _mounts_allowed(), reason="this user may not mount in a namespace of his own")
@pytest.mark.parametrize("name", ["ledger.db", "my ledger ä.db"])
def test_a_file_that_is_mounted_alone_is_refused(tmp_path: Path, name: str) -> None:
    """The container sees one file, its write-ahead log stays inside; a mounted folder is the same ledger."""
    host, inside = tmp_path / "host", tmp_path / "inside"
    inside.mkdir()
    url = f"sqlite:///{host / name}"
    subprocess.run([sys.executable, "-c", _RESERVE, url], check=True)
    (inside / name).touch()

    def mounted(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
        script = 'mount --bind "$1" "$2" && exec "$3" -c "$4" "sqlite:///$5"'
        return subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, "sh", source, target, sys.executable, _RESERVE, inside / name],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    refused = mounted(host / name, inside / name)
    assert refused.returncode == 1
    assert "mounted alone" in refused.stderr
    assert "Mount its folder" in refused.stderr
    assert mounted(host, inside).returncode == 0


@pytest.mark.parametrize("name", [ODD, "q?", "#", "%2e%2e", "ledger.db?x"])
async def test_every_character_of_a_path_is_taken_as_written(tmp_path: Path, name: str) -> None:
    """The ledger stands where the URL says, 0600, and no other file appears."""
    before = os.umask(0)
    try:
        await _reserve(f"sqlite:///{tmp_path / 'home' / name}")
    finally:
        os.umask(before)
    assert (tmp_path / "home" / name).is_file()
    assert {path.name.removeprefix(name) for path in (tmp_path / "home").iterdir()} <= {
        "",
        ".queue",
        "-wal",
        "-shm",
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "home").iterdir()} == {0o600}
    assert os.listdir(tmp_path) == ["home"]


def test_options_in_a_url_are_no_part_of_the_name(tmp_path: Path) -> None:
    """What another program would read as options is refused, with what to write."""
    with pytest.raises(LedgerConfigError, match="takes no options"):
        database_for(f"sqlite:///{tmp_path}/ledger.db?mode=ro")


def test_a_home_of_any_name_holds_ledger_and_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ledger, Prefect's database, its keys and logs stand below TTA_HOME, for this user only."""
    home = tmp_path / ODD
    monkeypatch.setenv("TTA_HOME", str(home))
    assert default_ledger_url() == f"sqlite:///{home / 'ledger.db'}"
    before = os.umask(0o022)
    try:
        info = start_server(home=home)
        stop_server(home=home)
    finally:
        os.umask(before)
    assert info.started
    assert (home / "server" / "prefect.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [ODD]
    readable = [path for path in home.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert readable == []
