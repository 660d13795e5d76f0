"""The flow `review_diff`: findings for each file of a patch, or of a range of a git repository.

The files are reviewed side by side. A review that cites a line which the diff does not show is refused on this machine,
and the next model is asked. Lock files, images, generated and foreign code are left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run as this_run
from typing_extensions import TypedDict

from tta_dev_primitives.config.options import ReviewConfig
from tta_dev_primitives.flows.answers.output_type import OutputType
from tta_dev_primitives.flows.calling.given_config import load_given_config
from tta_dev_primitives.flows.calling.runtime import current_runtime
from tta_dev_primitives.flows.jobs.diffs import FileChange, changes_in, to_review
from tta_dev_primitives.flows.jobs.findings import (
    Finding,
    inert,
    markdown,
    problems_of,
    read_findings,
    worst_first,
)
from tta_dev_primitives.flows.jobs.job import (
    JobPart,
    JobResult,
    PartResult,
    answer_parts,
    finish,
    instructions,
)
from tta_dev_primitives.flows.jobs.sources import git_diff, read_text
from tta_dev_primitives.flows.prefect_support.result_storage import KEPT
from tta_dev_primitives.flows.tasks.request import MAX_TASK_BYTES, UseCase

_CRITERIA = (
    "Every finding is a real defect that the diff shows, at the line named",
    "No defect of high severity is missed",
)


class _Review(TypedDict):
    findings: list[Finding]


_SCHEMA = OutputType.of(_Review).request_schema
_TOO_LARGE = f"its change is larger than the {MAX_TASK_BYTES:,} bytes of a task"


def _run_name() -> str:
    patch = this_run.parameters.get("diff_path")
    return f"review {Path(patch).name if patch else this_run.parameters.get('revisions')}"


@flow(name="review-diff", flow_run_name=_run_name, **KEPT)
async def review_diff(
    diff_path: str | None = None,
    repository: str = ".",
    revisions: str = "HEAD~1..HEAD",
    use_case: UseCase = "complex",
    config_path: str | None = None,
    include: list[str] | None = None,
    exclude: list[str] | None = None,
) -> JobResult:
    """Review a change, file by file.

    Args:
        diff_path: A patch file; empty takes the repository's own diff.
        repository: Folder of the git repository.
        revisions: What to review there, as `git diff` takes it.
        use_case: Use case, which selects the executors.
        config_path: Configuration file; empty searches the usual places.
        include: Globs of the paths to review; empty takes `review.include` of the configuration, or all.
        exclude: Globs of paths to leave out; empty takes `review.exclude`, or lock files, images, generated code.

    Raises:
        ConfigError: No such patch, repository or range, or it changes no text.
        OrchestrationError: No file could be reviewed.
    """
    if diff_path is not None:
        diff, what = read_text(Path(diff_path), "Patch", mixed=True), Path(diff_path).name
    else:
        diff, what = await asyncio.to_thread(git_diff, repository, revisions), revisions
    changes, left_out = to_review(changes_in(diff), await _configured(config_path), include, exclude)
    parts = [_part(change, use_case) for change in changes]
    fitting = [part for part in parts if not _too_large(part)]
    done = {part.name: part for part in (await answer_parts(config_path, fitting) if fitting else ())}
    ended = [done.get(part.name) or PartResult(name=part.name, error=_TOO_LARGE) for part in parts]
    found = [
        read_findings(part.result.content, change) or [] if part.result is not None else []
        for change, part in zip(changes, ended, strict=True)
    ]
    notes = [f"left out: {', '.join(left_out)}"] if left_out else []
    every = worst_first([one for findings in found for one in findings])
    return await finish(f"Review of {what}", _markdown(ended, found), ended, notes, every)


async def _configured(config_path: str | None) -> ReviewConfig:
    """The review settings of the configuration that this run uses."""
    runtime = current_runtime()
    return (runtime.config if runtime is not None else load_given_config(config_path)).review


def _part(change: FileChange, use_case: UseCase) -> JobPart:
    return JobPart(
        name=change.path,
        task=f"Review this change of {change.path}:\n\n```diff\n{change.text}```",
        use_case=use_case,
        instructions=instructions("review"),
        criteria=_CRITERIA,
        check=partial(_check, change),
        schema=_SCHEMA,
    )


def _too_large(part: JobPart) -> bool:
    return len(part.task.encode("utf-8", "replace")) > MAX_TASK_BYTES


async def _check(change: FileChange, review: str) -> Sequence[str]:
    return problems_of(review, change)


def _markdown(parts: Sequence[PartResult], found: Sequence[Sequence[Finding]]) -> str:
    return "\n".join(
        f"## {inert(part.name)}\n\n{markdown(findings) if part.result else f'Not reviewed: {part.error}'}\n"
        for part, findings in zip(parts, found, strict=True)
    )
