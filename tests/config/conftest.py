"""Every test of this room works in an empty folder, with an empty home and without anybody's keys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

KEY_VARIABLES = ("ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GROQ_API_KEY", "OPENROUTER_API_KEY")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test: empty, with a home of its own."""
    home = tmp_path / "home"
    home.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    for name in [*KEY_VARIABLES, *(n for n in os.environ if n.startswith("TTA_"))]:
        monkeypatch.delenv(name, raising=False)
    return work
