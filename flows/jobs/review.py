"""The flow `review_diff`: findings for each file of a patch, or of a range of a git repository.

The files are reviewed side by side. A review that cites a line which the diff does not show is refused on this machine,
and the next model is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run as this_run

from tta_dev_primitives.flows.jobs.diffs import FileChange, changes_in, wrong_citations
from tta_dev_primitives.flows.jobs.git import git_diff
from tta_dev_primitives.flows.jobs.job import (
    JobPart,
    JobResult,
    PartResult,
    answer_parts,
    finish,
    instructions,
)
from tta_dev_primitives.flows.jobs.sources import read_text
from tta_dev_primitives.flows.prefect_support.result_storage import RESULTS
from tta_dev_primitives.flows.tasks.request import UseCase

__all__ = ["review_diff"]

_CRITERIA = (
    "Every finding is a real defect that the diff shows, at the line named",
    "No defect of high severity is missed",
)


def _run_name() -> str:
    patch = this_run.parameters.get("diff_path")
    return f"review {Path(patch).name if patch else this_run.parameters.get('revisions')}"


@flow(
    name="review-diff",
    flow_run_name=_run_name,
    persist_result=True,
    result_storage=RESULTS,
    result_serializer="json",
)
async def review_diff(
    diff_path: str | None = None,
    repository: str = ".",
    revisions: str = "HEAD~1..HEAD",
    use_case: UseCase = "complex",
    config_path: str | None = None,
) -> JobResult:
    """Review a change, file by file.

    Args:
        diff_path: A patch file; empty takes the repository's own diff.
        repository: Folder of the git repository.
        revisions: What to review there, as `git diff` takes it.
        use_case: Which executors do it.
        config_path: Configuration file; empty searches the usual places.

    Raises:
        ConfigError: No such patch, repository or range, or it changes no text.
        OrchestrationError: No file could be reviewed.
    """
    if diff_path is not None:
        diff, what = read_text(Path(diff_path), "Patch"), Path(diff_path).name
    else:
        diff, what = await asyncio.to_thread(git_diff, repository, revisions), revisions
    changes = changes_in(diff)
    parts = [_part(change, use_case) for change in changes]
    done = await answer_parts(config_path, parts)
    return await finish(f"Review of {what}", _markdown(changes, done), done)


def _part(change: FileChange, use_case: UseCase) -> JobPart:
    return JobPart(
        name=change.path,
        task=f"Review this change of {change.path}:\n\n```diff\n{change.text}```",
        use_case=use_case,
        instructions=instructions("review"),
        criteria=_CRITERIA,
        check=partial(_check, change),
    )


async def _check(change: FileChange, review: str) -> Sequence[str]:
    return wrong_citations(review, change)


def _markdown(changes: Sequence[FileChange], parts: Sequence[PartResult]) -> str:
    sections = []
    for change, part in zip(changes, parts, strict=True):
        text = part.result.content.strip() if part.result is not None else f"Not reviewed: {part.error}"
        sections.append(f"## {change.path}\n\n{text}\n")
    return "\n".join(sections)
