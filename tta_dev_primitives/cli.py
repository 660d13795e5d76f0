"""The command line `tta`. Commands are imported when they are called, so that `tta --help` stays instant."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError, UnknownCommandError, UnusedCliTokensError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_BUDGET, EXIT_MODELS = 0, 1, 2, 3, 4
EXIT_INTERRUPTED = 130

_RESUMED = (["run"], ["bulk"], ["job"])
"""Commands whose answers outlive an interruption."""
_STORED = (*_RESUMED, ["deploy"], ["ledger"])
"""Commands that put their words and the working folder into the ledger or into Prefect's database."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""The disk or device behind a stream takes no more."""

_COMMANDS = "tta_dev_primitives.commands"
_WORDS = {
    "an argument": "a value",
    "unable to convert ": "",
    " into int.": " is no whole number.",
    " into float.": " is no number.",
}
"""What cyclopts says of wrong usage, and what we say."""


def _version() -> str:
    from importlib.metadata import version

    return f"tta {version('tta-dev-primitives')}"


def _shown_default(value: object) -> str | None:
    """What the help shows as the default: nothing where the option is off."""
    return None if value is None or value is False else str(value)


_PARAMETER = Parameter(negative="", show_default=_shown_default)
app = App(
    name="tta",
    help="Multi-model LLM workflows on Prefect, configured by one YAML file.",
    version=_version,
    help_format="plaintext",
    default_parameter=_PARAMETER,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
server = App(name="server", help="Start, stop or open the Prefect server.", default_parameter=_PARAMETER)
blocks = App(name="blocks", help="Save keys as Prefect blocks.", default_parameter=_PARAMETER)
ledger = App(
    name="ledger", help="Show, verify, prune or correct the spend ledger.", default_parameter=_PARAMETER
)
job = App(name="job", help="Review a diff, document a module, write tests.", default_parameter=_PARAMETER)

_LAZY = {
    "demo": ("demo:demo", "Show seven tasks: no keys, no network, nothing spent."),
    "init": ("init:init", "Write a configuration file with today's models."),
    "check": ("check:check", "Check configuration, keys, models, prices, servers."),
    "run": ("run:run", "Run one task."),
    "estimate": ("estimate:estimate", "Estimate cost, quota and time of a file of tasks."),
    "bulk": ("bulk:bulk", "Run a file of tasks, or what is missing of it."),
    "batches": ("batches:batches", "List, collect or cancel batches of bulk jobs."),
    "report": ("report:report", "Report what a month cost, and what it saved."),
    "models": ("models:models", "List models, prices, limits, retirement dates."),
    "answers": ("answers:answers", "List or delete stored answers."),
    "deploy": ("deploy:deploy", "Create or update the scheduled deployments."),
    "trust": ("trust:trust", "Trust the configuration and .env of a folder."),
    "sandbox": ("sandbox:sandbox", "Serve all providers on this machine, without keys."),
    "replay": ("replay:replay", "Replay recorded answers: saving and quality."),
}
for _position, (_name, (_target, _help)) in enumerate(_LAZY.items()):
    app.command(f"{_COMMANDS}.{_target}", name=_name, help=_help, sort_key=_position)

for _name, _help in {
    "start": "Start the server if none runs.",
    "stop": "Stop it.",
    "status": "Show whether and where it runs.",
    "open": "Print a link that opens its UI.",
    "env": "Print the variables for Prefect's own commands.",
}.items():
    server.command(f"{_COMMANDS}.server:{'open_ui' if _name == 'open' else _name}", name=_name, help=_help)
for _name, _help in {
    "show": "Show the month's balance and its open holds.",
    "verify": "Check that the journal adds up to the month.",
    "prune": "Delete old answers, calls and task records; their sums stay.",
    "reconcile": "Close a presumed call with the amount of the bill.",
    "set-month": "Correct the month after a wrong clock.",
    "resolve": "Reopen a model that was closed over a disputed bill.",
}.items():
    ledger.command(f"{_COMMANDS}.ledger:{_name.replace('-', '_')}", name=_name, help=_help)
blocks.command(
    f"{_COMMANDS}.blocks:sync", name="sync", help="Save the configuration's keys as Prefect blocks."
)
for _name, (_target, _help) in {
    "review": ("review", "Review a change, file by file."),
    "document": ("document", "Write the reference pages of Python modules."),
    "tests": ("unit_tests", "Write tests for a Python module and run them."),
}.items():
    job.command(f"{_COMMANDS}.job:{_target}", name=_name, help=_help)
_GROUPS = {"server": server, "blocks": blocks, "ledger": ledger, "job": job}
for _group in _GROUPS.values():
    app.command(_group)
app.register_install_completion_command(help="Install shell completion (bash, zsh, fish).")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with the code of the contract: 0, 1, 2, 3 or 4."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Prefect reports its first import, before a command has set anything.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot write a letter must not cost an answer that was paid.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run(arguments))


def _run(arguments: list[str]) -> int:
    as_json = "--json" in arguments
    try:
        from tta_dev_primitives.commands._output import quiet_logs

        quiet_logs()
        _refuse_other_encodings(arguments)
        code = app(_with_stdin(arguments), exit_on_error=False, print_error=False, console=_plain_console())
        return code if isinstance(code, int) else EXIT_DONE
    except UnknownCommandError:
        return _report_error("UsageError", _unknown_command(arguments), EXIT_USAGE, as_json=as_json)
    except UnusedCliTokensError as error:
        words, command = " ".join(error.unused_tokens or ()), _command(arguments)
        remedy = (
            "Put a text of several words in quotes." if command == "tta run" else f"See `{command} --help`."
        )
        message = f"too many words, from {words[:80]!r} on. {remedy}"
        return _report_error("UsageError", message, EXIT_USAGE, as_json=as_json)
    except CycloptsError as error:
        *_, problem = str(error).split(" parameter ", 1)
        for theirs, ours in _WORDS.items():
            problem = problem.replace(theirs, ours)
        message = f"{problem} See `{_command(arguments)} --help`."
        return _report_error("UsageError", message, EXIT_USAGE, as_json=as_json)
    except KeyboardInterrupt as error:
        return _say(f"Interrupted.{_kept(arguments)}", getattr(error, "code", EXIT_INTERRUPTED))
    except EOFError:
        return _say("the input ended at a question; nothing was done. `--yes` asks nothing.", EXIT_USAGE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None and (_no_folder() or error.errno in _FULL):
            return _report_os_error(error, arguments)
        return _report(error, as_json=as_json)


def _refuse_other_encodings(arguments: list[str]) -> None:
    """Stop a command whose names would go into a database that takes UTF-8 only."""
    for name in (*arguments, os.getcwd()) if arguments[:1] in _STORED else ():
        try:
            name.encode()
        except UnicodeEncodeError:
            from tta_dev_primitives.config.errors import ConfigError

            raise ConfigError(
                f"{name!a:.200}: it is not UTF-8. Convert the text, or rename the file or folder."
            ) from None


def _report_os_error(error: OSError, arguments: list[str]) -> int:
    """Say what the system's bare words mean: the disk of the output is full, or the working folder was deleted."""
    said, code = f"the output cannot be written: {error.strerror}.{_kept(arguments)}", EXIT_FAILED
    if _no_folder():
        said, code = "the working folder is gone. Change to one that exists.", EXIT_USAGE
    return _report_error(type(error).__name__, said, code, as_json="--json" in arguments)


def _no_folder() -> bool:
    try:
        return not os.getcwd()
    except OSError:
        return True


def _kept(arguments: list[str]) -> str:
    kept = " What was answered is kept: the same command goes on from there."
    return kept if arguments[:1] in _RESUMED else ""


def _plain_console() -> Console | None:
    """With NO_COLOR a console for the help without bold letters; the usual one keeps them."""
    if not os.environ.get("NO_COLOR"):
        return None
    from tta_dev_primitives.commands._output import console

    return console()


def _with_stdin(arguments: list[str]) -> list[str]:
    """A lone `-`, which stands for standard input, is no option: it goes behind `--`."""
    if arguments.count("-") != 1 or "--" in arguments:
        return arguments
    return [*(a for a in arguments if a != "-"), "--", "-"]


def _command(arguments: list[str]) -> str:
    """The command that the arguments call, with its group: `tta ledger show`."""
    words: list[str] = []
    for word in arguments[:2]:
        if word not in (app if not words else _GROUPS.get(words[0], ())):
            break
        words.append(word)
    return " ".join(["tta", *words])


def _unknown_command(arguments: list[str]) -> str:
    """Say which command is meant. Cyclopts would import all of them to find out, Prefect included."""
    import difflib

    words = [word for word in arguments if not word.startswith("-")]
    if not words:
        words = arguments[:1]
    option = bool(words) and words[0].startswith("-")
    group, names = "", [name for name in app if name.startswith("-") == option]
    if len(words) > 1 and words[0] in _GROUPS:
        group = f"{words.pop(0)} "
        names = [name for name in _GROUPS[group.strip()] if not name.startswith("-")]
    word = words[0] if words else ""
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if not group and f"--{word}" in app:
        close = [f"--{word}"]
    meant = f"Did you mean `tta {group}{close[0]}`?" if close else f"Known: {', '.join(names)}."
    return f"unknown {'option' if option else 'command'} {group + word!r}. {meant}"


def _report(error: Exception, *, as_json: bool) -> int:
    """Say a known error in its own words; anything else is our bug and keeps its traceback."""
    from tta_dev_primitives.config import errors

    codes: list[tuple[type[Exception], int]] = [
        (errors.BudgetExceededError, EXIT_BUDGET),
        (errors.RunCancelledError, EXIT_INTERRUPTED),
        (errors.AllModelsFailedError, EXIT_MODELS),
        (errors.ConfigError, EXIT_USAGE),
        (errors.OrchestrationError, EXIT_FAILED),
        (FileNotFoundError, EXIT_USAGE),
        (OSError, EXIT_FAILED),
    ]
    for kind, code in codes:
        if isinstance(error, errors.AllModelsFailedError) and error.reasons and not as_json:
            return _say_reasons(error.reasons)
        if isinstance(error, kind):
            return _report_error(type(error).__name__, str(error), code, as_json=as_json)
    if type(error).__name__ == "SchemaError" and "KeyboardInterrupt" in str(error):
        # pydantic wraps a Ctrl-C during an import in an error of its own.
        return _say("Interrupted.", EXIT_INTERRUPTED)
    raise error


def _say_reasons(reasons: Sequence[tuple[str, str]]) -> int:
    """Every model failed: one row a model."""
    from tta_dev_primitives.commands._output import console, table

    _say("All models failed.", EXIT_MODELS)
    with suppress(BrokenPipeError):
        console(stderr=True).print(table("", ["model", "what went wrong"], reasons))
    return EXIT_MODELS


def _report_error(kind: str, message: str, code: int, *, as_json: bool) -> int:
    """Say what failed. With `--json` the one document on stdout says it; the words on stderr stay for the log."""
    if as_json:
        import json

        with suppress(OSError):
            document = {"error": {"class": kind, "message": message}, "exit": code}
            print(json.dumps(document, indent=2), flush=True)
    return _say(message, code)


def _say(message: str, code: int) -> int:
    with suppress(OSError):  # the reader is gone, or the disk full; the exit code still says it
        from tta_dev_primitives.blocks.redaction import visible

        print(f"tta: {visible(message)}", file=sys.stderr, flush=True)
    return code
