"""The soak of `make soak-flows`, in small: faults at random under load leave nothing stuck, held or unexplained."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.soak_orchestrations import run

from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo


@pytest.mark.proof
def test_faults_under_load_leave_the_books_right(
    prefect_server: ServerInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute at 20 orchestrations at a time, a tenth of the calls faulty: all end, books and bill agree."""
    monkeypatch.chdir(tmp_path)
    soak = run(60, concurrency=20, folder=tmp_path)
    # Half a minute of imports and caches says nothing about memory; the long soak does.
    assert soak.wrong(memory=False) == [], soak.report()
    assert soak.ended["answered"] >= 20
    assert soak.faults > 0
