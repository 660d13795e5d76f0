"""The database that a first start copies, and the order of writers in it."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from tta_dev_primitives.blocks.prefect_server import database_template
from tta_dev_primitives.blocks.prefect_server.database_template import (
    install_template,
    shipped_template,
)
from tta_dev_primitives.blocks.prefect_server.server_process import queue_write_transactions

pytestmark = [pytest.mark.prefect, pytest.mark.server]


def revision_of(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def last_migration() -> str | None:
    """Of the installed Prefect."""
    import prefect.server.database
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    folder = Path(prefect.server.database.__file__).parent
    config = Config()
    config.set_main_option("path_separator", "os")
    config.set_main_option("script_location", str(folder / "_migrations"))
    config.set_main_option("version_locations", str(folder / "_migrations" / "versions" / "sqlite"))
    return ScriptDirectory.from_config(config).get_current_head()


def test_the_shipped_database_is_at_the_installed_prefects_last_migration(tmp_path: Path) -> None:
    """Nothing is left to migrate with the oldest and the newest Prefect that is allowed."""
    assert install_template(tmp_path / "prefect.db")
    assert revision_of(tmp_path / "prefect.db") == last_migration()


@pytest.mark.parametrize(
    ("installed", "taken"),
    [("3.8.8", "3.8.8"), ("3.8.12", "3.8.8"), ("3.9.0", "3.8.8"), ("3.9.1", "3.9.1"), ("3.9.20rc1", "3.9.1")],
)
def test_a_prefect_between_two_templates_takes_the_older(
    installed: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database of an older Prefect can be migrated; one of a newer cannot."""
    monkeypatch.setattr(database_template, "version", lambda _: installed)
    template = shipped_template()
    assert template is not None
    assert template.name == f"prefect-{taken}.sqlite.gz"


def test_a_prefect_older_than_all_templates_makes_its_own_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its migrations run."""
    monkeypatch.setattr(database_template, "version", lambda _: "3.8.7")
    assert not install_template(tmp_path / "prefect.db")


def test_a_new_database_is_private_and_an_old_one_is_kept(tmp_path: Path) -> None:
    """Mode 0600 from the first byte; what exists is never overwritten."""
    database = tmp_path / "prefect.db"

    assert install_template(database)
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    database.write_bytes(b"precious")
    assert not install_template(database)
    assert database.read_bytes() == b"precious"


def test_a_template_holds_a_schema_and_no_work(tmp_path: Path) -> None:
    """The one row says at which migration it is; each server registers block types itself."""
    database = tmp_path / "prefect.db"
    install_template(database)
    with closing(sqlite3.connect(database)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}
    assert {name: count for name, count in rows.items() if count} == {"alembic_version": 1}


def test_a_damaged_template_is_left_to_the_migrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut file costs the time of an ordinary first start, not the start."""
    cut = tmp_path / "cut.gz"
    whole = shipped_template()
    assert whole is not None
    cut.write_bytes(whole.read_bytes()[:1000])
    monkeypatch.setattr(database_template, "shipped_template", lambda: cut)

    assert not install_template(tmp_path / "prefect.db")
    assert not (tmp_path / "prefect.db").exists()


async def read_then_write_against_another_writer(database: Path) -> None:
    """One transaction reads, another writes in between (if it may), then the first writes."""
    from prefect.server.database.configurations import AioSqliteConfiguration

    config = AioSqliteConfiguration(f"sqlite+aiosqlite:///{database}", timeout=5)
    engine = await config.engine()
    insert = sa.text("INSERT INTO flow (id, name, tags) VALUES (:name, :name, '[]')")

    async def other() -> None:
        async with await config.session(engine) as session, config.begin_transaction(session):
            await session.execute(insert, {"name": "other"})

    try:
        async with await config.session(engine) as session:
            async with config.begin_transaction(session):
                await session.execute(sa.text("SELECT count(*) FROM flow"))
                task = asyncio.create_task(other())
                await asyncio.wait([task], timeout=0.5)
                await session.execute(insert, {"name": "first"})
            await task
    finally:
        await engine.dispose()


async def test_writers_take_turns_instead_of_failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Prefect alone answers with "database is locked" (and the client with 2 s of sleep) goes through."""
    from prefect.server.database.configurations import AioSqliteConfiguration

    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", AioSqliteConfiguration.begin_transaction)
    database = tmp_path / "prefect.db"
    install_template(database)
    with pytest.raises(sa.exc.OperationalError, match="database is locked"):
        await read_then_write_against_another_writer(database)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM flow")

    queue_write_transactions()
    await read_then_write_against_another_writer(database)

    with closing(sqlite3.connect(database)) as connection:
        assert sorted(connection.execute("SELECT name FROM flow")) == [("first",), ("other",)]
