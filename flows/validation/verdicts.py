"""Verdicts: how a model is asked what an answer is worth, and what of its reply is believed. Pure.

    request, nonce = verdict_request(item, answer_text, target)
    score = parse_verdict(reply.text, judged=answer_text, task=task)  # 0..1; None: ask again, then reject

Safety, in order: local checks came first; the answer stands in a frame with a nonce that it cannot contain, without
anything that looks like a marker; the rubric comes after it; the reply must hold exactly one JSON object with a number
and a short reason; and a verdict that stands in the answer itself, in any disguise, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.flows.answers.strict_json import StrictJsonError, lone_object
from tta_dev_primitives.flows.prompts import prompt
from tta_dev_primitives.flows.validation.copied_verdict import is_copied
from tta_dev_primitives.flows.validation.local_checks import HasTask
from tta_dev_primitives.flows.validation.opinion_costs import VERDICT_CAP
from tta_dev_primitives.flows.validation.prompt_quoting import nonce_for, plain, quoted

VERDICT_SCHEMA_NAME = "tta_verdict"
VERDICT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"score": {"type": "number"}, "reason": {"type": "string"}},
    "required": ["score", "reason"],
    "additionalProperties": False,
}
_REASON = 400


def verdict_prompt(
    task: str, answer: str, criteria: Sequence[str] = (), *, again: bool = False
) -> tuple[str, str, str]:
    """System text, user text and nonce of one verdict.

    Args:
        criteria: The plan's acceptance criteria; empty means that the task itself is the measure.
        again: The first reply could not be read; the second request differs, so it is not answered from the store.
    """
    nonce = nonce_for("verdict", task, answer, "again" if again else "")
    system = prompt("verdict").text.format(nonce=nonce)
    checks = "; ".join(" ".join(plain(c).split()) for c in criteria if c.strip())
    rubric = "Score 0 to 1: the chance that the answer is correct, complete and does what the task asks."
    if checks:
        rubric += f" It must also satisfy what the plan lists as data:\n{quoted('criteria', checks, nonce)}\n"
    retry = " Your last reply was not readable." if again else ""
    user = (
        f"{quoted('task', task, nonce)}\n\n{quoted('answer', answer, nonce)}\n\n"
        f'{rubric}{retry} Reply with JSON only: {{"score": 0.00, "reason": "one word"}}'
    )
    return system, user, nonce


def comparison_prompt(task: str, answer: str, reference: str, *, again: bool = False) -> tuple[str, str, str]:
    """System text, user text and nonce of one comparison of an answer with the orchestrator's.

    Args:
        again: The first reply could not be read.
    """
    nonce = nonce_for("compare", task, answer, reference, "again" if again else "")
    system = prompt("compare").text.format(nonce=nonce)
    retry = " Your last reply was not readable." if again else ""
    user = (
        f"{quoted('task', task, nonce)}\n\n{quoted('reference', reference, nonce)}\n\n"
        f"{quoted('answer', answer, nonce)}\n\n"
        "Is the answer at least as good as the reference: as correct, as complete, doing what the task asks? "
        f'Score 1 for yes, 0 for no.{retry} Reply with JSON only: {{"score": 0, "reason": "one word"}}'
    )
    return system, user, nonce


def comparison_request(
    item: HasTask, answer: str, reference: str, target: Target, *, again: bool = False
) -> ChatRequest:
    """The request for one comparison by `target`; its reply is read as a verdict's."""
    system, user, _ = comparison_prompt(item.task, answer, reference, again=again)
    return _judging(system, user, target)


def reads_all(target: Target, request: ChatRequest) -> bool:
    """Whether the model's window holds the whole request with room for its reply; an unknown window holds it."""
    if target.context_tokens is None:
        return True
    text = "".join([request.system or "", *(message.content for message in request.messages)])
    ascii_letters = len(text.encode("ascii", "ignore"))
    # Above what tokenizers make of prose and code: a doubtful text goes to a larger window.
    tokens = ascii_letters / 3 + (len(text) - ascii_letters) * 1.5
    return tokens + request.max_output_tokens <= target.context_tokens


def verdict_request(
    item: HasTask, answer: str, target: Target, *, again: bool = False
) -> tuple[ChatRequest, str]:
    """The request for one terse verdict by `target`, and the nonce of its frame."""
    criteria = item.plan.acceptance_criteria if item.plan is not None else ()
    system, user, nonce = verdict_prompt(item.task, answer, criteria, again=again)
    return _judging(system, user, target), nonce


def _judging(system: str, user: str, target: Target) -> ChatRequest:
    return ChatRequest(
        messages=(Message("user", user),),
        system=system,
        max_output_tokens=min(target.max_output_tokens, target.capabilities.room_to_think + VERDICT_CAP),
        # A schema costs a paid model hidden tokens, and a larger hold.
        json_schema=VERDICT_SCHEMA if target.billing == "free" else None,
        schema_name=VERDICT_SCHEMA_NAME,
        thinking="low",
    )


def parse_verdict(text: str, *, judged: str = "", task: str = "") -> float | None:
    """The score in a judge's reply, None when there is any doubt about it.

    Believed is one object `{"score": <number 0..1>, "reason": "<short text>"}`, also in a code fence, after a
    sentence, or with the number in quotes. Refused: a second object, a second score in the words around it, NaN,
    Infinity, out of range, true, a key twice, another key, and a verdict that stands in the answer or in the task.
    """
    try:
        verdict, around = lone_object(text, exact=True)
    except StrictJsonError:
        return None
    reason = verdict.get("reason")
    if set(verdict) != {"score", "reason"} or not isinstance(reason, str) or len(reason) > _REASON:
        return None
    score = _number(verdict["score"])
    if score is None or not 0 <= score <= 1 or _OTHER_SCORE.search(around):
        return None
    if any(is_copied(score, reason, shown) for shown in (judged, task)):
        return None
    return abs(float(score))


_OTHER_SCORE = re.compile(r"(?:score|rating|verdict|grade)\W{0,12}(?:\w+\W{1,3}){0,3}\d", re.IGNORECASE)
_QUOTED = re.compile(r"\s*(?:0|1|[01]?\.\d{1,20})\s*")


def _number(score: Any) -> int | Decimal | None:
    """A number, or one in quotes; Decimal, because as a float 1.00000000000000000001 would be 1."""
    if isinstance(score, str) and _QUOTED.fullmatch(score) and score.isascii():
        return Decimal(score.strip())
    return score if isinstance(score, int | Decimal) and not isinstance(score, bool) else None
