"""The five variables: what they override, in which forms, from where, and when they do nothing."""

from __future__ import annotations

import logging
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import tta_dev_primitives
from tta_dev_primitives.config import ConfigError, OrchestrationConfig, load_orchestration_config
from tta_dev_primitives.config.overrides import INTERNAL_VARIABLES, OVERRIDES, VARIABLES, misspelt_variables

FILE = """\
orchestration:
  enabled: false
  prefer_free_models: false
  quality_threshold: 0.5
  orchestrator:
    model: claude-sonnet-4-6
    api_model: own-id
    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 2}
  cost_tracking: {budget_limit_usd: 7.0}
"""


def value_at(config: OrchestrationConfig, key: str) -> Any:
    value: Any = config
    for part in key.split(".")[1:]:
        value = getattr(value, part)
    return value


@pytest.fixture
def path() -> Path:
    path = Path("c.yaml")
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("TTA_ORCHESTRATION_ENABLED", "true", "orchestration.enabled", True),
        ("TTA_PREFER_FREE_MODELS", "true", "orchestration.prefer_free_models", True),
        ("TTA_QUALITY_THRESHOLD", "0.95", "orchestration.quality_threshold", 0.95),
        ("TTA_ORCHESTRATOR_MODEL", "claude-opus-4", "orchestration.orchestrator.model", "claude-opus-4"),
        ("TTA_BUDGET_LIMIT_USD", "200.0", "orchestration.cost_tracking.budget_limit_usd", 200.0),
    ],
)
@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_variable_stands_above_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, text: str, key: str, value: object, place: str
) -> None:
    """In the environment or in .env: its key changes, all other keys stay, and the object knows."""
    before = load_orchestration_config(path)
    if place == ".env":
        Path(".env").write_text(f"export {variable}={text}\n")
        Path(".env").chmod(0o600)
    else:
        monkeypatch.setenv(variable, text)
    config = load_orchestration_config(path)
    assert value_at(config, key) == value
    assert config.overrides == {variable: key}
    for _, (other, _read) in OVERRIDES.items():
        dotted = ".".join(map(str, other))
        assert dotted == key or value_at(config, dotted) == value_at(before, dotted)


def test_variables_stand_above_the_defaults_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any file."""
    monkeypatch.setenv("TTA_BUDGET_LIMIT_USD", "0.000000000001")
    assert load_orchestration_config().cost_tracking.budget_limit == Decimal("1e-12")


def test_real_variables_win_over_dotenv(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And an empty one counts as absent."""
    Path(".env").write_text("TTA_QUALITY_THRESHOLD=0.1\nTTA_BUDGET_LIMIT_USD=\n")
    Path(".env").chmod(0o600)
    monkeypatch.setenv("TTA_QUALITY_THRESHOLD", "0.2")
    monkeypatch.setenv("TTA_PREFER_FREE_MODELS", "")
    config = load_orchestration_config(path)
    assert config.quality_threshold == 0.2
    assert config.overrides == {"TTA_QUALITY_THRESHOLD": "orchestration.quality_threshold"}
    monkeypatch.setenv("TTA_QUALITY_THRESHOLD", " ")
    assert load_orchestration_config(path).quality_threshold == 0.1


@pytest.mark.parametrize("enabled", [True, False])
def test_true_and_false_have_four_words_each(
    path: Path, monkeypatch: pytest.MonkeyPatch, enabled: bool
) -> None:
    """In any case; the file, or the default, says the opposite."""
    for text in (
        ("true", "TRUE", "1", "yes", "Yes", " ON ") if enabled else ("false", "False", "0", "NO", "off")
    ):
        monkeypatch.setenv("TTA_ORCHESTRATION_ENABLED", text)
        assert load_orchestration_config(path if enabled else None).enabled is enabled


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("TTA_ORCHESTRATION_ENABLED", "maybe"),
        ("TTA_ORCHESTRATION_ENABLED", "2"),
        ("TTA_PREFER_FREE_MODELS", "y"),
        ("TTA_QUALITY_THRESHOLD", "high"),
        ("TTA_QUALITY_THRESHOLD", "1.01"),
        ("TTA_QUALITY_THRESHOLD", "-0.5"),
        ("TTA_QUALITY_THRESHOLD", "nan"),
        ("TTA_QUALITY_THRESHOLD", "95%"),
        ("TTA_BUDGET_LIMIT_USD", "-1"),
        ("TTA_BUDGET_LIMIT_USD", "inf"),
        ("TTA_BUDGET_LIMIT_USD", "1e3"),
        ("TTA_BUDGET_LIMIT_USD", "0100"),
        ("TTA_BUDGET_LIMIT_USD", "1,000"),
        ("TTA_BUDGET_LIMIT_USD", "$5"),
        ("TTA_BUDGET_LIMIT_USD", "9" * 400),
        ("TTA_ORCHESTRATOR_MODEL", "two words"),
        ("TTA_ORCHESTRATOR_MODEL", "m" * 300),
    ],
)
def test_a_wrong_variable_is_named_and_inert_when_overrides_are_off(
    path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    """The error names the variable; with use_env_overrides=False nobody looks at it."""
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError, match=f"^{variable}: .*expected"):
        load_orchestration_config(path)
    config = load_orchestration_config(path, use_env_overrides=False)
    assert config.overrides == {}
    assert config.quality_threshold == 0.5


def test_faults_of_file_and_variables_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable does not hide what is wrong in the file."""
    Path("c.yaml").write_text("orchestration:\n  quality_threshold: 7\n")
    monkeypatch.setenv("TTA_QUALITY_THRESHOLD", "0.9")
    monkeypatch.setenv("TTA_BUDGET_LIMIT_USD", "much")
    with pytest.raises(ConfigError) as caught:
        load_orchestration_config("c.yaml")
    assert str(caught.value).splitlines() == [
        "Invalid configuration, 2 faults:",
        "  c.yaml:2: orchestration.quality_threshold: found 7, expected a number from 0 to 1, such as 0.85",
        "  TTA_BUDGET_LIMIT_USD: found 'much', expected a plain number such as 100 or 0.85",
    ]


def test_the_log_says_which_variable_overrode_what(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At INFO, with both values."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("TTA_QUALITY_THRESHOLD", "0.95")
    load_orchestration_config(path)
    assert (
        "TTA_QUALITY_THRESHOLD overrides orchestration.quality_threshold: 0.95 instead of 0.5" in caplog.text
    )


def test_another_orchestrator_model_leaves_the_old_ones_price_and_id_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They belong to the model that is replaced; naming the same model changes nothing."""
    monkeypatch.setenv("TTA_ORCHESTRATOR_MODEL", "claude-opus-5-5")
    orchestrator = load_orchestration_config(path).orchestrator
    assert (orchestrator.api_model, orchestrator.price) == (None, None)
    monkeypatch.setenv("TTA_ORCHESTRATOR_MODEL", "claude-sonnet-4-6")
    assert load_orchestration_config(path).orchestrator.api_model == "own-id"


def test_an_override_that_contradicts_the_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is right, the variable is right, together they are not: the variable is at fault."""
    Path("c.yaml").write_text("""\
orchestration:
  orchestrator: {billing: paid}
  executors: [{model: m, provider: groq, api_key_env: K, use_cases: [simple], billing: free}]
""")
    monkeypatch.setenv("TTA_ORCHESTRATOR_MODEL", "m")
    with pytest.raises(
        ConfigError, match=r"^TTA_ORCHESTRATOR_MODEL: m is also executors\[0\], with another billing"
    ):
        load_orchestration_config("c.yaml")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TTA_BUDGET_LIMT_USD", "TTA_BUDGET_LIMIT_USD"),
        ("TTA_BUDGET_LIMIT", "TTA_BUDGET_LIMIT_USD"),
        ("TTA_LEDGER_ULR", "TTA_LEDGER_URL"),
        ("TTA-HOME", "TTA_HOME"),
        ("tta_trust", "TTA_TRUST"),
        ("TTA_SERVER_PROT", "TTA_SERVER_PORT"),
        ("TTA_MY_API_KEY", None),
        ("TTA_SERVER_HOME", None),
        ("TTY", None),
    ],
)
def test_a_misspelt_variable_is_noticed(name: str, meant: str | None) -> None:
    """It is not read, and a budget may hang on it; names of other programs are theirs."""
    assert misspelt_variables({name: "1"}) == ({} if meant is None else {name: meant})


def test_a_misspelt_variable_of_a_dotenv_file_is_said_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A job reads its configuration again and again."""
    Path(".env").write_text("TTA_QUALITY_TRESHOLD=0.9\n")
    Path(".env").chmod(0o600)
    for _ in range(3):
        load_orchestration_config(path)
    said = [record.getMessage() for record in caplog.records if "TRESHOLD" in record.getMessage()]
    assert said == [
        "TTA_QUALITY_TRESHOLD is no variable of this program. Did you mean TTA_QUALITY_THRESHOLD?"
    ]


def test_every_variable_that_the_program_reads_is_known() -> None:
    """A new one that is missing in the list could be called misspelt."""
    package = Path(tta_dev_primitives.__file__).parent
    folders = [package, *(folder.resolve() for folder in package.iterdir() if folder.is_dir())]
    texts = [path.read_text() for folder in folders for path in folder.rglob("*.py")]
    read = {name for text in texts for name in re.findall(r"\"(TTA_[A-Z_]+[A-Z])\"", text)}
    assert len(read) > len(OVERRIDES)
    assert read <= {*VARIABLES, *INTERNAL_VARIABLES}
