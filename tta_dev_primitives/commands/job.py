"""`tta job`: the three ready jobs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from cyclopts import Parameter

from tta_dev_primitives.commands._options import Config, Flag, Json
from tta_dev_primitives.commands._output import (
    console,
    counted,
    json_text,
    print_json,
    print_text,
    usd,
)
from tta_dev_primitives.commands.trust import load_trusted
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.template import write_new_file
from tta_dev_primitives.flows.jobs import sources
from tta_dev_primitives.flows.tasks.request import UseCase

if TYPE_CHECKING:
    from tta_dev_primitives.flows.jobs import JobResult

_Job: TypeAlias = "Coroutine[Any, Any, JobResult]"
_Start: TypeAlias = "Callable[[Any, str | None], _Job]"
_EXAMPLES = Path(sources.__file__).parent / "examples"

Kind = Annotated[UseCase, Parameter(name=["--use-case", "-u"])]


def review(
    patch: Path | None = None,
    /,
    *,
    revisions: str = "HEAD~1..HEAD",
    repository: Path = Path(),
    include: list[str] | None = None,
    exclude: list[str] | None = None,
    fail_on: Annotated[Literal["high", "medium", "any"] | None, Parameter()] = None,
    format: Literal["markdown", "json", "sarif", "github"] = "markdown",
    example: Flag = False,
    use_case: Kind = "complex",
    out: Path | None = None,
    config: Config = None,
    json: Flag = False,
) -> int:
    """Review a change file by file; a finding must cite a line that the diff shows.

    Exits with 1 on a finding of the severity `--fail-on`, when a file was not reviewed, or, with `--fail-on`, when a
    review was not accepted.

    Args:
        patch: A patch file, or - for standard input; without it, what git says of `--revisions`.
        revisions: What to review, as `git diff` takes it.
        repository: The git repository.
        include: Glob of paths to review; may be given several times. Default: `review.include`, or all.
        exclude: Glob of paths to leave out; may be given several times. Default: `review.exclude`, or lock files,
            images, generated and foreign code.
        fail_on: Exit with 1 when something is found from this severity on: high, medium or any.
        format: markdown, json (the whole result), sarif (2.1.0) or github (workflow annotations).
        example: Review the example that comes with the package.
        use_case: Use case, which selects the executors.
        out: Write the review to this new file.
        json: The same as --format json.
    """
    from tta_dev_primitives.flows.jobs.diffs import changes_in, to_review
    from tta_dev_primitives.flows.jobs.sources import git_diff, read_text

    settings = load_trusted(config).review
    with ExitStack() as opened:
        source = _EXAMPLES / "change.diff" if example else patch
        if source == Path("-"):
            source = (
                Path(opened.enter_context(TemporaryDirectory(prefix="tta-review-"))) / "standard-input.diff"
            )
            source.write_bytes(sys.stdin.buffer.read())
        diff = (
            git_diff(str(repository), revisions) if source is None else read_text(source, "Patch", mixed=True)
        )
        taken, left_out = to_review(changes_in(diff), settings, include, exclude)
        if not taken:
            console(stderr=True).print(f"Nothing to review; left out: {', '.join(left_out)}")
            return 0

        diff_path = None if source is None else str(source)
        chosen = {"include": include, "exclude": exclude, "use_case": use_case}
        options = {"diff_path": diff_path, "repository": str(repository), "revisions": revisions, **chosen}
        job = _job_of(lambda jobs, path: jobs.review_diff(config_path=path, **options), out, config)
    _deliver(job, _written(job, "json" if json else format), out)
    return _gate(job, fail_on or settings.fail_on)


def _written(job: JobResult, format: str) -> str:
    """The review in the format that was asked for."""
    from tta_dev_primitives.flows.jobs import findings

    match format:
        case "json":
            return json_text(job.model_dump(mode="json"))
        case "sarif":
            return json_text(findings.sarif(job.findings, version=version("tta-dev-primitives")))
        case "github":
            return findings.github(job.findings)
        case _:
            return job.content


def _gate(job: JobResult, fail_on: Literal["high", "medium", "any"] | None) -> int:
    """The exit code of a review."""
    from tta_dev_primitives.flows.jobs.findings import severe

    found = severe(job.findings, fail_on) if fail_on is not None else []
    missing = [part.name for part in job.parts if part.result is None]
    err = console(stderr=True)
    if found:
        err.print(f"{len(found)} findings fail the review (--fail-on {fail_on})")
    if missing:
        err.print(f"not reviewed: {', '.join(missing)}")
    return 1 if found or (fail_on is not None and not job.accepted) else exit_code(job)


def document(
    modules: list[Path] | None = None,
    /,
    *,
    example: Flag = False,
    use_case: Kind = "moderate",
    out: Path | None = None,
    config: Config = None,
    json: Json = False,
) -> int:
    """Write reference pages of Python modules; each must document every public class, function and method.

    Exits with 1 when a module got no page.

    Args:
        modules: Python files, or folders with all their public modules.
        example: Document the example that comes with the package.
        use_case: Use case, which selects the executors.
        out: Write the page to this new file; an existing folder gets one new file a module.
    """
    from tta_dev_primitives.flows.jobs.modules import read_modules

    paths = [_EXAMPLES / "temperature.py"] if example else modules
    if not paths:
        raise ConfigError("which module? Give the path of a Python file or folder, or --example.")
    read = read_modules(paths)
    folder = out if out is not None and out.is_dir() else None
    taken = [page for module in read if folder and (page := folder / f"{module.name}.md").exists()]
    if taken:
        raise ConfigError(
            f"{taken[0]} exists already; remove it or name another folder. Nothing was asked or paid."
        )

    names = [str(path) for path in paths]
    job = _job_of(
        lambda jobs, path: jobs.document_module(names, use_case, path), None if folder else out, config
    )
    if folder is None:
        return _finish(job, out, json)
    _write_pages(job, folder)
    if json:
        print_json(job.model_dump(mode="json"))
    _summary(job, folder)
    return exit_code(job)


def _write_pages(job: JobResult, folder: Path) -> None:
    from tta_dev_primitives.flows.jobs.modules import page_in

    for part in job.parts:
        if part.result is not None:
            write_new_file(folder / f"{part.name}.md", page_in(part.result.content) + "\n")


def unit_tests(
    module: Path | None = None,
    /,
    *,
    seconds: float = 60.0,
    example: Flag = False,
    run_unfenced: Flag = False,
    python: Path | None = None,
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
        python: The interpreter that runs the tests; default: that of the active virtual environment.
        use_case: Use case, which selects the executors.
        out: Write the tests to this new file.
    """
    path = _module(module, example)
    if not 1 <= seconds <= 600:
        raise ConfigError(f"--seconds {seconds:g}: expected 1 to 600.")
    # Before a server is started, and from this folder.
    from tta_dev_primitives.flows.jobs.fence import find_python

    interpreter = find_python(None if python is None else str(python))

    job = _job_of(
        lambda jobs, config_path: jobs.generate_tests(
            path, seconds, use_case, config_path, run_unfenced, interpreter
        ),
        out,
        config,
    )
    return _finish(job, out, json)


def _module(module: Path | None, example: bool) -> str:
    """The file's path, looked at before a server is started."""
    from tta_dev_primitives.flows.jobs.modules import read_module

    if module is None and not example:
        raise ConfigError("which module? Give the path of a Python file, or --example.")
    return str(read_module(_EXAMPLES / "temperature.py" if module is None or example else module).path)


def _finish(job: JobResult, out: Path | None, json: bool) -> int:
    """Print, or write, what a job returned."""
    if json and out is not None:
        _deliver(job, job.content, out)
        print_json(job.model_dump(mode="json"))
    else:
        _deliver(job, json_text(job.model_dump(mode="json")) if json else job.content, out)
    return exit_code(job)


def exit_code(job: JobResult) -> int:
    """1 when a part of the job has no answer."""
    return int(any(part.result is None for part in job.parts))


def _job_of(start: _Start, out: Path | None, config: Path | None) -> JobResult:
    """The result of one job; looks at `out` before anything is asked. `start` gets the flows, which import Prefect."""
    if out is not None and out.exists():
        raise ConfigError(f"{out} exists already; remove it or name another file. Nothing was asked or paid.")
    loaded = load_trusted(config)
    source = loaded.source
    from tta_dev_primitives.blocks.credentials.usable_keys import refuse_without_key

    refuse_without_key(loaded)
    from tta_dev_primitives.flows.calling.sync_loop import wait_for
    from tta_dev_primitives.flows.prefect_support.api_connection import use_server

    use_server()
    from tta_dev_primitives.flows import jobs

    return wait_for(start(jobs, None if source is None else str(source)))


def _deliver(job: JobResult, text: str, out: Path | None) -> None:
    """Write the text to the new file, or print it; a summary goes to stderr."""
    if out is not None and not write_new_file(out, text.rstrip() + "\n"):
        raise ConfigError(f"{out} was made by another process meanwhile; the answer is in the Prefect UI.")
    if out is None:
        print_text(text)
    _summary(job, out)


def _summary(job: JobResult, out: Path | None) -> None:
    err = console(stderr=True)
    err.print()
    err.print(f"{job.title}: {'accepted' if job.accepted else 'NOT accepted'}" + (f" · {out}" if out else ""))
    for part in job.parts:
        if part.result is not None:
            calls = len(part.result.attempts)
            err.print(f"  {part.name}: {part.result.model}, {part.result.basis}, {counted(calls, 'call')}")
    for note in job.notes:
        err.print(f"  {note}")
    err.print(
        f"cost {usd(job.cost_usd)} · paid model alone {usd(job.baseline_cost_usd)} · saved {job.savings_ratio:.0%}"
    )
