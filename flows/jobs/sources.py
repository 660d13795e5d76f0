"""Files and diffs that a job reads."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tta_dev_primitives.config.errors import ConfigError


def read_text(path: Path, what: str, *, most: int = 10_000_000, mixed: bool = False) -> str:
    """A file's text.

    Args:
        what: What it is wanted for, for the message.
        most: Bytes that are read at most.
        mixed: Bytes that are not UTF-8 become a replacement character, as a patch of several files may hold.

    Raises:
        ConfigError: It is missing, empty, too large, no file, or not UTF-8.
    """
    try:
        data = path.read_bytes()
        if len(data) > most:
            raise ConfigError(f"{path}: {len(data):,} bytes; at most {most:,} are taken. Split it.")
        text = data.decode("utf-8", "replace" if mixed else "strict")
    except FileNotFoundError:
        raise ConfigError(f"{what} not found: {path}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}); convert it first.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if not text.strip():
        raise ConfigError(f"{path}: the file is empty; expected a {what.lower()}.")
    return text


_GIT_SECONDS = 60


def git_diff(repository: str, revisions: str) -> str:
    """What `git diff` says of a range.

    Raises:
        ConfigError: git is not there, or says that the repository or the range is wrong.
    """
    if revisions.startswith("-"):
        raise ConfigError(f"revisions: {revisions!r} is an option, not a range such as main..HEAD.")
    # A repository's own settings may name programs; none of them is run, and git sees no key of ours.
    filters = _git(
        repository, "config", "--local", "--includes", "-z", "--name-only", "--get-regexp", r"^filter\."
    )
    names = {
        name.rpartition(".")[0] for name in filters.stdout.decode("utf-8", "replace").split("\0") if name
    }
    off = [f"{name}.{kind}={'false' if kind == 'required' else ''}" for name in names for kind in _FILTER]
    settings = [word for setting in (*_NO_PROGRAMS, *off) for word in ("-c", setting)]
    diff = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", revisions, "--")
    try:
        run = _git(repository, *settings, *diff)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"git diff {revisions}: no end after {_GIT_SECONDS} s.") from None
    if run.returncode != 0:
        reason = run.stderr.decode("utf-8", "replace").strip().splitlines() or ["it gave no reason"]
        raise ConfigError(f"git diff {revisions} in {repository}: {reason[0].removeprefix('fatal: ')}")
    if not run.stdout.strip():
        raise ConfigError(f"git diff {revisions} in {repository}: nothing has changed there.")
    return run.stdout.decode("utf-8", "replace")


_NO_PROGRAMS = (f"core.hooksPath={os.devnull}", "core.fsmonitor=false", "protocol.allow=never")
_FILTER = ("clean", "process", "required")
_GIT_NEEDS = ("PATH", "HOME", "XDG_CONFIG_HOME", "TMPDIR")


def _git(repository: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {k: v for k, v in os.environ.items() if k in _GIT_NEEDS or k.startswith("GIT_")}
    environment |= {
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
    }
    try:
        return subprocess.run(  # noqa: S603 - a fixed program, its arguments as a list
            ["git", "-C", repository, *arguments],  # noqa: S607
            capture_output=True,
            timeout=_GIT_SECONDS,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        raise ConfigError("git is not installed; give a patch file instead.") from None
