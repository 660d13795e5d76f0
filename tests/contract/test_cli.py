"""The command line as a person meets it: what a mistake says, and with which exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from pydantic_core import SchemaError
from tta_command import tta_command

from tta_dev_primitives.cli import _report
from tta_dev_primitives.config import load_orchestration_config

CTRL_C, CTRL_D = b"\x03", b"\x04"
TTA = [sys.executable, "-m", "tta_dev_primitives"]
KEYS = ("ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GROQ_API_KEY", "OPENROUTER_API_KEY")


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment without keys or settings, whose home is `home`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TTA_", "PREFECT_")) and k not in KEYS}
    return {**kept, "HOME": str(home), "TTA_HOME": str(home / ".tta"), "COLUMNS": "120", **more}


def tta(*arguments: str, folder: Path, stdin: bytes = b"", **more: str) -> subprocess.CompletedProcess[str]:
    """Run one command in `folder`, which is also its home."""
    return tta_command([*arguments], folder, environment(folder, **more), stdin)


FILES = {
    "empty.yaml": b"",
    "bad.yaml": b"orchestration: [",
    "near.yaml": b"orchestration:\n  qualty_threshold: 0.9\n",
    "latin.yaml": b"orchestration: {}\n# caf\xe9\n",
    "big.yaml": b"#" * 300_000,
    "type.yaml": b"orchestration:\n  quality_threshold: high\n",
    "bad.py": b"def (:\n",
    "no.diff": b"just words\n",
    "raises.py": b"raise RuntimeError('boom')\n",
    "ends.py": b"raise SystemExit(3)\n",
    "tasks.jsonl": b'{"id": "1", "task": "a"}\n',
    "cut.jsonl": b'{"id": "1", "task": "a"\n',
}
MISTAKES = [
    ("rnu hi", "unknown command 'rnu'. Did you mean `tta run`?"),
    ("help run", "unknown command 'help'. Did you mean `tta --help`?"),
    ("ledger shwo", "unknown command 'ledger shwo'. Did you mean `tta ledger show`?"),
    ("run --jsno hi", "Unknown option: --jsno. Did you mean --json?"),
    ("run", "tta: TEXT requires a value. See `tta run --help`."),
    ("ledger reconcile", "See `tta ledger reconcile --help`."),
    ("--verison", "unknown option '--verison'. Did you mean `tta --version`?"),
    ("bulk tasks.jsonl -o x --concurrency many", 'Invalid value for --concurrency: "many" is no whole number. See'),
    ("init a b", "too many words, from 'b' on. See `tta init --help`."),
    ("bulk nowhere.jsonl", "tta: --out requires a value. See `tta bulk --help`."),
    ("bulk tasks.jsonl -o results.parquet", "results.parquet: results are written as JSONL or CSV"),
    ("run hi there", "too many words, from 'there' on. Put a text of several words in quotes."),
    ("run hi -c empty.yaml", "empty.yaml:1: the file is empty"),
    ("run hi -c bad.yaml", "bad.yaml:2: not valid YAML"),
    ("run hi -c near.yaml", "near.yaml:2: orchestration.qualty_threshold: unknown key; did you mean"),
    ("run hi -c latin.yaml", "latin.yaml:2: not UTF-8"),
    ("run hi -c big.yaml", "300,000 bytes; at most"),
    ("run hi -c type.yaml", "type.yaml:2: orchestration.quality_threshold: found 'high', expected a number"),
    ("run hi -c nowhere.yaml", "Configuration file not found: nowhere.yaml"),
    ("run hi --schema bad:Model", "bad:Model: the module cannot be imported: SyntaxError: invalid syntax (bad.py"),
    ("run hi --schema raises:Model", "raises:Model: the module cannot be imported: RuntimeError: boom."),
    ("run hi --schema ends:Model", "ends:Model: the module cannot be imported: SystemExit: 3."),
    ("run hi --schema :Model", ":Model: the module cannot be imported: ValueError: Empty module name."),
    ("run hi --schema json:Model", "json:Model: the module has no Model."),
    ("run hi --use-case hard", "use_case: 'hard' is unknown. Must be one of: simple,"),
    ("ledger show --month 2026-13", "expected YYYY-MM"),
    ("models --provider aws", "Must be one of: anthropic,"),
    ("sandbox --port 99999", "ports are 0 to 65535"),
    ("init .", "is a folder; give the name of a file"),
    ("init near.yaml", "near.yaml:2: orchestration.qualty_threshold: unknown key; did you mean"),
    ("init latin.yaml", "latin.yaml:2: not UTF-8"),
    ("init bad.yaml", "bad.yaml:2: not valid YAML"),
    ("job document nowhere.py", "Python module not found: nowhere.py"),
    ("job tests bad.py", "bad.py:1: not Python"),
    ("job review no.diff", "expected a unified diff"),
    ("estimate nowhere.jsonl", "nowhere.jsonl: No such file or directory"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "said"), MISTAKES)
def test_a_mistake_is_one_clear_line_and_exit_code_2(line: str, said: str, tmp_path: Path) -> None:
    """What is wrong and what to do, on stderr, without a traceback; and nothing is written."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    done = tta(*line.split(), folder=tmp_path)
    assert said in done.stderr
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert {p.name for p in tmp_path.iterdir()} <= {*FILES, ".tta", "__pycache__"}


ADDRESSES = [
    ("run hi", "PREFECT_API_URL", "http://u:geheim@127.0.0.1:99999/api", 2, "not an http(s) address"),
    ("check", "PREFECT_API_URL", "http://u:geheim@[::1/api", 1, "not an http(s) address"),
    ("deploy", "PREFECT_API_URL", "http://u:geheim@127.0.0.1:9/api", 1, "does not answer"),
    ("report", "TTA_LEDGER_URL", "mysql://u:geheim@db/x", 2, "sqlite:///path or postgresql://"),
    (
        "report",
        "TTA_LEDGER_URL",
        "postgresql://u:geheim@[::1/x",
        2,
        "postgresql://user:password@host:5432/name",
    ),
    ("report", "TTA_LEDGER_URL", "postgresql://u:geheim@127.0.0.1:9/x", 1, "127.0.0.1:9/x"),
]


@pytest.mark.parametrize(("line", "variable", "address", "code", "said"), ADDRESSES)
def test_an_address_written_wrong_is_a_mistake_and_one_that_is_down_is_a_failure(
    line: str, variable: str, address: str, code: int, said: str, tmp_path: Path
) -> None:
    """Exit code 2 or 1, the remedy, and no password; `tta check` has 1 for everything it finds."""
    done = tta(*line.split(), folder=tmp_path, **{variable: address})
    assert done.returncode == code, done.stderr
    shown = done.stdout + done.stderr
    assert said in " ".join(shown.split())
    assert "Traceback" not in shown
    assert "geheim" not in shown


@pytest.mark.parametrize(
    ("stdin", "said"),
    [
        (b"  \n", "task: it is empty"),
        (b"x" * 1_000_000, "1,000,000 bytes is more than the 400,000"),
        (b"\xff\xfe", "standard input: not UTF-8"),
    ],
)
def test_a_task_from_standard_input_is_looked_at_first(stdin: bytes, said: str, tmp_path: Path) -> None:
    """`-` reads the task; an empty, oversized or undecodable one is refused before anything is started."""
    done = tta("run", "-", "--json", folder=tmp_path, stdin=stdin)
    assert said in done.stderr
    assert done.returncode == 2


def test_a_home_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """The folder and the variable to set, no traceback."""
    (tmp_path / "file").write_text("")
    done = tta("run", "hi", folder=tmp_path, TTA_HOME=str(tmp_path / "file" / "x"), GROQ_API_KEY="gsk-test")
    assert re.fullmatch(
        r"tta: .*/file(/x)?: cannot .*Set TTA_HOME to a folder that you can write\.\n", done.stderr
    )
    assert done.returncode == 1


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    """An override that cannot be read stops before anything else."""
    done = tta("ledger", "show", folder=tmp_path, TTA_BUDGET_LIMIT_USD="lots")
    assert done.stderr.startswith("tta: TTA_BUDGET_LIMIT_USD: found 'lots'")
    assert done.returncode == 2


def test_check_fails_with_1_and_one_json_document(tmp_path: Path) -> None:
    """A configuration that cannot run is a failed check, also for programs."""
    (tmp_path / "c.yaml").write_bytes(FILES["near.yaml"])
    done = tta("check", "--config", "c.yaml", "--json", folder=tmp_path)
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["checks"][0]["level"]) == (1, False, "fail")


@pytest.mark.parametrize(
    ("base_url", "level", "said"),
    [
        ("https://2130706433", "fail", "write the address 2130706433 in its plain form, 127.0.0.1"),
        ("https://[fec0::1]", "fail", "fec0::1 is a loopback or private address"),
        (
            "https://proxy.example",
            "warn",
            "the key in GROQ_API_KEY is sent to proxy.example, not to groq's own",
        ),
    ],
)
def test_check_tells_where_a_key_may_not_go_or_goes(
    base_url: str, level: str, said: str, tmp_path: Path
) -> None:
    """What a run would refuse fails; a provider's key that goes to another address is pointed out."""
    model = "{model: m, provider: groq, api_key_env: GROQ_API_KEY, use_cases: [simple], base_url: '%s'}"
    (tmp_path / "c.yaml").write_text(f"orchestration:\n  executors: [{model % base_url}]\n", encoding="utf-8")
    done = tta("check", "--config", "c.yaml", "--json", folder=tmp_path)
    found = [line for line in json.loads(done.stdout)["checks"] if said in line["message"]]
    assert [(line["subject"], line["level"]) for line in found] == [("m", level)]


@pytest.mark.parametrize(
    "line", ["run --json", "rnu --json", "run --jsno --json hi", "run hi -c no.yaml --json"]
)
def test_a_mistake_is_one_json_document_too(line: str, tmp_path: Path) -> None:
    """With `--json` a program reads from stdout what a person reads on stderr."""
    done = tta(*line.split(), folder=tmp_path)
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit"]) == (2, 2)
    assert done.stderr == f"tta: {told['error']['message']}\n"


def test_names_are_shown_as_they_are_written(tmp_path: Path) -> None:
    """`:free` is no emoji and a bracket is no style, in lines and in tables."""
    url = "http://127.0.0.1:9/v1"
    server = f"provider: openai-compatible, base_url: '{url}', api_key_env: K"
    odd = f"{{model: '[/x]:free:', {server}, use_cases: [simple]}}"
    (tmp_path / "odd.yaml").write_text(f"orchestration:\n  executors:\n    - {odd}\n")
    assert (
        "required for [/x]:free: at openai-compatible"
        in tta("check", "-c", "odd.yaml", folder=tmp_path).stdout
    )
    assert "openai/gpt-oss-120b:free" in tta("models", folder=tmp_path, COLUMNS="250").stdout


def test_help_needs_no_prefect(tmp_path: Path) -> None:
    """`tta --help` lists every command without importing Prefect, httpx or the flows."""
    code = (
        "import sys; from tta_dev_primitives.cli import app; app(['--help'], exit_on_error=False);"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('prefect', 'httpx', 'pydantic')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=110, env=environment(tmp_path)
    )
    assert done.stdout.rstrip().endswith("[]")
    for command in ("init", "check", "run", "bulk", "estimate", "report", "job", "sandbox", "demo"):
        assert re.search(rf"^│ {command} ", done.stdout, re.M)


def test_a_pipe_gets_plain_text(tmp_path: Path) -> None:
    """No control codes without a terminal, and with NO_COLOR no colours on one."""
    assert "\x1b" not in tta("models", folder=tmp_path, COLUMNS="250").stdout
    forced = tta("models", folder=tmp_path, NO_COLOR="1", TTY_COMPATIBLE="1").stdout
    assert set(re.findall(r"\x1b\[([\d;]*)m", forced)) <= {"0", "1", "2", "3"}


@pytest.mark.parametrize("width", ["50", "60", "80", "120", ""])
def test_tables_never_break_a_name_or_a_figure(width: str, tmp_path: Path) -> None:
    """On any width, and in a pipe: a table that does not fit becomes one record a row."""
    shown = tta("models", "--provider", "openrouter", folder=tmp_path, COLUMNS=width).stdout
    models = json.loads(tta("models", "--provider", "openrouter", "--json", folder=tmp_path).stdout)["models"]
    words = shown.split()
    assert all(word in words for m in models for word in (m["model"], m["input"], m["output"]))
    assert width == "" or max(map(len, shown.splitlines()[:-1])) <= int(width)


FULL = "tta: the output cannot be written: No space left on device.\n"


@pytest.mark.parametrize(
    ("line", "code", "shown", "said"),
    [
        ("models --json | head -1", 0, "{\n", ""),
        ("models | true", 0, "", ""),
        ("report 2>&1 | true", 0, "", ""),
        ("models --json > /dev/full", 1, "", FULL),
        ("models > /dev/full", 1, "", FULL),
        ("models >&-", 0, "", ""),
        ("models --json <&- >&-", 0, "", ""),
        ("rnu 2>&-", 2, "", ""),
        ("rnu 2> /dev/full", 2, "", ""),
    ],
)
def test_output_without_a_reader(line: str, code: int, shown: str, said: str, tmp_path: Path) -> None:
    """A reader that leaves is no error, nor a closed stream; a full disk is one, in one line."""
    if "/dev/full" in line and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    shell = ["bash", "-o", "pipefail", "-c", f"{' '.join(TTA)} {line}"]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=110, env=environment(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (code, shown, said)


def test_init_asks_nothing_without_a_terminal(tmp_path: Path) -> None:
    """The file and `.env.example` are written, a second run changes nothing, and each says what comes next."""
    first = tta("init", folder=tmp_path)
    assert "Next: cp .env.example .env && chmod 600 .env" in first.stderr
    path = tmp_path / ".tta" / "orchestration-config.yaml"
    config = load_orchestration_config(path, use_env_overrides=False)
    assert len(config.executors) == 3
    named = (tmp_path / ".env.example").read_text().splitlines()[1:]
    assert sorted(named) == sorted(f"{key}=" for key in KEYS)
    path.write_text(path.read_text() + "# mine\n")
    (tmp_path / ".env").write_text("GROQ_API_KEY=gsk-1\n")
    again = json.loads(tta("init", "--json", folder=tmp_path).stdout)
    assert again["next"][0] == "add GOOGLE_API_KEY, OPENROUTER_API_KEY, ANTHROPIC_API_KEY to .env"
    assert set(again["written"].values()) == {False}
    assert path.read_text().endswith("# mine\n")


@pytest.mark.parametrize("scenario", ["balanced", "cost-optimized", "quality-optimized"])
def test_init_writes_each_scenario(scenario: str, tmp_path: Path) -> None:
    """Each of the guide's scenarios, with models that are served today, under a name of one's own."""
    done = tta("init", "my own.yaml", "--scenario", scenario, folder=tmp_path)
    assert "tta check --config 'my own.yaml'" in done.stderr
    assert "executors" in yaml.safe_load((tmp_path / "my own.yaml").read_text())["orchestration"]


def test_init_asks_which_keys_and_which_scenario(tmp_path: Path) -> None:
    """On a terminal: the scenario, then one question a provider whose key is not set; only those models are written."""
    out, code = on_a_terminal(
        ["init"], [b"2\n", b"n\n", b"y\n", b"n\n"], tmp_path, GROQ_API_KEY="gsk-set-already"
    )
    assert code == 0, out
    assert "GROQ_API_KEY is set" in out
    assert ".env: written, readable by you only" in out
    assert "One key is enough: models without a key are passed over." in out
    assert "Next: add GOOGLE_API_KEY to .env" in out
    config = load_orchestration_config(tmp_path / ".tta/orchestration-config.yaml", use_env_overrides=False)
    assert config.quality_threshold == 0.75
    assert [e.api_key_env for e in config.executors] == ["GOOGLE_API_KEY"]
    assert config.fallback_strategy.models == ["gemini-3.8-flash", "openai/gpt-oss-120b"]
    assert "gsk-set" not in out


def test_every_stored_answer_is_deleted_only_after_a_question(tmp_path: Path) -> None:
    """On a terminal, where no age is given; the answers cost money. Programs are not asked."""
    for answer, said, code in ((b"n\n", "paid again", 1), (b"y\n", "0 stored answers deleted", 0)):
        shown, ended = on_a_terminal(["answers", "--delete"], [answer], tmp_path)
        assert said in shown
        assert ended == code
    assert "0 stored answers deleted" in tta("answers", "--delete", folder=tmp_path).stdout


def test_init_lists_the_models_of_a_server_of_ones_own(tmp_path: Path) -> None:
    """Its address is asked for, its first models are listed, and the written file and folder bring no warning."""
    (tmp_path / ".git").mkdir()
    with model_server(["qwen3:8b", "gemma3:4b", *(f"m{number}" for number in range(30))]) as port:
        # The first address is wrong: the next question takes another one. No model's name holds blanks.
        answers = [
            b"6\n",
            b"127.0.0.1:9\n",
            b"no name\n",
            f"http://127.0.0.1:{port}\n".encode(),
            b"qwen3:8b\n",
        ]
        out, code = on_a_terminal(["init"], answers, tmp_path)
        assert code == 0, out
        assert "1 gemma3:4b" in out
        assert "... and 2 more: type the name of one" in out
        assert "Keys to set" not in out
        assert "\x1b[1m" not in out
        checked = json.loads(tta("check", "--live", "--json", folder=tmp_path).stdout)
    assert [line for line in checked["checks"] if line["level"] != "ok"] == []
    config = load_orchestration_config(tmp_path / ".tta/orchestration-config.yaml", use_env_overrides=False)
    (executor,) = config.executors
    assert (executor.model, executor.base_url) == ("qwen3:8b", f"http://127.0.0.1:{port}/v1")
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / ".gitignore").read_text() == ".env\n"


def test_init_offers_presets(tmp_path: Path) -> None:
    """One question for the name, one for the plan where it is not certain, one for the model."""
    answers = [b"n\n"] * 4 + [b"5\n", b"cerebras\n", b"paid\n", b"llama 4\n", b"llama-4\n"]
    out, code = on_a_terminal(["init"], answers, tmp_path)
    assert code == 0, out
    config = load_orchestration_config(tmp_path / ".tta/orchestration-config.yaml", use_env_overrides=False)
    (executor,) = config.executors
    said = (executor.model, executor.provider, executor.billing, executor.api_key_env)
    assert said == ("llama-4", "cerebras", "paid", "CEREBRAS_API_KEY")


@contextmanager
def model_server(names: list[str]) -> Iterator[int]:
    """A server on loopback that lists models as OpenAI does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"data": [{"id": name} for name in names]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("last", "said", "wanted"), [(CTRL_C, "tta: Interrupted.", 130), (CTRL_D, "--yes", 2)]
)
def test_leaving_at_a_prompt_says_so_and_writes_nothing(
    last: bytes, said: str, wanted: int, tmp_path: Path
) -> None:
    """Ctrl-C and Ctrl-D: one line, no traceback, no half-made configuration."""
    out, code = on_a_terminal(["init"], [b"y\n", last], tmp_path)
    assert code == wanted, out
    assert said in out
    assert "Traceback" not in out
    assert list(tmp_path.iterdir()) == []


def on_a_terminal(arguments: list[str], answers: list[bytes], folder: Path, **more: str) -> tuple[str, int]:
    """Run a command on a pseudo-terminal, give the next answer at each prompt; what it showed, and its exit code."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*TTA, *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=folder,
        env=environment(folder, NO_COLOR="1", **more),
    ) as process:
        os.close(follower)
        shown, seen, last, end = b"", 0, b"", time.monotonic() + 110
        while time.monotonic() < end:
            if not select.select([leader], [], [], 1)[0]:
                if last == CTRL_C:
                    # Python misses a signal that comes just before it begins to wait; a person presses again.
                    process.send_signal(signal.SIGINT)
                continue
            try:
                piece = os.read(leader, 4096)
            except OSError:  # the other end has closed
                break
            shown += piece
            if answers and re.search(rb"[\])m]: $", shown[seen:]):
                seen = len(shown)
                answer = last = answers.pop(0)
                if answer == CTRL_C:  # the pseudo-terminal is not the one that controls the process
                    process.send_signal(signal.SIGINT)
                else:
                    os.write(leader, answer)
        else:
            process.kill()
        code = process.wait(timeout=110)
    os.close(leader)
    return shown.decode(), code


def test_what_prefect_cannot_send_at_the_end_costs_no_output(tmp_path: Path) -> None:
    """A thread that waits for a dead API keeps the process: it is left, and the answer in the pipe's buffer is not."""
    code = (
        "import sys, threading; from tta_dev_primitives import __main__ as start; start._PATIENCE_S = 0.2; "
        "threading.Thread(target=threading.Event().wait).start(); sys.argv = ['tta', '--version']; start.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(tmp_path), timeout=110
    )
    assert (done.returncode, done.stdout.startswith("tta ")) == (0, True)
    assert done.stderr == "tta: what Prefect's API did not take within 0.2 s is dropped.\n"


def test_ctrl_c_that_a_library_wraps_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """Pydantic does so while it builds a model, during an import."""
    wrapped = SchemaError("Error building `literal` serializer:\n  KeyboardInterrupt: ")
    assert _report(wrapped, as_json=False) == 130
    assert capsys.readouterr().err == "tta: Interrupted.\n"


def test_a_folder_that_is_gone_or_not_utf8_is_said_in_one_line(tmp_path: Path) -> None:
    """Prefect's API and the ledger take UTF-8 only; a deleted working folder has no name at all."""
    latin = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(latin)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    line = " ".join(TTA)
    for command, said in (
        (b"cd " + latin + f" && {line} run hi".encode(), "it is not UTF-8. Convert the text, or rename"),
        (f"{line} bulk caf".encode() + b"\xe9.jsonl --out x", "it is not UTF-8. Convert the text, or rename"),
        (f"mkdir gone; cd gone; rmdir ../gone; {line} run hi".encode(), "tta: the working folder is gone."),
    ):
        shell = [b"bash", b"-c", command]
        done = subprocess.run(
            shell, capture_output=True, text=True, cwd=tmp_path, env=environment(tmp_path), timeout=110
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_command_sends_prefect_no_usage_data(tmp_path: Path) -> None:
    """Prefect reports its first import, with a notice on a terminal, unless the variable is set before."""
    code = "import atexit, os, sys; atexit.register(lambda: print(os.environ['DO_NOT_TRACK'])); "
    code += "from tta_dev_primitives.__main__ import main; sys.argv = ['tta', '--version']; main()"
    clean = {name: value for name, value in environment(tmp_path).items() if name != "DO_NOT_TRACK"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean, timeout=110
    )
    assert done.stdout.splitlines()[1:] == ["1"]


def test_completion_can_be_installed(tmp_path: Path) -> None:
    """`tta --install-completion` writes a script that the shell can read and that knows the commands."""
    done = tta("--install-completion", "--shell", "bash", "--output", "tta.bash", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    subprocess.run(["bash", "-n", str(tmp_path / "tta.bash")], check=True, timeout=110)
    script = (tmp_path / "tta.bash").read_text()
    assert all(command in script for command in ("estimate", "review", "reconcile"))


def test_the_name_of_a_file_is_no_task(tmp_path: Path) -> None:
    """`tta run letter.txt` would ask about the name and pay for it."""
    (tmp_path / "a letter.txt").write_text("Dear ...")
    done = tta("run", "a letter.txt", folder=tmp_path)
    assert done.returncode == 2
    assert "Did you mean the text of this file? Use -: tta run - < 'a letter.txt'" in done.stderr


def test_the_report_of_the_last_month_and_the_broken_lines_of_an_estimate(tmp_path: Path) -> None:
    """`last` is the month before this one; an estimate names each line that it does not count."""
    assert json.loads(tta("report", "--month", "last", "--json", folder=tmp_path).stdout)["month"]
    (tmp_path / "t.jsonl").write_text('{"id": "1", "task": "hi"}\n{"id": "2", "task": ""}\n')
    assert "line 2: task: it is empty" in tta("estimate", "t.jsonl", folder=tmp_path).stdout


@pytest.mark.parametrize("line", ["run hi", "bulk one.jsonl --out out.jsonl", "job document --example"])
def test_without_any_key_no_server_is_started(line: str, tmp_path: Path) -> None:
    """The answer names the variables once, and the three ways on; nothing is left in the home folder."""
    (tmp_path / "one.jsonl").write_text('{"id": "1", "task": "hi"}\n')
    done = tta(*line.split(), folder=tmp_path)
    assert done.returncode == 2
    assert all(way in done.stderr for way in ("`tta init`", "`tta sandbox`", "`tta demo`"))
    assert done.stderr.count("API key not found") == 1
    assert {p.name for p in tmp_path.rglob("*")} <= {"one.jsonl", ".tta"}
