"""25 recorded GSM8K tasks through the sandbox, the flow and the ledger, against the recorded data."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sandbox_runs import CLAUDE, GEMINI, KEY, KEY_VALUE, LLAMA, sandbox_config, workflow_of

from tta_dev_primitives.blocks.ledger.database.protocol import database_for
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
from tta_dev_primitives.deployments.replay.recorded import Record, Replay
from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.orchestration import OrchestrationResult

SHARED = Path(os.environ.get("TTA_SHARED", Path(__file__).parents[3] / "shared"))
RECORDS = SHARED / "data" / "replay" / "gsm8k.jsonl"
TASKS = 25
RECORDED = {
    "gemini-2.5-pro": "gemini-1.5-pro",
    "llama-3.3-70b-versatile": "Meta-Llama-3.1-70B-Instruct",
    "claude-sonnet-4-5": "claude-3-5-sonnet-20241022",
}
PER_MTOK = {"claude-sonnet-4-5": (Decimal(3), Decimal(15))}


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    """The first recorded tasks that all three models answered."""
    if not RECORDS.exists():
        pytest.skip(f"no recorded answers at {RECORDS}; set TTA_SHARED to the folder that holds data/replay")
    with RECORDS.open(encoding="utf-8") as lines:
        every = [json.loads(line) for line in lines]
    return [r for r in every if set(RECORDED.values()) <= set(r["models"])][:TASKS]


@pytest.fixture
def sandbox(records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A provider that answers with what was recorded."""
    monkeypatch.setenv(KEY, KEY_VALUE)
    known = [Record.model_validate(record) for record in records]
    with Sandbox(answers=Replay(known, RECORDED)).start() as running:
        yield running


async def test_answers_attempts_and_dollars_agree_with_the_recording(
    records: list[dict[str, Any]], sandbox: Sandbox, prefect_server: ServerInfo, tmp_path: Path
) -> None:
    """Every delivered answer is a recorded one, every call is counted, and the ledger agrees to the last digit."""
    workflow = workflow_of(sandbox_config(sandbox, tmp_path), tmp_path)
    results = [await workflow.execute(record["prompt"], use_case="moderate") for record in records]

    by_name = {GEMINI: RECORDED["gemini-2.5-pro"], LLAMA: RECORDED["llama-3.3-70b-versatile"]}
    by_name[CLAUDE] = RECORDED["claude-sonnet-4-5"]
    for record, result in zip(records, results, strict=True):
        recorded = record["models"][by_name[result.model]]
        assert result.content == recorded["answer"]
        executed = {a.model: a for a in result.attempts if a.role == "execute"}
        assert {GEMINI, LLAMA} <= set(executed)
        for name, attempt in executed.items():
            told = record["models"][by_name[name]]
            assert (attempt.input_tokens, attempt.output_tokens) == (
                told["input_tokens"],
                told["output_tokens"],
            )

    provider_side = sum((_billed(call) for call in sandbox.calls), Decimal(0))
    assert sum((r.cost_usd for r in results), Decimal(0)) == provider_side
    ledger = Ledger(database_for(f"sqlite:///{tmp_path / 'ledger.db'}"))
    balance = await ledger.balance()
    assert (balance.spent, balance.held) == (provider_side, Decimal(0))
    assert await ledger.verify() == []
    assert sum(len(r.attempts) for r in results) == len(sandbox.calls)
    assert _right(records, results, by_name) >= _paid_alone(records) - 1


def _billed(call: Any) -> Decimal:
    """What the provider's own log says a call cost: tokens times the price list, written out."""
    if call.model not in PER_MTOK:
        return Decimal(0)
    price_in, price_out = PER_MTOK[call.model]
    return (call.usage.input_tokens * price_in + call.usage.output_tokens * price_out) / Decimal(1_000_000)


def _right(records: list[dict[str, Any]], results: list[OrchestrationResult], by_name: dict[str, str]) -> int:
    pairs = zip(records, results, strict=True)
    return sum(bool(record["models"][by_name[result.model]]["correct"]) for record, result in pairs)


def _paid_alone(records: list[dict[str, Any]]) -> int:
    return sum(bool(r["models"][RECORDED["claude-sonnet-4-5"]]["correct"]) for r in records)
