"""How long a job takes under the quotas, which limit binds, and when it waits, sleeps or spends."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_dev_primitives.blocks.quotas.time_needed import Binding, time_needed
from tta_dev_primitives.blocks.quotas.windows import Windows
from tta_dev_primitives.config.models.targets import Limits
from tta_dev_primitives.flows.bulk.quota_wait import Step, decide

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()
INF = math.inf


@pytest.mark.parametrize(
    ("wait_s", "patience_s", "options", "step"),
    [
        (10, 0, {}, Step.SPEND),
        (10, 0, {"may_spend": False}, Step.WAIT),
        (10, 60, {}, Step.WAIT),
        (61, 60, {}, Step.SPEND),
        (50, 60, {"waited_s": 20}, Step.SPEND),
        (3600, INF, {}, Step.SLEEP),
        (3600, 7200, {}, Step.SLEEP),
        (3600, 7200, {"deadline_s": 1800}, Step.SPEND),
        (3600, INF, {"deadline_s": 1800}, Step.STOP),
        (INF, INF, {}, Step.STOP),
        (INF, 60, {}, Step.SPEND),
        (INF, 60, {"may_spend": False}, Step.STOP),
    ],
)
def test_patience_decides_between_waiting_and_spending(
    wait_s: float, patience_s: float, options: dict[str, float], step: Step
) -> None:
    """0 spends at once, infinity never; a short wait stays in the process, a long one suspends the run."""
    assert decide(wait_s, patience_s, **options).step is step  # type: ignore[arg-type]


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.booleans(), st.floats(0, 1e6))
def test_never_spends_without_leave_and_never_waits_past_its_patience(
    wait_s: float, patience_s: float, may_spend: bool, waited_s: float
) -> None:
    """Whatever the figures."""
    step = decide(wait_s, patience_s, waited_s=waited_s, may_spend=may_spend).step
    assert may_spend or step is not Step.SPEND
    if may_spend and step in (Step.WAIT, Step.SLEEP):
        assert wait_s + waited_s <= patience_s * (1 + 1e-9)


def test_a_job_within_what_is_left_takes_only_its_calls() -> None:
    """20 tasks, 29 places in the minute: two seconds each at concurrency 10 make four seconds."""
    plan = time_needed(20, 500, {"m": Limits(rpm=30)}, NOON, latency_s=2, concurrency=10)
    assert plan.seconds == pytest.approx(4)
    assert (plan.binding, plan.share) == (None, {"m": 20})


@pytest.mark.parametrize(
    ("limits", "seconds", "kind"),
    [
        (Limits(rpm=20), 4 * 61, "rpm"),
        (Limits(tpm=10_000), 5 * 61, "tpm"),
        (Limits(rpm=50, rpd=50), (12 + 24) * 3600 - 3600, "rpd"),
        (Limits(rpm=1000, rpd=5000, tpd=25_000), (12 + 24) * 3600 - 3600, "tpd"),
    ],
)
def test_the_estimate_names_the_limit_that_binds(limits: Limits, seconds: float, kind: str) -> None:
    """100 tasks of 500 tokens from noon: by minutes, or by days and the last hour before a reset."""
    plan = time_needed(100, 500, {"m": limits}, NOON)
    assert plan.binding == Binding("m", kind)  # type: ignore[arg-type]
    assert plan.seconds == pytest.approx(seconds, rel=0.1)


def test_models_share_the_work_and_what_is_used_already_counts() -> None:
    """Two models of 300 a day, one of them half used today: 400 tasks are done within the minute limits."""
    limits = Limits(rpm=60, rpd=300)
    used = Windows()
    used.advance(NOON - 600, limits)
    for _ in range(150):
        used.take(1, "bulk")
    plan = time_needed(400, 1, {"a": limits, "b": limits}, NOON, windows={"a": used})
    assert plan.share == {"a": 140, "b": 260}
    assert plan.seconds == pytest.approx(260 / 58 * 61, rel=0.2)


def test_a_pool_is_counted_once_and_a_model_that_is_out_comes_later() -> None:
    """Two names of one pool have one quota; a model that is out for an hour begins after it."""
    pooled = Limits(rpd=30, pool="free")
    plan = time_needed(29, 1, {"a": pooled, "b": pooled}, NOON)
    assert plan.share == {"a": 29, "b": 0}
    later = time_needed(10, 1, {"a": Limits(rpm=30)}, NOON, blocked_until={"a": NOON + 3600})
    assert later.seconds == pytest.approx(3600, abs=1)


@pytest.mark.parametrize("models", [{}, {"m": Limits(tpm=100)}, {"m": Limits(rpd=0)}])
def test_a_job_that_can_never_be_done_takes_for_ever(models: dict[str, Limits]) -> None:
    """No model, a request larger than the minute, a plan that does not hold the model."""
    plan = time_needed(10, 500, models, NOON)
    assert plan.seconds == INF
    assert sum(plan.share.values()) == 0


def test_an_estimate_over_months_is_quick() -> None:
    """100,000 tasks over four keys, hundreds of days: well under a second a question of the progress bar."""
    limits = {name: Limits(rpm=10, rpd=100, tpm=20_000, tpd=100_000) for name in "abcd"}
    started = time.process_time()
    plan = time_needed(100_000, 800, limits, NOON)
    assert plan.seconds == pytest.approx(100_000 / 400 * 86_400, rel=0.02)
    assert time.process_time() - started < 5
