"""`.env` and API keys: found, cleaned, refused, and never shown."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from tta_dev_primitives.config import ConfigError, OrchestrationConfig
from tta_dev_primitives.config.errors import MissingKeyError
from tta_dev_primitives.config.reading.api_keys import find_api_key
from tta_dev_primitives.config.reading.dotenv import (
    Variable,
    find_variable,
    parse_dotenv,
    read_dotenv,
)


def write_env(text: str, mode: int = 0o600) -> None:
    Path(".env").write_text(text)
    Path(".env").chmod(mode)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("K=v", "v"),
        ("export K=v", "v"),
        ("  K = v  ", "v"),
        ('K="v w"', "v w"),
        ("K='v w' # why", "v w"),
        ("K=v # why", "v"),
        ("K=v#w", "v#w"),
        ('K="a#b"', "a#b"),
        (r'K="a\"b\\c\n"', 'a"b\\c\n'),
        (r"K='a\nb'", r"a\nb"),
        ("K=", ""),
        ("K= # nothing", ""),
        ("K=a=b", "a=b"),
        ("K=$HOME", "$HOME"),
        ("\ufeffK=v\r", "v"),
        ("K=old\nK=v", "v"),
    ],
)
def test_the_usual_forms_are_read(line: str, value: str) -> None:
    """With and without export, quotes, comments and blanks; the last one wins; nothing is expanded."""
    assert parse_dotenv(line.encode()) == ({"K": SecretStr(value)}, [])


def test_lines_of_another_shape_are_skipped_and_counted() -> None:
    """Other tools keep other things in .env: such lines do no harm and are told by number."""
    data = b"# fine\n\nnonsense\n1K=v\nK='open\nK=\xff\nL=v"
    assert parse_dotenv(data) == ({"L": SecretStr("v")}, [3, 4, 5, 6])


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    """Whatever .env holds, the reader answers."""
    values, skipped = parse_dotenv(data)
    assert all(isinstance(value, SecretStr) for value in values.values())
    assert skipped == sorted(set(skipped))


def test_skipped_lines_are_warned_of_without_their_content(caplog: pytest.LogCaptureFixture) -> None:
    """The content may be a key."""
    write_env("gsk_secret\nK=v")
    assert read_dotenv() == {"K": SecretStr("v")}
    assert "skipped: line 1" in caplog.text
    assert "gsk_secret" not in caplog.text


def test_changes_of_the_file_are_seen() -> None:
    """The cache notices another content."""
    write_env("K=one")
    assert find_variable("K", {}) is not None
    write_env("K=three")
    found = find_variable("K", {})
    assert found is not None
    assert found.text == "three"


@pytest.mark.parametrize("mode", [0o644, 0o604])
def test_a_file_that_others_may_read_is_warned_of(mode: int, caplog: pytest.LogCaptureFixture) -> None:
    """Its keys are used all the same; the warning has the remedy and comes once."""
    write_env("K=v", mode)
    assert [read_dotenv()["K"], read_dotenv()["K"]] == [SecretStr("v")] * 2
    assert caplog.text.count("chmod 600 .env") == 1


def test_a_file_that_others_may_change_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can change it can send the work to an account of his own; TTA_ALLOW_OPEN_ENV says it is meant."""
    write_env("K=v", 0o666)
    with pytest.raises(ConfigError, match=r"chmod 600 \.env"):
        find_variable("K", {})
    monkeypatch.setenv("TTA_ALLOW_OPEN_ENV", "1")
    assert read_dotenv() == {"K": SecretStr("v")}


def test_what_is_not_a_file_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    """A folder named .env is a virtual environment; a FIFO is not waited for, and told of once."""
    assert read_dotenv() == {}
    Path(".env").mkdir()
    assert read_dotenv() == {}
    assert not caplog.records
    Path(".env").rmdir()
    os.mkfifo(".env")
    assert [read_dotenv(), read_dotenv()] == [{}, {}]
    assert caplog.text.count("not a regular file") == 1


def test_a_huge_file_is_refused() -> None:
    """It is not read into memory."""
    write_env("#" * 300_000)
    with pytest.raises(ConfigError, match="at most 262,144"):
        read_dotenv()


def test_a_variable_never_shows_its_text() -> None:
    """Not in a repr."""
    assert "hush" not in repr(Variable(SecretStr("hush"), ".env"))


def test_get_api_key_returns_the_value_or_warns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Environment, then .env, then None with a warning that names the variable."""
    config = OrchestrationConfig()
    assert config.get_api_key("GOOGLE_API_KEY") is None
    assert caplog.records[-1].levelno == logging.WARNING
    assert caplog.records[-1].getMessage().startswith("API key not found: GOOGLE_API_KEY")
    write_env("export GOOGLE_API_KEY='from-file'")
    assert config.get_api_key("GOOGLE_API_KEY") == "from-file"
    monkeypatch.setenv("GOOGLE_API_KEY", "real")
    assert config.get_api_key("GOOGLE_API_KEY") == "real"


def test_a_key_passed_for_a_name_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A mix-up of value and name does not reach the log."""
    assert OrchestrationConfig().get_api_key("gsk_AbCdEf0123456789AbCdEf01") is None
    assert "AbCdEf" not in caplog.text


def test_one_trailing_line_break_is_stripped() -> None:
    """As secrets mounted from files have it."""
    for text in ("abc-123\n", "abc-123\r\n"):
        assert find_api_key("K", {"K": text}) == SecretStr("abc-123")


@pytest.mark.parametrize(
    "text",
    [
        "your-google-key",
        "your-key-here",
        "YOUR_API_KEY",
        "changeme",
        "xxx",
        "XXXX",
        "<key>",
        "sk-...",
        "${KEY}",
        '"xxx"',
    ],
)
def test_a_placeholder_is_a_missing_key(text: str) -> None:
    """The error names the variable."""
    with pytest.raises(MissingKeyError, match="API key not found: K still holds a placeholder") as caught:
        find_api_key("K", {"K": text})
    assert caught.value.variables == ("K",)


def test_a_missing_or_empty_variable_is_no_key() -> None:
    """Servers that need none can be asked without one."""
    assert [find_api_key("K", environ) for environ in ({}, {"K": ""}, {"K": "  \n"})] == [None] * 3


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("hush-1\nhush-2", "line break"),
        ("hush\n\n", "line break"),
        ("hush\0x", "NUL"),
        ("hüsh-1", "not ASCII"),
        ('"hush-1"', "quote"),
        ("hush'1", "quote"),
        ("hush 1", "blank"),
        (" hush-1", "blank"),
        ("hush\x1b", "control"),
        ("hush" * 2000, "longer"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_not_shown(text: str, fault: str) -> None:
    """HTTP libraries would put the whole key into their error; this one names the variable only."""
    with pytest.raises(ConfigError, match=f"^K: .*{fault}") as caught:
        find_api_key("K", {"K": text})
    assert "hush" not in str(caught.value)
    assert "hüsh" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("K=v\n".encode("utf-16"), "UTF-16"),
        ("K=v\n".encode("utf-16-le"), "UTF-16"),
        (b"A=1\nK=caf\xe9\n", ":2: not UTF-8"),
    ],
)
def test_another_encoding_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, said: str
) -> None:
    """Prefect reads the same file and would end with a traceback; a byte order mark of UTF-8 does no harm."""
    monkeypatch.chdir(tmp_path)
    env = tmp_path / ".env"
    env.write_bytes(data)
    env.chmod(0o600)
    with pytest.raises(ConfigError, match=said) as refused:
        read_dotenv()
    assert "\n" not in str(refused.value)
    env.write_bytes("\ufeffK=v\n".encode())
    assert read_dotenv()["K"].get_secret_value() == "v"
