"""The recorded outcomes that ship with the product, and what the state machine makes of them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from replay_data import replay_folder

from tta_dev_primitives.config import load_orchestration_config
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.template import scenario_path
from tta_dev_primitives.deployments.replay import outcomes
from tta_dev_primitives.deployments.replay.outcomes import recorded_outcomes, replay_outcomes
from tta_dev_primitives.flows.validation.dry_run import DryRun, DryTask

BALANCED = load_orchestration_config(scenario_path("balanced"), use_env_overrides=False)


def test_the_file_holds_what_the_records_say_and_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be derived again, byte for byte."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    from derive_outcomes import derived

    shipped = files("tta_dev_primitives.deployments.replay").joinpath("outcomes.jsonl").read_text("utf-8")
    assert shipped.splitlines() == list(derived(replay_folder()))


@pytest.mark.parametrize("concurrency", [1, 10, 50])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_recorded_outcomes_save_more_than_half_at_the_paid_model_s_accuracy(
    seed: int | None, concurrency: int
) -> None:
    """The scenario that the demo shows, in any order."""
    one = replay_outcomes(recorded_outcomes(), BALANCED, name="b", seed=seed, concurrency=concurrency)
    assert one.tasks == 400
    assert one.saving > 0.55
    assert one.relative > 0.98
    assert not one.violated


def test_at_no_moment_dearer(monkeypatch: pytest.MonkeyPatch) -> None:
    """After every chunk the tasks so far have cost at most what the paid model alone would have cost."""
    seen: list[bool] = []
    real = DryRun.run

    def run(self: DryRun, tasks: list[DryTask]) -> object:
        ends = real(self, tasks)
        seen.append(self.cost <= self.baseline)
        return ends

    monkeypatch.setattr(outcomes.DryRun, "run", run)
    for seed in range(5):
        replay_outcomes(recorded_outcomes(), BALANCED, name="b", seed=seed, concurrency=1)
    assert len(seen) > 100
    assert all(seen)


def test_a_model_of_no_recorded_family_is_named(tmp_path: Path) -> None:
    """The message says what is known and what to give instead."""
    file = tmp_path / "c.yaml"
    file.write_text(
        "orchestration:\n  executors:\n    - {model: mistral-small-latest, provider: openai-compatible, "
        "base_url: 'https://api.example.com/v1', api_key_env: K, use_cases: [simple], billing: free}\n"
    )
    config = load_orchestration_config(file, use_env_overrides=False)
    with pytest.raises(
        ConfigError, match=r"mistral-small-latest: .* no model of the family .* tta replay DATA"
    ):
        replay_outcomes(recorded_outcomes(20), config, name="c")
