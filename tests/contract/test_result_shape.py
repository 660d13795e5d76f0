"""A result keeps the shape that callers rely on, in Python, in JSON and through a pickle."""

from __future__ import annotations

import json
import pickle
from decimal import Decimal

from tta_dev_primitives.flows.tasks.result import Attempt, BudgetView
from tta_dev_primitives.orchestration import OrchestrationResult

BUDGET = BudgetView(
    month="2026-11", limit_usd=Decimal("100.0"), spent_usd=Decimal("0E-12"), held_usd=Decimal(0)
)
CALL = Attempt(role="execute", model="m", provider="groq", outcome="ok", cost_usd=Decimal("0.000000000001"))
RESULT = OrchestrationResult(
    content="a", model="m", provider="groq", use_case="simple", accepted=True, attempts=[CALL], budget=BUDGET
)


def test_attempts_and_warnings_are_lists_and_money_is_plain_text_in_json() -> None:
    """`result.warnings == []` is true of a quiet run; no amount is written with an exponent."""
    assert RESULT.warnings == []
    assert RESULT.attempts == [CALL]
    document = json.loads(json.dumps(RESULT.model_dump(mode="json")))
    assert document["attempts"][0]["cost_usd"] == "0.000000000001"
    assert document["budget"]["spent_usd"] == "0.000000000000"


def test_a_result_comes_back_equal() -> None:
    """From its JSON, its dump and a pickle."""
    assert OrchestrationResult.model_validate_json(RESULT.model_dump_json()) == RESULT
    assert OrchestrationResult.model_validate(RESULT.model_dump()) == RESULT
    assert pickle.loads(pickle.dumps(RESULT)) == RESULT
