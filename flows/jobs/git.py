"""What git says of a range of revisions."""

from __future__ import annotations

import os
import subprocess

from tta_dev_primitives.config.errors import ConfigError

_GIT_SECONDS = 60


def git_diff(repository: str, revisions: str) -> str:
    """What `git diff` says of a range.

    Raises:
        ConfigError: git is not there, or says that the repository or the range is wrong.
    """
    if revisions.startswith("-"):
        raise ConfigError(f"revisions: {revisions!r} is an option, not a range such as main..HEAD.")
    command = [
        "git",
        "-C",
        repository,
        "diff",
        "--no-color",
        "--no-ext-diff",
        "--no-textconv",
        revisions,
        "--",
    ]
    environment = {**os.environ, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
    try:
        run = subprocess.run(  # noqa: S603 - a fixed program, its arguments as a list
            command, capture_output=True, timeout=_GIT_SECONDS, env=environment, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise ConfigError("git is not installed; give a patch file instead.") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"git diff {revisions}: no end after {_GIT_SECONDS} s.") from None
    if run.returncode != 0:
        reason = run.stderr.decode("utf-8", "replace").strip().splitlines() or ["it gave no reason"]
        raise ConfigError(f"git diff {revisions} in {repository}: {reason[0].removeprefix('fatal: ')}")
    if not run.stdout.strip():
        raise ConfigError(f"git diff {revisions} in {repository}: nothing has changed there.")
    return run.stdout.decode("utf-8", "replace")
