"""What a model writes is data on every way out: terminal, pipe, JSON, error message, artifact."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sandbox_runs import KEY, KEY_VALUE, sandbox_config

from tta_dev_primitives.blocks.prefect_server.manager import ServerInfo
from tta_dev_primitives.blocks.redaction import visible
from tta_dev_primitives.commands._output import print_json
from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario
from tta_dev_primitives.flows.reporting.quoted_answer import fenced

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m caf\u00e9 \u202egnp.exe\u2066 \x08\x7f\u2028 \U000e0041 \U0001f600 tail\rhead"
SHOWN = "␛]0;owned␇␛[2J⟨U+009B⟩31m café ⟨U+202E⟩gnp.exe⟨U+2066⟩ ␈␡⟨U+2028⟩ ⟨U+E0041⟩ \U0001f600 tail␍head"


def test_what_steers_is_shown_as_a_symbol() -> None:
    """Escapes, C1 controls, direction controls, tags, a bare carriage return; letters and emoji stay."""
    assert visible(HOSTILE) == SHOWN
    assert (
        visible("a\r\nb\tc\nשלום é \U0001f469\u200d\U0001f52c")
        == "a\r\nb\tc\nשלום é \U0001f469\u200d\U0001f52c"
    )


def test_json_holds_the_text_and_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """One document that reads back as the answer, with every steering character escaped."""
    print_json({"content": HOSTILE})
    out = capsys.readouterr().out
    assert json.loads(out) == {"content": HOSTILE}
    assert visible(out) == out


@given(st.text())
def test_visible_text_stays_as_it_is(text: str) -> None:
    """Showing it twice changes nothing, and the result can be written as UTF-8."""
    once = visible(text)
    assert visible(once) == once
    once.encode()
    assert "\x1b" not in once


@given(st.text(alphabet="`~ab\n![](x)"))
def test_a_fence_cannot_be_ended_from_inside(text: str) -> None:
    """No line of the text is a fence as long as the one around it."""
    first, *inner, last = "\n".join(fenced(text)).split("\n")
    assert first == last
    assert all(first not in line for line in inner)


@pytest.fixture
def asked(prefect_server: ServerInfo, tmp_path: Path) -> Any:
    """`tta run` as a process of its own, with a model that answers `HOSTILE`."""
    rules = [{"match": {"prompt": "solve"}, "reply": {"text": HOSTILE}}]
    sandbox = Sandbox(parse_scenario(yaml.safe_dump({"rules": rules}))).start()
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"orchestration": sandbox_config(sandbox, tmp_path)}))
    env = {**os.environ, KEY: KEY_VALUE, "PREFECT_API_URL": prefect_server.url, "COLUMNS": "200"}

    def command(*options: str, **more: Any) -> tuple[list[str], dict[str, str]]:
        line = [sys.executable, "-m", "tta_dev_primitives", "run", "Hello", "-u", "simple", "-c", str(config)]
        return [*line, *options], {**env, **more}

    yield command
    sandbox.stop()


def test_every_way_out(asked: Callable[..., tuple[list[str], dict[str, str]]]) -> None:
    """Symbols in a pipe and on a terminal, also with --raw there; bytes in a pipe with --raw; valid JSON everywhere."""

    def piped(*options: str, **more: Any) -> tuple[bytes, bytes]:
        line, env = asked(*options, **more)
        done = subprocess.run(line, env=env, capture_output=True, check=False, timeout=110)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    # A stdout that cannot write a letter: the answer is there all the same.
    out, err = piped(PYTHONIOENCODING="ascii")
    assert out.rstrip(b"\n") == SHOWN.encode("ascii", "backslashreplace")
    assert b"--raw" in err
    assert b"\x1b" not in out + err
    out, _ = piped("--raw")
    assert out.decode().removesuffix("\n") == HOSTILE
    out, _ = piped("--json", PYTHONIOENCODING="ascii")
    assert json.loads(out)["content"] == HOSTILE
    assert b"\x1b" not in out
    line, env = asked("--raw")
    shown = on_terminal(line, env)
    assert SHOWN.encode() in shown
    assert b"\x1b]0;" not in shown


def on_terminal(line: list[str], env: dict[str, str]) -> bytes:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        line, env=env, stdout=theirs, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the terminal is gone with its last writer
            break
        if not piece:
            break
        said += piece
    os.close(ours)
    assert process.wait(110) == 0
    return said
