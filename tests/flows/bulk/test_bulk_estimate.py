"""Estimates: facts and guesses kept apart, the worst case a true bound, the binding limit named; and no Prefect."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sandbox_runs import KEY, KEY_VALUE, sandbox_config

from tta_dev_primitives.config import OrchestrationConfig
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.models.resolve import resolve_targets
from tta_dev_primitives.deployments.sandbox import Sandbox
from tta_dev_primitives.flows.bulk.arguments import duration
from tta_dev_primitives.flows.bulk.estimate import Estimate, Facts, estimate
from tta_dev_primitives.flows.bulk.progress import Progress, span_text
from tta_dev_primitives.flows.bulk.reader import Record
from tta_dev_primitives.flows.validation.risk import RiskState, Stratum

NOW = 1_795_435_200.0
OPEN = "Summarize the history of tea."


def config(**changes: Any) -> OrchestrationConfig:
    everything = ["simple", "moderate", "complex", "expert", "speed-critical", "reasoning"]
    limits = {"rpm": 30, "rpd": 1000}
    free = {"api_key_env": KEY, "use_cases": everything, "limits": limits}
    return OrchestrationConfig.model_validate(
        {
            "orchestrator": {"model": "claude-sonnet-4.5", "api_key_env": KEY},
            "executors": [
                {"model": "gemini-2.5-pro", "provider": "google-ai-studio", **free},
                {"model": "llama-3.3-70b-versatile", "provider": "groq", **free},
            ],
            **changes,
        }
    )


def records(count: int, task: str = OPEN) -> list[Record]:
    return [Record(n, str(n), f"{task} {n}", "moderate") for n in range(count)]


def of(count: int, facts: Facts | None = None, task: str = OPEN, **changes: Any) -> Estimate:
    made = config(**changes)
    return estimate(records(count, task), made, resolve_targets(made), facts or Facts(), now=NOW)


def test_without_history_the_prior_is_stated() -> None:
    """The first tasks of a kind are assumed to be checked; the estimate says that this is an assumption."""
    found = of(1150)
    assert found.tasks == 1150
    assert found.paid_tasks == pytest.approx(150 + 100)
    assert "no recorded outcomes" in found.paid_source


def test_recorded_outcomes_replace_the_prior() -> None:
    """With enough rulings of the use case, their share of paid checks is what counts."""
    risk = RiskState(strata={"moderate|judged|a|b": Stratum(order=1, unjudged=80, labelled=20)})
    found = of(1000, Facts(risk=risk))
    assert found.paid_share == pytest.approx(0.2)
    assert "100 recorded outcomes" in found.paid_source


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({"validation": {"mode": "always"}}, 1.0),
        ({"validation": {"mode": "never"}}, 0.0),
        ({"enabled": False}, 1.0),
        ({"executors": []}, 1.0),
    ],
)
def test_what_the_configuration_decides_is_not_guessed(changes: dict[str, Any], share: float) -> None:
    """Where the configuration says who is asked, the share follows from it."""
    assert of(10, **changes).paid_share == share


def test_the_worst_case_is_at_least_the_expected_one() -> None:
    """The worst case is the sum of what would be reserved: never below what is expected."""
    for task in (OPEN, "How many apples are 3 + 4? Answer with a number."):
        found = of(200, task=task)
        assert found.worst_usd > found.expected_usd > 0
        assert found.baseline_usd > 0


def test_the_limit_that_binds_is_named() -> None:
    """Two models of 30 requests a minute take 1,000 tasks' answers and verdicts in half an hour or more."""
    found = of(900)
    assert found.time.binding is not None
    assert found.time.seconds > 900
    assert sum(found.time.share.values()) == 1800


def test_a_model_without_key_is_not_counted() -> None:
    """What cannot be called does nothing of the work."""
    found = of(100, replace(Facts(), unreachable=frozenset({"gemini-2.5-pro"})))
    assert set(found.time.share) == {"llama-3.3-70b-versatile"}


@pytest.mark.server
def test_the_command_needs_no_prefect_and_speaks_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tta estimate --json` prints one document and imports no Prefect; no provider is asked."""
    monkeypatch.setenv(KEY, KEY_VALUE)
    monkeypatch.setenv("TTA_HOME", str(tmp_path))
    source = tmp_path / "in.jsonl"
    lines = [json.dumps({"id": str(n), "task": f"{OPEN} {n}"}) for n in range(30)]
    source.write_text("\n".join([*lines, lines[0], "{broken"]) + "\n")
    with Sandbox().start() as sandbox:
        file = tmp_path / "config.yaml"
        file.write_text(json.dumps({"orchestration": sandbox_config(sandbox, tmp_path)}))
        code = (
            "import sys; from tta_dev_primitives.cli import main\n"
            "try: main(sys.argv[1:])\n"
            "finally: print('prefect' in sys.modules, file=sys.stderr)"
        )
        arguments = ["estimate", str(source), "--config", str(file), "--json"]
        ended = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.splitlines()[-1] == "False"
        assert sandbox.calls == []
    found = json.loads(ended.stdout)
    assert (found["tasks"], found["broken_lines"], found["duplicates"]) == (30, 1, 1)
    assert Decimal(found["worst_usd"]) > Decimal(found["expected_usd"]) > 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ("90s", 90), ("1.5h", 5400), ("2d", 172_800)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """Seconds, minutes, hours, days."""
    assert duration("patience_s", text) == seconds
    assert duration("patience_s", "inf") == float("inf")


@pytest.mark.parametrize("text", ["", "soon", "-1", "1y", "nan"])
def test_other_durations_are_refused(text: str) -> None:
    """What is no duration is a usage error that shows the forms."""
    with pytest.raises(ConfigError, match="30m"):
        duration("patience_s", text)


def test_progress_tells_pace_and_time_left() -> None:
    """The line for people: done, failed, pace, cost, time left, and a wait for quota."""
    now = 1000.0
    clock: Callable[[], float] = lambda: now  # noqa: E731
    progress = Progress(total=100, skipped=50, clock=clock)
    progress.start()
    from test_bulk_io import result

    for _ in range(20):
        now += 0.5
        progress.add(result(), None)
    assert progress.rate == pytest.approx(2.0)
    assert progress.eta_s == pytest.approx(40.0)
    assert progress.percent == pytest.approx(100 * 70 / 150)
    progress.waiting_until = now + 90
    assert "70/150 done" in progress.line()
    assert "waiting 1 min 30 s for free quota" in progress.line()
    progress.quota_eta_s = 7200.0
    assert "2 h 00 min left" in progress.line()
    assert span_text(float("inf")) == "no end"
