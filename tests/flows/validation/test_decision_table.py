"""What follows from each class of failure: the client's decision table as rows.

A row reads: class and what the provider said -> waits at the same model (one for each further try, None when the
next model's turn comes), what is passed over from then on, and for how long.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tta_dev_primitives.blocks.ledger.database.protocol import database_for
from tta_dev_primitives.blocks.quotas.availability import Availability
from tta_dev_primitives.blocks.wire.reply_problems import reply_problem
from tta_dev_primitives.blocks.wire.types import ChatReply
from tta_dev_primitives.config.models.targets import Target, Usage
from tta_dev_primitives.config.provider_errors import ErrorClass as E
from tta_dev_primitives.config.provider_errors import ProviderError
from tta_dev_primitives.flows.routing.retry_policy import same_model_wait, stops_everything

NOW = 1_795_341_600.0
"""22 November 2026, 10:00 UTC."""
HOUR, DAY = 3600.0, 86_400.0
MODEL = Target(
    name="m", provider="groq", api_model="m", billing="free", api_key_env="K", family="f", price=None
)
SISTER = replace(MODEL, name="sister", api_model="sister")
PAID = replace(MODEL, name="paid", api_model="paid", billing="paid")
KEY = "key-1"


class _Half(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Row:
    """One class of failure and what follows."""

    error: E
    waits: tuple[float, ...] = ()
    """Seconds before the second, third ... try of the same model; after the last the next model's turn is."""
    out: tuple[str, ...] = ()
    """Models of the same key that are passed over from now on."""
    until: float | None = None
    said: dict[str, Any] = field(default_factory=dict)
    name: str = ""


ROWS = [
    Row(E.CONNECT, waits=(0.5,)),
    Row(E.TIMEOUT),
    Row(E.TRANSPORT),
    Row(E.TRANSIENT, waits=(0.5,)),
    Row(E.OVERLOADED, waits=(0.5, 1.0)),
    Row(E.OVERLOADED, waits=(7.0, 7.0), said={"retry_after_s": 7.0}, name="with a wait"),
    Row(
        E.OVERLOADED,
        out=("m",),
        until=HOUR,
        said={"retryable": False, "reset_at": NOW + HOUR},
        name="for an hour",
    ),
    Row(E.TRANSIENT, said={"retryable": False}, name="told not to retry"),
    Row(E.MALFORMED),
    Row(E.RATE_LIMIT, waits=(1.0, 2.0), out=("m",), until=5.0),
    Row(
        E.RATE_LIMIT,
        waits=(12.0, 12.0),
        out=("m",),
        until=12.0,
        said={"retry_after_s": 12.0},
        name="with a wait",
    ),
    Row(E.RATE_LIMIT, out=("m",), until=60.0, said={"retry_after_s": 60.0}, name="longer than a run waits"),
    Row(
        E.RATE_LIMIT,
        waits=(9.0, 9.0),
        out=("m", "sister"),
        until=9.0,
        said={"retry_after_s": 9.0, "scope": "provider_free"},
        name="of all free models",
    ),
    Row(E.QUOTA, out=("m",), until=14 * HOUR, name="of the day, its end unknown"),
    Row(E.QUOTA, out=("m",), until=433.0, said={"reset_at": NOW + 433}, name="with its end"),
    Row(
        E.QUOTA,
        out=("m", "sister"),
        until=14 * HOUR,
        said={"scope": "provider_free", "reset_at": NOW + 14 * HOUR},
        name="of all free models",
    ),
    Row(
        E.QUOTA,
        out=("m", "sister", "paid"),
        until=HOUR,
        said={"scope": "provider", "status": 402},
        name="no credit",
    ),
    Row(E.MODEL_GONE, out=("m",), until=DAY),
    Row(E.AUTH, out=("m", "sister", "paid"), until=900.0),
    Row(E.CONTENT),
    Row(E.TRUNCATED),
    Row(E.EMPTY),
    Row(E.MODEL_SLIP, waits=(0.0,)),
    Row(E.CONTEXT),
    Row(E.INVALID_REQUEST),
    Row(E.REDIRECT),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.error.value} {row.name}".strip())
async def test_a_failure_has_the_consequences_of_its_row(row: Row, tmp_path: Path) -> None:
    """Tries of the same model with their waits, then the next model; what is passed over, and how long."""
    error = ProviderError("no", provider="groq", model="m", error_class=row.error, **row.said)
    waits: list[float] = []
    while (wait := same_model_wait(error, len(waits) + 1, time_left_s=100.0, rng=_Half())) is not None:
        waits.append(wait)
    assert tuple(waits) == row.waits

    memory = Availability(database_for(f"sqlite:///{tmp_path / 'ledger.db'}"), clock=lambda: NOW)
    await memory.record_failure(MODEL, KEY, error)
    blocked = await memory.blocked([(t, KEY) for t in (MODEL, SISTER, PAID)])
    assert {t.name for t in (MODEL, SISTER, PAID) if t.key in blocked} == set(row.out)
    assert {round(block.until - NOW, 3) for block in blocked.values()} == ({row.until} if row.out else set())
    assert await memory.blocked([(MODEL, "another-key")]) == {}
    assert stops_everything(error) == (row.error is E.REDIRECT)


def test_every_class_that_a_provider_can_cause_has_a_row() -> None:
    """What only our own side decides (budget, price, quality) never comes from a provider."""
    ours = {E.BUDGET, E.UNPRICED, E.QUALITY}
    assert {row.error for row in ROWS} == set(E) - ours


@pytest.mark.parametrize(
    ("text", "finish", "raw", "problem"),
    [
        ("42", "stop", "end_turn", None),
        ("42", "unknown", None, None),
        ("42", "length", "max_tokens", E.TRUNCATED),
        ("", "length", "MAX_TOKENS", E.TRUNCATED),
        ("So far", "unknown", "pause_turn", E.TRUNCATED),
        ("", "stop", "STOP", E.EMPTY),
        (" \n", "stop", "stop", E.EMPTY),
        ("", "content_filter", "SAFETY", E.CONTENT),
        ("I can", "content_filter", "refusal", E.CONTENT),
        ("", "error", "MALFORMED_RESPONSE", E.MODEL_SLIP),
        ("", "tool", "tool_use", E.EMPTY),
    ],
)
def test_a_reply_that_is_no_whole_answer_is_never_a_success(
    text: str, finish: Any, raw: str | None, problem: E | None
) -> None:
    """Cut, empty, refused and broken replies arrive with HTTP 200; each has its class."""
    assert reply_problem(ChatReply(text, finish, Usage(), raw_finish=raw)) is problem
