"""Python entry points take arguments as the command line does, and name a wrong one before anything starts."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_dev_primitives.config import OrchestrationConfig, load_orchestration_config
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.flows import orchestrate, orchestrate_bulk, spend_report
from tta_dev_primitives.flows.bulk.arguments import duration, job_options, moment, usd_amount, whole
from tta_dev_primitives.orchestration import MultiModelWorkflow


@pytest.mark.parametrize("value", ["2.50", "$2.50", " 2.5 ", 2.5, Decimal("2.5")])
def test_an_amount_may_be_written_in_each_of_these_forms(value: object) -> None:
    """Text, number and Decimal mean the same; a float counts as it is written."""
    assert usd_amount("max_cost", value) == Decimal("2.5")


@given(st.decimals(min_value=0, max_value=10**9, allow_nan=False, allow_infinity=False, places=6))
def test_an_amount_is_exact(amount: Decimal) -> None:
    """Money is never rounded on its way in."""
    assert usd_amount("max_cost", str(amount)) == amount


@pytest.mark.parametrize("value", ["", "two", "-1", -0.01, "nan", math.inf, True, [], "1e999999999"])
def test_what_is_no_amount_is_refused_with_the_form(value: object) -> None:
    """The message names the argument."""
    with pytest.raises(ConfigError, match=r"^max_cost: .* Expected USD such as 2\.50"):
        usd_amount("max_cost", value)


@pytest.mark.parametrize("value", ["2026-11-30T18:00+00:00", "2026-11-30T18:00", "2026-11-30T18:00Z"])
def test_a_moment_is_an_iso_text(value: str) -> None:
    """Without a zone the caller says which is meant."""
    assert moment("until", value) == datetime(2026, 11, 30, 18, tzinfo=UTC)
    assert moment("until", "2026-11-30T18:00", zone=None).tzinfo is not None


@pytest.mark.parametrize("value", [datetime.fromisoformat("0001-01-01"), "0001-01-01T00:00"])
def test_a_moment_that_the_local_zone_does_not_have_is_refused(
    value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """East of Greenwich the first day of the calendar begins before it."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        with pytest.raises(ConfigError, match=r"^until: .* Expected a moment such as"):
            moment("until", value, zone=None)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("value", ["no", 1, None])
async def test_fresh_is_true_or_false(value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text such as `no` does not ask anew, and pay again."""
    monkeypatch.setenv("TTA_HOME", str(tmp_path / "home"))
    with pytest.raises(ConfigError, match=r"^fresh: .* Expected True or False"):
        await MultiModelWorkflow(config=OrchestrationConfig()).execute("hi", fresh=value)
    assert not (tmp_path / "home").exists()


def test_options_of_a_job_come_in_the_form_that_it_takes() -> None:
    """Texts become values; no end of patience is None."""
    got = job_options(
        {"concurrency": 5, "max_cost": "1", "patience_s": "1h", "until": None, "detail": "item"}
    )
    assert got == {
        "concurrency": 5, "max_cost": Decimal(1), "patience_s": 3600.0, "until": None, "detail": "item",
    }  # fmt: skip
    assert job_options({"patience_s": math.inf}) == {"patience_s": None}
    assert (duration("x", "inf"), whole("x", "7")) == (math.inf, 7)


WRONG: list[tuple[str, Any]] = [
    ("max_cost", "much"),
    ("until", "tomorrow"),
    ("until", 5),
    ("patience_s", 10**400),
    ("max_cost", 10**400),
    ("patience_s", "1y"),
    ("patience_s", -1),
    ("detail", "line"),
    ("concurrency", 0),
    ("concurrency", "9" * 5000),
    ("chunk_size", 1.5),
    ("keep_going", "maybe"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
async def test_a_wrong_option_is_named_before_a_server_is_started(
    name: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `execute_bulk` and by the flow, in the same words where both read it."""
    monkeypatch.setenv("TTA_HOME", str(tmp_path / "home"))
    workflow = MultiModelWorkflow(config=OrchestrationConfig())
    with pytest.raises(ConfigError, match=f"^{name}: "):
        await workflow.execute_bulk([{"id": "1", "task": "hi"}], **{name: value})
    with pytest.raises(ConfigError, match=f"^{name}: "):
        await orchestrate_bulk(**{"input_path": "a.jsonl", "output_path": "b.jsonl", name: value})
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: orchestrate(task=5), "task: 5 is not accepted"),
        (lambda: orchestrate("hi", use_case="simpel"), "use_case: 'simpel' is not accepted"),
        (lambda: orchestrate(), "missing a required argument: 'task'"),
        (lambda: orchestrate("hi", usecase="simple"), "unexpected keyword argument 'usecase'"),
        (lambda: spend_report(month="2026-13"), "month: '2026-13' is not accepted. Give YYYY-MM, or `last`"),
        (lambda: spend_report(config_path=7), "config_path: 7 is not accepted"),
    ],
)
def test_flows_called_directly_name_a_wrong_argument(call: Any, said: str) -> None:
    """No Prefect error class, no traceback of pydantic."""
    with pytest.raises(ConfigError) as caught:
        call()
    assert said in str(caught.value)


def test_a_workflow_takes_a_configuration_or_a_path(tmp_path: Path) -> None:
    """The configuration is used as it is; both at once, or something else, is refused."""
    config = load_orchestration_config(None, use_env_overrides=False)
    assert MultiModelWorkflow(config=config).config is config
    with pytest.raises(ConfigError, match="give one of them"):
        MultiModelWorkflow(tmp_path / "c.yaml", config=config)
    with pytest.raises(ConfigError, match="config: expected an OrchestrationConfig, got dict"):
        MultiModelWorkflow(config={"orchestration": {}})  # type: ignore[arg-type]
