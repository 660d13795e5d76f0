"""A ledger that cannot be used says why and what to do, makes no paid call, and loses nothing."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import stat
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from tta_dev_primitives.blocks.ledger.database import migrations
from tta_dev_primitives.blocks.ledger.database.files import file_system_of, refuse_mounts
from tta_dev_primitives.blocks.ledger.database.protocol import Database, Tx, database_for, default_ledger_url
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.types import CallInfo
from tta_dev_primitives.config.errors import BudgetExceededError, LedgerError

NewCall = Callable[..., CallInfo]
CENT = Decimal("0.01")


async def refusal(url: str, call: CallInfo) -> str:
    """The message with which a reservation at `url` fails."""
    ledger = Ledger.open(url)
    try:
        with pytest.raises(LedgerError) as error:
            await ledger.reserve(call, CENT, Decimal(1))
    finally:
        await ledger.database.aclose()
    return str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ledger.db",
        "mysql://user:geheim@host/db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "http://x",
    ],
)
def test_an_unknown_address_is_refused_without_repeating_it(url: str) -> None:
    """The message says what is taken; a password in the address is not shown."""
    with pytest.raises(LedgerError, match=r"Ledger URL: .*sqlite:///") as error:
        database_for(url)
    assert "geheim" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://user:geheim@127.0.0.1:1/db", r"127\.0\.0\.1:1/db.*(Connect|refused).*TTA_LEDGER_URL"),
        ("postgresql://user:geheim@127.0.0.1:port/db", "host or port cannot be read"),
    ],
)
async def test_an_unreachable_server_is_named_without_its_password(
    url: str, message: str, new_call: NewCall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Host, port and what to do; never the password."""
    monkeypatch.setattr("tta_dev_primitives.blocks.ledger.database.postgresql_pool._FIRST_CONNECT_S", 0.1)
    with pytest.raises(LedgerError) as error:
        raise LedgerError(await refusal(url, new_call()))
    assert re.search(message, str(error.value))
    assert "geheim" not in str(error.value)


@pytest.mark.parametrize("place", ["/sys/ledger.db", "/proc/none/ledger.db"])
async def test_a_folder_that_cannot_be_written_is_named(place: str, new_call: NewCall) -> None:
    """Read-only and missing folders: the path and the remedy."""
    text = await refusal(f"sqlite:///{place}", new_call())
    assert place in text
    assert "writable" in text or "No paid call" in text


async def test_a_file_that_is_no_ledger_is_left_alone(tmp_path: Path, new_call: NewCall) -> None:
    """Garbage, and a database of another program: refused, not one byte or right is changed, nothing is put beside."""
    garbage, foreign = tmp_path / "garbage.db", tmp_path / "foreign.db"
    garbage.write_bytes(b"this is not a database, and long enough to tell" * 50)
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE precious (id INTEGER)")
    connection.close()
    for path in (garbage, foreign):
        path.chmod(0o644)
    before = garbage.read_bytes(), foreign.read_bytes()
    assert "not a ledger" in await refusal(f"sqlite:///{garbage}", new_call())
    assert "belongs to another program" in await refusal(f"sqlite:///{foreign}", new_call())
    assert "not a regular file" in await refusal(f"sqlite:///{tmp_path}", new_call())
    assert (garbage.read_bytes(), foreign.read_bytes()) == before
    assert [stat.S_IMODE(path.stat().st_mode) for path in (garbage, foreign)] == [0o644, 0o644]
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".queue")]


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/home/ann/.tta/ledger.db", "ext4"), ("/mnt/share/ledger.db", "nfs4"), ("/mnt/share two/x.db", "cifs"),
     ("/mnt/shared/x.db", "ext4")],
)  # fmt: skip
def test_the_file_system_of_a_path_is_found(path: str, kind: str) -> None:
    """The longest mount point that holds the path decides."""
    mounts = (
        b"dev / ext4 rw 0 0\nsrv:/x /mnt/share nfs4 rw 0 0\n//s/x /mnt/share\\040two cifs rw 0 0\nbroken\n"
    )
    assert file_system_of(Path(path), mounts)[1] == kind


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's locks do not hold there: the message points to a local disk or PostgreSQL."""
    refuse_mounts(tmp_path)
    monkeypatch.setattr(
        "tta_dev_primitives.blocks.ledger.database.files.file_system_of", lambda path, mounts: ("/", "nfs4")
    )
    with pytest.raises(LedgerError, match=r"network file system \(nfs4\).*postgresql://"):
        refuse_mounts(tmp_path)


async def test_a_newer_ledger_is_refused_and_an_older_one_is_brought_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables are migrated one version at a time with their rows; a newer version's tables are not touched."""
    registered = {name: dict(versions) for name, versions in migrations._registered.items()}
    monkeypatch.setattr(migrations, "_registered", registered)

    def declare(version: int, *statements: str) -> None:
        migrations.register_schema("pets", version, statements)

    async def pets(tx: Tx) -> list[dict[str, object]]:
        return await tx.fetch("SELECT * FROM pets")

    async def add(tx: Tx) -> int:
        return await tx.execute("INSERT INTO pets (name) VALUES (?)", "rex")

    declare(1, "CREATE TABLE pets (name TEXT PRIMARY KEY) STRICT")
    assert await database.transact(add) == 1
    declare(2, "ALTER TABLE pets ADD COLUMN age INTEGER NOT NULL DEFAULT 3")
    assert await database.read(pets) == [{"name": "rex", "age": 3}]
    with pytest.raises(ValueError, match="does not follow"):
        declare(4)
    del registered["pets"][2]
    monkeypatch.setattr(migrations, "_generation", migrations._generation + 1)
    with pytest.raises(LedgerError, match=r"'pets' are of version 2, this program knows up to 1.*Upgrade"):
        await database.read(pets)


@pytest.mark.parametrize(
    "amount", [Decimal("NaN"), Decimal(-1), Decimal("Infinity"), Decimal("1e9"), 0.5, True]
)
async def test_what_is_no_amount_never_reaches_the_books(
    ledger: Ledger, new_call: NewCall, amount: Decimal
) -> None:
    """Bound, limit, cost, approval and correction: each refuses it, and nothing is held or spent."""
    hold = await ledger.reserve(new_call(), CENT, Decimal(1))
    with pytest.raises(LedgerError):
        await ledger.reserve(new_call(), amount, Decimal(1))
    with pytest.raises(LedgerError):
        await ledger.reserve(new_call(), CENT, amount)
    with pytest.raises(LedgerError):
        await ledger.settle(hold, amount)
    with pytest.raises(LedgerError):
        await ledger.approve("2026-11", amount, who="x", reason="y")
    with pytest.raises(LedgerError):
        await ledger.reconcile(hold.id, amount, evidence="z")
    balance = await ledger.balance()
    assert (balance.spent, balance.held, balance.approved) == (0, CENT, 0)


async def test_unknown_calls_cannot_be_settled(ledger: Ledger) -> None:
    """Money that was never set aside cannot be spent; releasing it is harmless."""
    with pytest.raises(LedgerError, match="never reserved"):
        await ledger.settle("no-such-call", CENT)
    assert not (await ledger.release("no-such-call", "x")).changed


async def test_a_full_disk_stops_new_calls_and_keeps_the_books(tmp_path: Path, new_call: NewCall) -> None:
    """A reservation that cannot be written is refused; once there is room again, everything goes on."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    hold = await ledger.reserve(new_call(), CENT, Decimal(1))

    def limit_pages(count: str) -> Callable[[Tx], object]:
        async def work(tx: Tx) -> list[dict[str, object]]:
            pages = (await tx.fetch("PRAGMA page_count"))[0]["page_count"]
            return await tx.fetch(f"PRAGMA max_page_count = {pages if count == 'now' else count}")

        return work

    await ledger.database.transact(limit_pages("now"))  # type: ignore[arg-type]
    with pytest.raises(LedgerError, match=r"full.*Free some disk space"):
        await ledger.settle(hold, CENT, answer=("key", b"x" * 100_000))
    await ledger.database.transact(limit_pages("1000000"))  # type: ignore[arg-type]
    assert (await ledger.settle(hold, CENT, answer=("key", b"x" * 100_000))).changed
    assert ((await ledger.balance()).spent, await ledger.verify()) == (CENT, [])
    await ledger.database.aclose()


async def test_a_file_that_was_replaced_is_noticed(tmp_path: Path, new_call: NewCall) -> None:
    """Money spent stands in the old file: a new one under the same name is not taken for it."""
    path = tmp_path / "ledger.db"
    ledger = Ledger.open(f"sqlite:///{path}")
    await ledger.reserve(new_call(), CENT, Decimal(1))
    path.rename(tmp_path / "moved.db")
    path.touch()
    with pytest.raises(LedgerError, match="replaced or deleted"):
        await ledger.reserve(new_call(), CENT, Decimal(1))
    await ledger.database.aclose()


@pytest.mark.parametrize("loss", [Path.unlink, lambda path: os.truncate(path, 0)], ids=["deleted", "emptied"])
async def test_a_lost_ledger_does_not_begin_the_month_anew(
    loss: Callable[[Path], None], tmp_path: Path, new_call: NewCall
) -> None:
    """Gone, in use or not: no paid call. Put back, it goes on; or somebody begins anew on purpose."""
    path, kept = tmp_path / "ledger.db", tmp_path / "kept.db"
    ledger = Ledger.open(f"sqlite:///{path}")
    await ledger.settle(await ledger.reserve(new_call(), CENT, CENT), CENT)
    await ledger.database.aclose()
    shutil.copy(path, kept)
    loss(path)
    with pytest.raises(LedgerError, match=r"it is gone or empty.*Put it back; or delete .*ledger\.db\.queue"):
        await ledger.reserve(new_call(), CENT, CENT)
    shutil.copy(kept, path)
    with pytest.raises(BudgetExceededError):
        await ledger.reserve(new_call(), CENT, CENT)
    path.unlink()
    with pytest.raises(LedgerError, match="replaced or deleted"):
        await ledger.reserve(new_call(), CENT, CENT)
    await ledger.database.aclose()
    path.with_name("ledger.db.queue").unlink()
    await ledger.reserve(new_call(), CENT, CENT)
    await ledger.database.aclose()


async def test_the_file_is_private(tmp_path: Path, new_call: NewCall) -> None:
    """0600 in a folder of 0700, also when somebody had opened it up; so are its side files."""
    path = tmp_path / "home" / "ledger.db"
    old = os.umask(0)
    try:
        for _ in range(2):
            ledger = Ledger.open(f"sqlite:///{path}")
            await ledger.reserve(new_call(), CENT, Decimal(1))
            modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
            assert (modes, stat.S_IMODE(path.parent.stat().st_mode)) == ({0o600}, 0o700)
            await ledger.database.aclose()
            path.chmod(0o644)
    finally:
        os.umask(old)


def test_the_address_is_chosen_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variable, then `.env`, then the configuration, then the file in TTA_HOME; blanks count as absent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTA_HOME", "/home/ann/.tta")
    monkeypatch.delenv("TTA_LEDGER_URL", raising=False)
    assert default_ledger_url() == "sqlite:////home/ann/.tta/ledger.db"
    assert default_ledger_url("postgresql://h/d") == "postgresql://h/d"
    (tmp_path / ".env").write_text("export TTA_LEDGER_URL=sqlite:////e.db\nTTA_HOME=/srv/tta\n")
    assert default_ledger_url("postgresql://h/d") == "sqlite:////e.db"
    monkeypatch.setenv("TTA_LEDGER_URL", "sqlite:////x.db")
    assert default_ledger_url("postgresql://h/d") == "sqlite:////x.db"
    (tmp_path / ".env").write_text("TTA_HOME=/srv/tta\n")
    monkeypatch.setenv("TTA_LEDGER_URL", " ")
    monkeypatch.setenv("TTA_HOME", " ")
    assert default_ledger_url() == "sqlite:////srv/tta/ledger.db"
