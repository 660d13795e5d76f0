"""Settings of Prefect that came with the working folder: some of them run code, so none is taken without trust."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tta_dev_primitives.blocks.prefect_server.folder_settings import folder_settings
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.template import ignore_in_git
from tta_dev_primitives.flows.jobs.modules import read_modules
from tta_dev_primitives.flows.jobs.sources import git_diff

CONFIG = """orchestration:
  orchestrator: {model: claude-sonnet-5-5, api_key_env: K_ONE}
  executors: []
  fallback_strategy: {models: []}
"""
LOGGING = """version: 1
handlers: {x: {(): subprocess.Popen, args: "env > PWNED", shell: true}}
loggers: {prefect: {handlers: [x]}}
"""


def tta(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`tta` as a user runs it there, with a home of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TTA_", "PYTEST_"))}
    own = {
        "HOME": str(folder.parent / "home"),
        "TTA_HOME": str(folder.parent / "tta"),
        "K_ONE": "sk-canary-77",
    }
    (folder.parent / "home").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "tta_dev_primitives", *arguments],
        cwd=folder,
        env=kept | own | variables,
        capture_output=True,
        text=True,
        timeout=110,
    )


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (".env", "PREFECT_LOGGING_SETTINGS_PATH=logging.yml\n", "PREFECT_LOGGING_SETTINGS_PATH"),
        (".env", "prefect_api_url=http://127.0.0.1:9/api\n", "prefect_api_url"),
        ("prefect.toml", '[logging]\nconfig_path = "logging.yml"\n', "logging"),
        ("pyproject.toml", '[tool.prefect.logging]\nconfig_path = "logging.yml"\n', "logging"),
        ("prefect.toml", 'logging = {config_path = "logging.yml"}\r', "logging"),
        (
            ".env",
            "PREFECT_API_URL=http://127.0.0.1:9/api\nPREFECT_API_\u212aEY=${K_ONE}\n",
            "PREFECT_API_\u212aEY",
        ),
        (
            "prefect.toml",
            '[api]\nurl = "http://127.0.0.1:9/api"\ntls_insecure_skip_verify = true\n',
            "api.tls",
        ),
    ],
)
def test_a_folders_prefect_settings_run_nothing_without_trust(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    """The refusal names file and setting; nothing ran, also with a configuration that the user chose himself."""
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / name).write_text(text, newline="")
    (folder / name).chmod(0o600)
    (folder / "logging.yml").write_text(LOGGING)
    (tmp_path / "own.yaml").write_text(CONFIG)
    ended = tta(folder, "run", "hello", "-u", "simple", "--config", str(tmp_path / "own.yaml"))
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert "tta trust" in ended.stderr
    assert not (folder / "PWNED").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prefect.toml", '[logging]\nlevel = "DEBUG"\n'),
        ("logging.yml", LOGGING),
        ("my handlers.ini", "x = 1"),
    ],
)
def test_trust_is_given_once_and_ends_with_a_change(name: str, text: str, tmp_path: Path) -> None:
    """`tta trust` lists the file; another setting needs trust anew, and another text of a file that it names."""
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "prefect.toml").write_text('[logging]\nlevel = "INFO"\nconfig_path = "logging.yml"\n')
    (folder / "logging.yml").write_text("version: 1\nsee: 'my handlers.ini'")
    (folder / "my handlers.ini").write_text("")
    listed = tta(folder, "trust", "--json")
    assert json.loads(listed.stdout)["trusted"] == [str(folder / "prefect.toml")]
    look = "from tta_dev_primitives.blocks.prefect_server.folder_settings import refuse_folder_settings as r; r()"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "TTA_HOME": str(tmp_path / "tta")}
    ask = [sys.executable, "-c", look]
    assert subprocess.run(ask, cwd=folder, env=env, capture_output=True).returncode == 0
    (folder / name).write_text(text)
    refused = subprocess.run(ask, cwd=folder, env=env, capture_output=True, text=True)
    assert "is not trusted" in refused.stderr


@pytest.mark.parametrize("name", ["prefect.toml", "pyproject.toml", ".env"])
def test_a_pipe_or_an_endless_file_is_not_read(name: str, tmp_path: Path) -> None:
    """What Prefect would wait for needs trust."""
    os.mkfifo(tmp_path / name)
    said = [setting for _, found in folder_settings(tmp_path) for setting in found]
    assert said == ([] if name == ".env" else ["text that is no TOML"])
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    assert [setting for _, found in folder_settings(tmp_path) for setting in found] == said


def test_lines_that_keep_a_parser_busy_are_no_settings(tmp_path: Path) -> None:
    """The parser of `.env` would take a minute, and that of TOML all memory."""
    (tmp_path / ".env").write_text(f"A=b{' ' * 250_000}\0")
    (tmp_path / ".env").chmod(0o600)
    with pytest.raises(ConfigError, match="250,000 blanks in a row"):
        list(folder_settings(tmp_path))
    (tmp_path / ".env").unlink()
    (tmp_path / "prefect.toml").write_text(f"a{'.a' * 2_000}=1\n")  # a hundred times as long takes 40 GB
    assert [list(found) for _, found in folder_settings(tmp_path)] == [["text that is no TOML"]]


def test_a_hostile_package_is_no_trap_for_the_jobs(tmp_path: Path) -> None:
    """A pipe or a link to a device is no module; a file without end or too deep is refused in one line."""
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "zero.py").symlink_to("/dev/zero")
    (tmp_path / "good.py").write_text("def f(): ...\n")
    assert [module.name for module in read_modules([tmp_path])] == ["good"]
    for text in ("x = " + "-" * 100_000 + "1", "x = a" + ".b" * 100_000):
        (tmp_path / "deep.py").write_text(text)
        with pytest.raises(ConfigError, match="not Python"):
            read_modules([tmp_path])
    os.truncate(tmp_path / "deep.py", 20_000_000_000)
    with pytest.raises(ConfigError, match="20,000,000,000 bytes"):
        read_modules([tmp_path])


def test_a_repository_shows_no_files_of_other_folders(tmp_path: Path) -> None:
    """`core.worktree` of an unpacked folder would put a file of the user's into the prompt."""
    folder = tmp_path / "clone"
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    (folder / "creds").write_text("a\n")
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "a"], check=True)
    (tmp_path / "creds").write_text("secret\n")
    subprocess.run([*git, "config", "core.worktree", str(tmp_path)], check=True)
    with pytest.raises(ConfigError, match=r"core\.worktree"):
        git_diff(str(folder), "HEAD")
    subprocess.run([*git, "config", "--unset", "core.worktree"], check=True)
    (folder / "creds").unlink()
    assert "-a" in git_diff(str(folder), "HEAD")
    other = tmp_path / "other"
    other.mkdir()
    (other / ".git").write_text(f"gitdir: {folder / '.git'}\n")
    with pytest.raises(ConfigError, match=r"its \.git leads to"):
        git_diff(str(other), "HEAD")
    (other / ".git").unlink()
    (other / ".git").symlink_to(folder / ".git")
    with pytest.raises(ConfigError, match=r"its \.git leads to"):
        git_diff(str(other), "HEAD")
    subprocess.run([*git, "worktree", "add", "-q", str(tmp_path / "linked")], check=True)
    (tmp_path / "linked" / "creds").write_text("b\n")
    assert "+b" in git_diff(str(tmp_path / "linked"), "HEAD")


EVIL = "sh -c 'echo > {0}/PWNED; cat'"


@pytest.mark.parametrize(
    ("attribute", "settings", "file"),
    [
        ("", {"core.fsmonitor": EVIL}, "config"),
        ("", {"core.hooksPath": "{0}/hooks"}, "config"),
        ("", {"diff.external": EVIL}, "config"),
        ("diff=evil", {"diff.evil.textconv": EVIL}, "config"),
        ("diff=evil", {"diff.evil.command": EVIL}, "config"),
        ("filter=e.one", {"filter.e.one.clean": EVIL, "filter.e.one.required": "true"}, "config"),
        ("filter=a=b", {"filter.a=b.clean": EVIL}, "config"),
        ("filter=e", {"filter.e.process": EVIL, "filter.e.required": "true"}, "config"),
        ("filter=e", {"filter.e.clean": EVIL}, "config.worktree"),
        ("filter=e", {"filter.e.clean": EVIL}, "included"),
        ("filter=e", {"filter.e.clean": EVIL}, "../sub/.git/config"),
        (
            "missing",
            {
                "extensions.partialClone": "o",
                "remote.o.promisor": "true",
                "remote.o.url": "/x",
                "protocol.file.allow": "always",
                "remote.o.uploadpack": "echo > {0}/PWNED; exit 1;",
            },
            "config",
        ),
    ],
)
def test_a_repositorys_settings_run_no_program(
    attribute: str, settings: dict[str, str], file: str, tmp_path: Path
) -> None:
    """The settings of an unpacked folder may name programs for a plain `git diff`, in each file that git reads."""

    def git(*arguments: str, folder: Path = tmp_path) -> str:
        own = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(folder), *own, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    for folder in (tmp_path / "sub", tmp_path):
        folder.mkdir(exist_ok=True)
        git("init", folder=folder)
        (folder / "a.txt").write_text("a\n")
        (folder / ".gitattributes").write_text(f"a.txt {attribute}\n")
        git("add", "-A", folder=folder)
        git("commit", "-m", "a", folder=folder)
    hook = tmp_path / "hooks" / "post-index-change"
    hook.parent.mkdir()
    hook.write_text(f"#!/bin/sh\necho > {tmp_path}/PWNED\n")
    hook.chmod(0o755)
    git("config", "extensions.worktreeConfig", "true")
    git("config", "include.path", "included")
    for name, value in settings.items():
        git("config", "--file", str(tmp_path / ".git" / file), name, value.format(tmp_path))
    for changed in (tmp_path / "sub" / "a.txt", tmp_path / "a.txt"):
        changed.write_text("b\n")
    if attribute == "missing":
        blob = git("rev-parse", "HEAD:a.txt")
        (tmp_path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
        with pytest.raises(ConfigError, match=f"{blob}. Nothing is fetched"):
            git_diff(str(tmp_path), "HEAD")
    else:
        os.utime(tmp_path / ".gitattributes", (1, 1))  # git refreshes the index, which runs a hook
        assert "+b" in git_diff(str(tmp_path), "HEAD")
    assert not (tmp_path / "PWNED").exists()
    subprocess.run(["git", "-C", str(tmp_path), "diff", "HEAD"], check=False, capture_output=True)
    assert (tmp_path / "PWNED").exists(), "git by itself runs them"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, ".env\n"),
        ("*.pyc", "*.pyc\n.env\n"),
        ("/.env\n", "/.env\n"),
        (".env\n!.env\n", ".env\n!.env\n.env\n"),
        ("!.env\n.env*\n", "!.env\n.env*\n"),
    ],
)
def test_keys_are_kept_out_of_git(
    before: str | None, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a later rule takes `.env` in again."""
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    if before is not None:
        Path(".gitignore").write_text(before)
    ignore_in_git(".env")
    ignore_in_git(".env")
    assert Path(".gitignore").read_text() == after


def test_a_linked_gitignore_is_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cloned folder chooses no file of the user's that is appended to."""
    (tmp_path / "clone" / ".git").mkdir(parents=True)
    (tmp_path / ".bashrc").write_text("# mine\n")
    monkeypatch.chdir(tmp_path / "clone")
    Path(".gitignore").symlink_to("../.bashrc")
    with pytest.raises(ConfigError, match=r"symbolic links\. Add \.env to it"):
        ignore_in_git(".env")
    assert (tmp_path / ".bashrc").read_text() == "# mine\n"
