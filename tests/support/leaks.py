"""Looks for a key in everything that a run may leave behind."""

from __future__ import annotations

import base64
import logging
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import asyncpg

__all__ = ["LogFile", "Places", "forms_of", "leaks", "leaks_in_postgres"]


class LogFile(logging.FileHandler):
    """Every record of every library, with its traceback, down to DEBUG."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s %(args)s"))


@dataclass
class Places:
    """Folders that are read byte by byte, and further texts."""

    folder: Path
    folders: list[Path] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)

    def sqlite_url(self) -> str:
        return f"sqlite:///{self.folder / 'ledger.db'}"


def forms_of(key: str) -> list[bytes]:
    """The key as it can travel: raw, its ends, URL-encoded, base64 at each offset, hex, reversed."""
    forms = {key, key[:12], key[-12:], quote(key, safe=""), key.encode().hex(), key[::-1]}
    for offset in range(3):
        whole = base64.b64encode(b"\0" * offset + key.encode()).decode().rstrip("=")
        forms.add(whole[4:-4])
    return [form.encode() for form in forms]


def leaks(key: str, places: Places) -> list[str]:
    """Where the key is, in any form: files, databases, texts, arguments of running processes."""
    forms = forms_of(key)
    found = []
    for folder in (places.folder, *places.folders):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                held = _bytes(path)
                if any(form in held for form in forms):
                    found.append(str(path))
    for name, text in places.texts:
        if any(form in text.encode("utf-8", "surrogateescape") for form in forms):
            found.append(name)
    for process in Path("/proc").glob("[0-9]*"):
        held = _bytes(process / "cmdline")
        if any(form in held for form in forms):
            found.append(f"arguments of process {process.name}")
    return found


async def leaks_in_postgres(key: str, url: str) -> list[str]:
    """Where the key is in the tables of the schema of `url`, and in the log of its server."""
    forms = forms_of(key)
    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetch(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
        )
        texts = {}
        for (table,) in map(tuple, tables):
            # As text: bytes turn into their hexadecimal form, which is one of the forms.
            rows = await connection.fetch(f'SELECT t::text FROM "{table}" t')
            texts[f"PostgreSQL table {table}"] = "\n".join(row[0] for row in rows).encode()
        folder = Path(await connection.fetchval("SHOW data_directory")).parent
    finally:
        await connection.close()
    texts["PostgreSQL log"] = _bytes(folder / "log")
    return [name for name, text in texts.items() if any(form in text for form in forms)]


def _bytes(path: Path) -> bytes:
    """A file's bytes; of a SQLite file also its rows, which pages may hold in pieces."""
    try:
        data = path.read_bytes()
    except OSError:
        return b""
    if data.startswith(b"SQLite format 3\0"):
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            data += "\n".join(connection.iterdump()).encode("utf-8", "surrogateescape")
        except sqlite3.Error:
            pass
        finally:
            connection.close()
    return data
