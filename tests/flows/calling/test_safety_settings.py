"""A changed budget, `on_exhausted`, alert threshold or approval reaches what runs at its next paid call."""

from __future__ import annotations

import logging
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from sandbox_runs import CLAUDE, GEMINI, LLAMA, At

from tta_dev_primitives.blocks.ledger.database.protocol import Tx
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.config import CostTrackingConfig, OrchestrationConfig, load_orchestration_config
from tta_dev_primitives.config.errors import BudgetExceededError
from tta_dev_primitives.flows.calling.safety_settings import SafetySettings
from tta_dev_primitives.flows.tasks.result import OrchestrationResult
from tta_dev_primitives.orchestration import MultiModelWorkflow

ONLY_PAID = {"mode": "never"}
PAID_ONLY = f"""rules:
- {{match: {{model: {GEMINI}}}, reply: {{error: invalid_request}}}}
- {{match: {{model: {LLAMA}}}, reply: {{error: invalid_request}}}}
"""


def write(path: Path, **tracking: Any) -> None:
    """A file with these options of `cost_tracking`."""
    path.write_text(yaml.safe_dump({"orchestration": {"cost_tracking": tracking}}), encoding="utf-8")


def loaded(path: Path, **tracking: Any) -> OrchestrationConfig:
    """The configuration of such a file."""
    write(path, **tracking)
    return load_orchestration_config(path, use_env_overrides=False)


def change(workflow: MultiModelWorkflow, **tracking: Any) -> None:
    """Edit `cost_tracking` in the workflow's own file."""
    path = workflow.config.source
    assert path is not None
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    data["orchestration"]["cost_tracking"].update(tracking)
    path.write_text(yaml.safe_dump(data), encoding="utf-8")


def test_a_changed_file_is_in_force_at_once(tmp_path: Path) -> None:
    """Exact amounts, and the ledger hears of the alert threshold."""
    path = tmp_path / "config.yaml"
    heard: list[CostTrackingConfig] = []
    settings = SafetySettings(loaded(path, budget_limit_usd=5), heard.append)
    assert (settings.limit, heard) == (Decimal(5), [])
    write(path, budget_limit_usd=0.1, on_exhausted="stop", alert_threshold=0.5, approval_timeout_s=60)
    assert (settings.limit, settings.learning_credit) == (Decimal("0.1"), Decimal("0.0001"))
    assert (settings.now.on_exhausted, settings.now.approval_timeout_s) == ("stop", 60)
    assert [one.alert_threshold for one in heard] == [0.5]


def test_other_options_wait_for_the_next_start(tmp_path: Path) -> None:
    """A running process keeps its ledger, and the limit that it began with stays on."""
    path = tmp_path / "config.yaml"
    settings = SafetySettings(loaded(path, budget_limit_usd=5))
    write(path, budget_limit_usd=6, enabled=False, ledger_url=f"sqlite:///{tmp_path / 'other.db'}")
    assert settings.limit == Decimal(6)
    assert settings.now.ledger_url is None


@pytest.mark.parametrize(
    "broken", ["orchestration: [", "", "orchestration: {cost_tracking: {budget_limit_usd: -1}}"]
)
def test_a_broken_file_keeps_the_last_good_settings_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    """It is broken for as long as someone edits it; the fixed one counts at once."""
    path = tmp_path / "config.yaml"
    settings = SafetySettings(loaded(path, budget_limit_usd=5))
    with caplog.at_level(logging.WARNING, "tta_dev_primitives.budget"):
        for _ in range(3):
            path.write_text(broken, encoding="utf-8")
            os.utime(path)
            assert settings.limit == Decimal(5)
        path.unlink()
        assert settings.limit == Decimal(5)
    assert len([one for one in caplog.records if one.levelno >= logging.WARNING]) == 1
    assert str(path) in caplog.text
    write(path, budget_limit_usd=7)
    assert settings.limit == Decimal(7)


def test_what_was_set_in_code_stays(tmp_path: Path) -> None:
    """A caller that lowered the limit of its own copy does not get the file's."""
    config = loaded(tmp_path / "config.yaml", budget_limit_usd=5)
    own = config.cost_tracking.model_copy(update={"budget_limit_usd": 1.0})
    settings = SafetySettings(config.model_copy(update={"cost_tracking": own}))
    write(tmp_path / "config.yaml", budget_limit_usd=50, on_exhausted="stop")
    assert (settings.limit, settings.now.on_exhausted) == (Decimal(1), "stop")


def test_the_variable_goes_on_overriding_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does at the start."""
    monkeypatch.setenv("TTA_BUDGET_LIMIT_USD", "3")
    path = tmp_path / "config.yaml"
    write(path, budget_limit_usd=5)
    settings = SafetySettings(load_orchestration_config(path))
    write(path, budget_limit_usd=50, on_exhausted="ask")
    assert (settings.limit, settings.now.on_exhausted) == (Decimal(3), "ask")


def test_a_file_that_came_with_the_folder_may_not_raise_the_limit_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same refusal as at a start: the change needs `tta trust`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TTA_TRUST", raising=False)
    write(tmp_path / "orchestration-config.yaml", budget_limit_usd=5)
    settings = SafetySettings(load_orchestration_config())
    write(tmp_path / "orchestration-config.yaml", budget_limit_usd=5000)
    assert settings.limit == Decimal(5)
    assert "not trusted" in caplog.text


async def test_a_resident_workflow_meets_the_new_limit_alert_and_approval(at: At) -> None:
    """One process, one workflow: no restart between the edits of its file."""
    workflow = at(PAID_ONLY, validation=ONLY_PAID)
    first = await workflow.execute("Write about rain.", use_case="moderate")
    assert first.model == CLAUDE
    change(workflow, budget_limit_usd=0, on_exhausted="stop")
    with pytest.raises(BudgetExceededError):
        await workflow.execute("Write about snow.", use_case="moderate")
    ledger = Ledger.open(workflow.config.cost_tracking.ledger_url)
    month = (await ledger.balance()).month
    await ledger.approve(month, Decimal(1), who="Ada", reason="snow")
    assert (await workflow.execute("Write about snow.", use_case="moderate")).model == CLAUDE
    change(workflow, budget_limit_usd=0.5, alert_threshold=0.0)
    await workflow.execute("Write about hail.", use_case="moderate")
    assert 0 in await alert_lines(ledger)


async def test_a_running_bulk_job_meets_the_new_limit(tmp_path: Path, at: At) -> None:
    """The file is changed while tasks are asked: what follows is refused, and after a raise it is paid for."""
    edits: dict[int, dict[str, Any]] = {5: {"budget_limit_usd": 0}, 12: {"budget_limit_usd": 100}}
    workflow = at(PAID_ONLY, validation=ONLY_PAID)
    ended: list[str | None] = []

    def edit(result: OrchestrationResult) -> None:
        ended.append(result.model if result.accepted else None)
        change(workflow, **edits.get(len(ended), {}))

    items = [{"id": str(n), "task": f"Summarize note {n}.", "use_case": "moderate"} for n in range(20)]
    await workflow.execute_bulk(items, concurrency=1, on_result=edit, keep_going=True)
    shape = [model for n, model in enumerate(ended) if n == 0 or model != ended[n - 1]]
    assert shape == [CLAUDE, None, CLAUDE]
    assert ended.count(None) >= 5


async def alert_lines(ledger: Ledger) -> list[int]:
    """The alert lines that the month has crossed, in hundredths of a percent of the limit."""

    async def work(tx: Tx) -> list[int]:
        rows = await tx.fetch("SELECT threshold_bp FROM ledger_alert ORDER BY threshold_bp")
        return [row["threshold_bp"] for row in rows]

    return await ledger.database.read(work)
