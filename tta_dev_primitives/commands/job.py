"""`tta job`: the three ready jobs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

from tta_dev_primitives.commands._output import console, print_json, quiet_logs, usd
from tta_dev_primitives.commands._trust import load_trusted
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.template import write_new_file
from tta_dev_primitives.flows.jobs import sources
from tta_dev_primitives.flows.tasks.request import UseCase

if TYPE_CHECKING:
    from tta_dev_primitives.flows.jobs import JobResult

__all__ = ["document", "review", "unit_tests"]

_Job: TypeAlias = "Coroutine[Any, Any, JobResult]"
_EXAMPLES = Path(sources.__file__).parent / "examples"

Config = Annotated[Path | None, Parameter(name=["--config", "-c"])]
Json = Annotated[bool, Parameter(negative="")]
Example = Annotated[bool, Parameter(negative="")]
Kind = Annotated[UseCase, Parameter(name=["--use-case", "-u"])]


def review(
    patch: Path | None = None,
    /,
    *,
    revisions: str = "HEAD~1..HEAD",
    repository: Path = Path(),
    example: Example = False,
    use_case: Kind = "complex",
    out: Path | None = None,
    config: Config = None,
    json: Json = False,
) -> int:
    """Review a change file by file; a finding must cite a line that the diff shows.

    Args:
        patch: A patch file; without it, what git says of `--revisions`.
        revisions: What to review, as `git diff` takes it.
        repository: The git repository.
        example: Review the example that comes with the package.
        use_case: Which executors do it.
        out: Write the review to this new file.
        config: The configuration file.
        json: Print one JSON document.
    """
    from tta_dev_primitives.flows.jobs.diffs import changes_in
    from tta_dev_primitives.flows.jobs.git import git_diff
    from tta_dev_primitives.flows.jobs.sources import read_text

    source = _EXAMPLES / "change.diff" if example else patch
    changes_in(git_diff(str(repository), revisions) if source is None else read_text(source, "Patch"))

    def start(config_path: str | None) -> _Job:
        from tta_dev_primitives.flows.jobs import review_diff

        return review_diff(
            diff_path=None if source is None else str(source),
            repository=str(repository),
            revisions=revisions,
            use_case=use_case,
            config_path=config_path,
        )

    return _run(start, out, config, json)


def document(
    module: Path | None = None,
    /,
    *,
    example: Example = False,
    use_case: Kind = "moderate",
    out: Path | None = None,
    config: Config = None,
    json: Json = False,
) -> int:
    """Write the reference page of a Python module; it must name every public class and function.

    Args:
        module: The Python file.
        example: Document the example that comes with the package.
        use_case: Which executors do it.
        out: Write the page to this new file.
        config: The configuration file.
        json: Print one JSON document.
    """
    path = _module(module, example)

    def start(config_path: str | None) -> _Job:
        from tta_dev_primitives.flows.jobs import document_module

        return document_module(path, use_case, config_path)

    return _run(start, out, config, json)


def unit_tests(
    module: Path | None = None,
    /,
    *,
    seconds: float = 60.0,
    example: Example = False,
    run_unfenced: Annotated[bool, Parameter(negative="")] = False,
    use_case: Kind = "expert",
    out: Path | None = None,
    config: Config = None,
    json: Json = False,
) -> int:
    """Write tests for a Python module and run them: they must pass, and notice when its functions do nothing.

    Args:
        module: The Python file.
        seconds: Time limit of one run of the tests, 1 to 600.
        example: Test the example that comes with the package.
        run_unfenced: Run the tests with your own rights; only inside a container made for it.
        use_case: Which executors do it.
        out: Write the tests to this new file.
        config: The configuration file.
        json: Print one JSON document.
    """
    path = _module(module, example)
    if not 1 <= seconds <= 600:
        raise ConfigError(f"--seconds {seconds:g}: expected 1 to 600.")

    def start(config_path: str | None) -> _Job:
        from tta_dev_primitives.flows.jobs import generate_tests

        return generate_tests(path, seconds, use_case, config_path, run_unfenced)

    return _run(start, out, config, json)


def _module(module: Path | None, example: bool) -> str:
    """The file's path, looked at before a server is started."""
    from tta_dev_primitives.flows.jobs.modules import read_module

    if module is None and not example:
        raise ConfigError("which module? Give the path of a Python file, or --example.")
    return str(read_module(_EXAMPLES / "temperature.py" if module is None or example else module).path)


def _run(
    start: Callable[[str | None], _Job],
    out: Path | None,
    config: Path | None,
    json: bool,
) -> int:
    """Run one job and print, or write, what it brought."""
    quiet_logs()
    if out is not None and out.exists():
        raise ConfigError(f"{out} exists already; remove it or name another file. Nothing was asked or paid.")
    source = load_trusted(config).source
    from tta_dev_primitives.flows.calling.sync_loop import wait_for
    from tta_dev_primitives.flows.prefect_support.api_connection import use_server

    use_server()
    job = wait_for(start(None if source is None else str(source)))
    if out is not None and not write_new_file(out, job.content.rstrip() + "\n"):
        raise ConfigError(f"{out} was made by somebody else meanwhile; the answer is in the Prefect UI.")
    if json:
        print_json(job.model_dump(mode="json"))
        return 0
    if out is None:
        print(job.content)
    _summary(job, out)
    return 0


def _summary(job: JobResult, out: Path | None) -> None:
    err = console(stderr=True)
    err.print()
    err.print(f"{job.title}: {'accepted' if job.accepted else 'NOT accepted'}" + (f" · {out}" if out else ""))
    for part in job.parts:
        if part.result is not None:
            calls = len(part.result.attempts)
            err.print(f"  {part.name}: {part.result.model}, {part.result.evidence}, {calls} calls")
    for note in job.notes:
        err.print(f"  {note}")
    err.print(
        f"cost {usd(job.cost_usd)} · paid model alone {usd(job.baseline_cost_usd)} · saved {job.savings_ratio:.0%}"
    )
