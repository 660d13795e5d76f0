"""Files and diffs that a job reads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tta_dev_primitives.config.errors import ConfigError


def read_text(path: Path, what: str, *, most: int = 10_000_000, mixed: bool = False) -> str:
    """A file's text.

    Args:
        mixed: Bytes that are not UTF-8 become a replacement character, as a patch of several files may hold.

    Raises:
        ConfigError: It is missing, empty, too large, no file, or not UTF-8.
    """
    try:
        with path.open("rb") as file:  # a pipe is read, what has no end is not read to it
            data = file.read(most + 1)
        if len(data) > most:
            size = max(path.stat().st_size, len(data))
            raise ConfigError(f"{path}: {size:,} bytes; at most {most:,} are taken. Split it.")
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
_DIFF = ("--no-color", "--no-ext-diff", "--no-textconv", "--submodule=short", "--ignore-submodules=dirty")
# What is data in a git folder. `config` and `hooks` are not: they name programs.
_DATA = (
    *("HEAD", "ORIG_HEAD", "FETCH_HEAD", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "REBASE_HEAD"),
    *(
        "AUTO_MERGE",
        "index",
        "packed-refs",
        "shallow",
        "objects",
        "refs",
        "reftable",
        "logs/HEAD",
        "logs/refs",
    ),
    *("info/attributes", "info/grafts", "info/sparse-checkout"),
)
# Settings that say how files are read and what `@{upstream}` is.
_SETTINGS = re.compile(
    r"core\.(autocrlf|eol|filemode|symlinks|ignorecase|precomposeunicode|quotepath|checkstat|trustctime"
    r"|sparsecheckout|sparsecheckoutcone)|extensions\.(objectformat|refstorage)|push\.default|remote\.pushdefault"
    r"|branch\..+\.(remote|merge|pushremote)|remote\..+\.(fetch|push)",
    re.DOTALL,
)
_OWN_SETTINGS = (
    ("core.repositoryformatversion", "1"),
    ("core.hookspath", os.devnull),
    ("core.fsmonitor", "false"),
)
_GIT_NEEDS = ("PATH", "HOME", "XDG_CONFIG_HOME", "TMPDIR")
_GIT_CHOSEN = frozenset({"GIT_DIR", "GIT_WORK_TREE"})
_GIT_PLACES = ("DIR", "COMMON_DIR", "WORK_TREE", "INDEX_FILE", "OBJECT_DIRECTORY", "PREFIX", "NAMESPACE")


def git_diff(repository: str, revisions: str) -> str:
    """What `git diff` says of a range, without any program that the repository's settings name.

    Raises:
        ConfigError: git is not there, or says that the repository or the range is wrong.
    """
    if revisions.startswith("-"):
        raise ConfigError(f"revisions: {revisions!r} is an option, not a range such as main..HEAD.")
    try:
        with TemporaryDirectory(prefix="tta-git-") as own:
            places = _same_data(repository, Path(own))
            diff = _git(repository, *places, "diff", *_DIFF, revisions, "--")
    except FileNotFoundError:
        raise ConfigError("git is not installed; give a patch file instead.") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"git diff {revisions}: no end after {_GIT_SECONDS} s.") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode("utf-8", "replace").strip().splitlines() or ["it gave no reason"]
        reason = said[0].removeprefix("fatal: ")
        if reason.startswith("unable to read "):
            reason += f". Nothing is fetched here; run `git diff {revisions}` once yourself."
        raise ConfigError(f"git diff {revisions} in {repository}: {reason}") from None
    except OSError as error:
        raise ConfigError(f"git diff {revisions} in {repository}: {error}") from None
    if not diff.strip():
        raise ConfigError(f"git diff {revisions} in {repository}: nothing has changed there.")
    return diff.decode("utf-8", "replace")


def _same_data(repository: str, own: Path) -> list[str]:
    """Fill a git folder with the data of the repository and harmless settings; the options that select it."""
    names = [word for name in _DATA for word in ("--git-path", name)]
    asked = _git(repository, "rev-parse", "--path-format=absolute", *names, "--is-inside-work-tree")
    *found, inside = os.fsdecode(asked).split("\n")[:-1]
    if len(found) != len(_DATA):
        raise ConfigError(
            f"{repository}: the path holds a line break, or git is older than 2.31; give a patch file instead."
        )
    paths = [(Path(path), own / name) for path, name in zip(found, _DATA, strict=True)]
    paths += [(path, own / path.name) for path in paths[0][0].parent.glob("sharedindex.*")]
    for path, copy in paths:
        copy.parent.mkdir(exist_ok=True)
        if path.is_dir():
            copy.symlink_to(path)
        elif path.is_file():
            shutil.copy2(path, copy)  # git compares the time of the index with those of files
    listed = os.fsdecode(_git(repository, "config", "--list", "-z")).split("\0")[:-1]
    settings = [
        (key, value if equals else "true") for key, equals, value in (s.partition("\n") for s in listed)
    ]
    kept = [(key, value) for key, value in settings if _SETTINGS.fullmatch(key)]
    bare = ("core.bare", str(inside != "true").lower())
    text = "".join(_setting(key, value) for key, value in (*kept, *_OWN_SETTINGS, bare))
    (own / "config").write_bytes(os.fsencode(text))
    options = [f"--git-dir={own}"]
    top = None
    if inside == "true":
        top = Path(os.fsdecode(_git(repository, "rev-parse", "--show-toplevel")).removesuffix("\n"))
        options.append(f"--work-tree={top}")
    if not _GIT_CHOSEN & os.environ.keys():
        _refuse_elsewhere(repository, top, dict(settings))
    return options


def _refuse_elsewhere(repository: str, top: Path | None, settings: Mapping[str, str]) -> None:
    """Refuse a `.git` that shows files or data of another folder: a linked work tree or submodule is known there."""
    here = Path(repository).resolve()
    holder = next((f for f in (here, *here.parents) if os.path.lexists(f / ".git")), here)
    if top not in (None, holder):
        raise ConfigError(f"{repository}: core.worktree of its .git names {top}; give a patch file instead.")
    data = Path(os.fsdecode(_git(repository, "rev-parse", "--absolute-git-dir")).removesuffix("\n"))
    try:
        known = Path((data / "gitdir").read_text().strip()) == holder / ".git"
    except OSError:
        known = "core.worktree" in settings
    if not data.is_relative_to(holder) and not known:
        raise ConfigError(f"{repository}: its .git leads to {data}; run it there, or give a patch file.")


def _setting(key: str, value: str) -> str:
    """A setting as a git configuration file holds it."""
    section, _, rest = key.partition(".")
    part, _, name = rest.rpartition(".")
    return f"[{section}{' ' + _quoted(part) if part else ''}]\n{name} = {_quoted(value)}\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _git(repository: str, *arguments: str) -> bytes:
    """What git prints; it sees no key of ours, asks nothing and fetches nothing."""
    given = {k: v for k, v in os.environ.items() if k in _GIT_NEEDS or k.startswith("GIT_")}
    if arguments[0].startswith("--git-dir="):
        given = {k: v for k, v in given.items() if k.removeprefix("GIT_") not in _GIT_PLACES}
    fixed = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
    offline = {"GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
    return subprocess.run(  # noqa: S603 - a fixed program, its arguments as a list
        ["git", "-C", repository, *arguments],  # noqa: S607
        capture_output=True,
        timeout=_GIT_SECONDS,
        env=given | fixed | offline,
        stdin=subprocess.DEVNULL,
        check=True,
    ).stdout
