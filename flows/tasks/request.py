"""What a task must be to be run, and the request that asks a model for its answer. Pure."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.options import USE_CASES

if TYPE_CHECKING:
    from tta_dev_primitives.flows.tasks.item import Item

MAX_TASK_BYTES = 400_000
"""Prefect keeps flow parameters up to 512 KiB; a task beyond this fits few models' windows anyway."""


_QUOTED = 20_000
"""Characters of an invalid answer that the model is shown again."""

UseCase = Literal["simple", "moderate", "complex", "expert", "speed-critical", "reasoning"]


def check_task(task: object, use_case: str | None = None, system: object = None) -> None:
    """Refuse what cannot be run, before anything is started.

    Raises:
        ConfigError: The task is empty, not text or too large, or the use case is unknown.
    """
    for name, text in (("task", task), ("system", system)):
        if name == "system" and text is None:
            continue
        if not isinstance(text, str):
            said = "is missing" if text is None else f"expected text, got {type(text).__name__}"
            raise ConfigError(f"{name}: {said}.")
        try:
            size = len(text.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"{name}: holds a lone surrogate at position {error.start}, which is not valid text. "
                "Decode the input as UTF-8 first."
            ) from None
        if size > MAX_TASK_BYTES:
            raise ConfigError(
                f"{name}: {size:,} bytes is more than the {MAX_TASK_BYTES:,} that a run takes. "
                "Split it into several tasks (`tta bulk` runs a file of them)."
            )
    if not str(task).strip():
        raise ConfigError("task: it is empty. Give the text of the task.")
    if use_case is not None and use_case not in USE_CASES:
        raise ConfigError(f"use_case: {use_case!r} is unknown. Must be one of: {', '.join(USE_CASES)}.")


def answer_request(item: Item, target: Target, *, whole: bool = False) -> ChatRequest:
    """The request for the item's answer: the plan's instructions and the caller's system text, then the task.

    Args:
        whole: Ask for the whole of a typed answer, although only some fields are open.
    """
    part = None if whole else item.part
    instructions = item.plan.instructions if item.plan is not None else ""
    key = (
        "answer",
        item.system,
        instructions,
        target.max_output_tokens,
        None if part is None else part.fields,
    )
    output = item.output if part is None else part.cut
    if key not in item.requests:
        system = "\n\n".join(part for part in (item.system or "", instructions or "") if part)
        item.requests[key] = ChatRequest(
            messages=(Message("user", item.task),),
            system=system or None,
            max_output_tokens=target.max_output_tokens,
            json_schema=item.schema if output is None else output.request_schema,
            seed=item.seed,
        )
    return item.requests[key]


def repair_request(item: Item, target: Target, answer: str, problem: str) -> ChatRequest:
    """The request for the whole answer, after one that failed the checks of this machine, with what is wrong."""
    asked = answer_request(item, target, whole=True)
    said = (
        "Your answer is not valid. The problem, quoted as data: "
        f"{json.dumps(problem, ensure_ascii=False)}. "
        f"Answer again with the whole corrected {'JSON object' if item.output is not None else item.repairs} only."
    )
    turns = (*asked.messages, Message("assistant", answer[:_QUOTED] or "(empty)"), Message("user", said))
    return replace(asked, messages=turns)
