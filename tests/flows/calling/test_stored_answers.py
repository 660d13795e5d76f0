"""Answers that are stored: taken again, asked anew, listed and deleted."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sandbox_runs import GEMINI, At

from tta_dev_primitives.commands.answers import answers
from tta_dev_primitives.config.errors import ConfigError

TASK = "What is six times seven?"


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """What `tta answers` prints, or its JSON document."""

    def run(config: Path | None, **options: Any) -> Any:
        capsys.readouterr()
        assert answers(config=config, **options) == 0
        out = capsys.readouterr().out
        return json.loads(out) if options.get("json") else out

    return run


def test_a_stored_answer_is_free_until_it_is_asked_anew_or_deleted(at: At, shown: Callable[..., Any]) -> None:
    """A second run reuses it, `fresh` asks again and stores the new answer, `tta answers --delete` forgets it."""
    workflow = at(validation={"mode": "never"})
    config = workflow.config.source

    def reused(**options: Any) -> list[bool]:
        result = workflow.run(TASK, use_case="simple", **options)
        return [attempt.reused for attempt in result.attempts]

    assert reused() == [False]
    assert reused() == [True]
    assert reused(fresh=True) == [False]
    assert reused() == [True]
    (kept,) = shown(config, json=True)["kept"]
    assert (kept["model"], kept["role"], kept["use_case"]) == (GEMINI, "execute", "simple")
    assert kept["size"] > 0
    assert datetime.fromisoformat(kept["at"]) <= datetime.now(UTC)
    assert "1 stored answer," in shown(config)
    assert shown(config, json=True, older_than="1h")["answers"] == 0
    assert shown(config, json=True, older_than="1h", delete=True) == {"deleted": 0}
    assert reused() == [True]
    assert shown(config, delete=True).startswith("1 stored answer deleted")
    assert "0 stored answers" in shown(config)
    assert reused() == [False]


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1.5d", "30 days", "", "9999999d"])
def test_an_age_that_cannot_be_read_deletes_nothing(age: str, tmp_path: Path) -> None:
    """It is refused before a ledger is opened."""
    with pytest.raises(ConfigError, match="such as 30d"):
        answers(older_than=age, delete=True, config=tmp_path / "nowhere.yaml")
