"""SQL of both databases: statements are written once, in SQLite's words; this module says them in PostgreSQL's."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

Dialect = Literal["sqlite", "postgresql"]

_TO_POSTGRESQL = (
    (re.compile(r"\)\s*STRICT\s*/\* hot \*/", re.I), ") WITH (fillfactor = 50)"),
    (re.compile(r"\)\s*STRICT\b", re.I), ")"),
    (
        re.compile(r"\bINTEGER PRIMARY KEY (AUTOINCREMENT\b|/\* counted \*/)", re.I),
        "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    ),
    (re.compile(r"\bINTEGER\b", re.I), "BIGINT"),
    (re.compile(r"\bREAL\b", re.I), "DOUBLE PRECISION"),
    (re.compile(r"\bBLOB\b", re.I), "BYTEA"),
)


def translate(statement: str, dialect: Dialect) -> str:
    """Say a DDL statement written for SQLite in the words of `dialect`."""
    if dialect == "postgresql":
        for pattern, replacement in _TO_POSTGRESQL:
            statement = pattern.sub(replacement, statement)
    return statement


@lru_cache(maxsize=512)
def numbered(sql: str) -> str:
    """`?` as `$1`, `$2` ... in their order."""
    count = 0

    def number(_: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"${count}"

    return re.sub(r"\?", number, sql)
