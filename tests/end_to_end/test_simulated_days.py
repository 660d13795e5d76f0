"""Days of a bulk job on free quota, on a virtual clock: the real flow, scheduler, ledger and HTTP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sandbox_runs import KEY, KEY_VALUE
from virtual_day import FOUR_KEYS, simulate

from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo


async def test_a_job_uses_up_its_free_quota_and_ends_when_it_said(
    prefect_server: ServerInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four keys, resets in two zones: >= 95 % of each day is used, <= 0.5 % refused, the ETA holds, nothing is paid.

    `benchmarks/simulate_day.py` does the same with 5,000 tasks and the published limits.
    """
    monkeypatch.setenv(KEY, KEY_VALUE)
    days = {"groq": 20, "google-ai-studio": 10, "openrouter": 20}
    keys = tuple(replace(key, limits={**key.limits, "rpd": days[key.provider]}) for key in FOUR_KEYS)
    day = await simulate(tmp_path, tasks=125, keys=keys, chunk_size=20)
    assert (day.report.state, day.report.done, day.paid) == ("complete", 125, 0)
    assert 24 * 3600 < day.end - day.start < 48 * 3600
    assert len(day.used) == 6  # the second Pacific day is not over yet
    assert day.least_used >= 0.95
    assert day.refused_share <= 0.005
    assert len(day.eta_errors) >= 3
    assert max(day.eta_errors) <= 0.1
