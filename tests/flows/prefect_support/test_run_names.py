"""Which names of flow runs stay."""

from __future__ import annotations

import pytest
from prefect.utilities.names import generate_slug

from tta_dev_primitives.flows.prefect_support import run_names


class _Run:
    def __init__(self, name: str) -> None:
        self.name = name


@pytest.mark.parametrize("given", ["nightly-job", "Q4 summaries", "my run", "operator-test-2"])
def test_a_name_that_a_person_gave_stays(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is none that Prefect makes up."""
    monkeypatch.setattr(run_names, "this_run", _Run(given))
    assert run_names.name_or("the task's first words") == given


def test_a_name_that_prefect_made_up_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the task's first words."""
    for _ in range(200):
        monkeypatch.setattr(run_names, "this_run", _Run(generate_slug(2)))
        assert run_names.name_or("the task's first words") == "the task's first words"
