"""Whether a run can have a key is known before a server is started."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tta_dev_primitives.blocks.credentials.usable_keys import refuse_without_key
from tta_dev_primitives.blocks.prefect_server.server_settings import ServerHome
from tta_dev_primitives.config import OrchestrationConfig, load_orchestration_config
from tta_dev_primitives.config.errors import AllModelsFailedError, MissingKeyError


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OrchestrationConfig:
    """A free model and the orchestrator, whose variables are not set, in an empty home."""
    for name in ("K_ONE", "K_TWO", "PREFECT_API_URL", "TTA_SERVER_URL", "TTA_SERVER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TTA_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.yaml"
    path.write_text(
        "orchestration:\n  orchestrator: {model: claude-sonnet-5-5, api_key_env: K_ONE}\n  executors:\n"
        "    - {model: gemini-3-flash, provider: google-ai-studio, api_key_env: K_TWO, use_cases: [simple]}\n"
        "  fallback_strategy: {models: [gemini-3-flash]}\n"
    )
    return load_orchestration_config(path)


def saved_block(name: str) -> None:
    """Prefect's own file with one block in it."""
    file = ServerHome.find().database
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as opened:
        opened.execute("CREATE TABLE IF NOT EXISTS block_document (name TEXT)")
        opened.execute("INSERT INTO block_document VALUES (?)", (name,))
        opened.commit()


def test_a_configuration_without_any_key_is_refused_with_its_variables(config: OrchestrationConfig) -> None:
    """Each variable once, in the order of the file."""
    with pytest.raises(MissingKeyError, match="one of K_TWO or K_ONE") as caught:
        refuse_without_key(config)
    assert caught.value.variables == ("K_TWO", "K_ONE")


@pytest.mark.parametrize(("value", "refused"), [("sk-abc123", False), ("your-key", True), ("", True)])
def test_one_variable_is_enough_and_a_placeholder_is_none(
    config: OrchestrationConfig, monkeypatch: pytest.MonkeyPatch, value: str, refused: bool
) -> None:
    """The other models are passed over by the run."""
    monkeypatch.setenv("K_TWO", value)
    if refused:
        with pytest.raises(MissingKeyError):
            refuse_without_key(config)
    else:
        refuse_without_key(config)


@pytest.mark.parametrize(("name", "refused"), [("tta-google-ai-studio-k-two", False), ("tta-other", True)])
def test_a_block_of_the_embedded_server_counts(config: OrchestrationConfig, name: str, refused: bool) -> None:
    """Its file is read; the server is not started for it."""
    saved_block(name)
    if refused:
        with pytest.raises(MissingKeyError):
            refuse_without_key(config)
    else:
        refuse_without_key(config)


def test_a_file_that_cannot_be_read_and_a_configured_api_have_to_be_asked(
    config: OrchestrationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the run itself finds out."""
    file = ServerHome.find().database
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no database" * 100)
    refuse_without_key(config)
    file.unlink()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    refuse_without_key(config)


def test_the_error_of_all_models_has_one_row_a_model() -> None:
    """What a model said twice stands once."""
    error = AllModelsFailedError.of((), ["a:free: rate_limit: slow", "b: auth: no", "a:free: empty"])
    assert error.reasons == (("a:free", "rate_limit: slow; empty"), ("b", "auth: no"))
    assert str(error).startswith("All models failed: a:free: rate_limit")
