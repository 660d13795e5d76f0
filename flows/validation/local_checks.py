"""Local checks of an answer: free, deterministic, and enough to refuse what may not be delivered. Pure.

    check_text("", answer_format="open")                                   -> ("empty",)
    check_text("I'm sorry, but I can't help with that.", answer_format="open") -> ("refusal",)

Each failure is a word: empty, truncated, filtered, refusal, echo, leaked_frame, too_long, prompt_cut. One failure is
enough: the answer is not delivered and the next candidate is asked. The answer format of a plan was inferred, so that
no answer is refused for it: an answer without that form is validated like an open one. A form that the caller gave
(a schema, a job) is checked by the caller's own check.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tta_dev_primitives.blocks.wire.reading import fewest_tokens
from tta_dev_primitives.blocks.wire.reply_problems import unknown_finish
from tta_dev_primitives.blocks.wire.types import ChatReply
from tta_dev_primitives.flows.answers.closed_answers import AnswerFormat, final_answer
from tta_dev_primitives.flows.answers.fields import forms_of
from tta_dev_primitives.flows.answers.output_type import InvalidAnswerError, OutputType
from tta_dev_primitives.flows.answers.parts import Part
from tta_dev_primitives.flows.planning.plan_model import Plan
from tta_dev_primitives.flows.validation.prompt_quoting import has_marker, plain


@dataclass(frozen=True, slots=True)
class Checked:
    """A reply after its local checks."""

    text: str
    """The answer; of a reply to a question for some fields the whole object."""
    failures: tuple[str, ...] = ()
    final: str | None = None
    """Its canonical closed answer, if it has one."""
    fields: tuple[str, ...] | None = None
    """The fields that were asked for; None: all."""


MOST_CHARACTERS = 400_000


class HasTask(Protocol):
    """What a check must know of the work: the task's text and its plan."""

    @property
    def task(self) -> str:
        """The task as the user wrote it."""

    @property
    def plan(self) -> Plan | None:
        """Its plan, if it has one already."""

    @property
    def output(self) -> OutputType | None:
        """The type of the answer; None: text."""


def check_answer(item: HasTask, reply: ChatReply, part: Part | None = None) -> Checked:
    """What is wrong with one reply to one task, and its canonical closed answer if it has one.

    Args:
        part: The fields that were asked for, of a typed answer; None: the whole.
    """
    if item.output is not None:
        return _check_typed(item, item.output, reply, part)
    fmt: AnswerFormat = item.plan.answer_format if item.plan is not None else "open"
    # A server that gives no reason at all ends its answers like any other; a reason that no table knows is a doubt.
    finish = "stop" if reply.finish == "unknown" and unknown_finish(reply) is None else reply.finish
    failures = check_text(reply.text, answer_format=fmt, finish=finish, task=item.task)
    if prompt_was_cut(item.task, reply):
        failures = (*failures, "prompt_cut")
    return Checked(reply.text, failures, final_answer(reply.text, fmt))


def _check_typed(item: HasTask, output: OutputType, reply: ChatReply, part: Part | None) -> Checked:
    """As `check_answer` for a typed task: data of its type, and the closed fields as the comparable answer.

    Values for some fields are checked twice: against the cut schema, and as parts of the whole object.
    A failure `wrong_format` carries the first fault and what asked for the form.
    """
    failures = [
        word
        for word in check_text(reply.text, answer_format="open", finish=reply.finish, task=item.task)
        if word in ("empty", "truncated", "filtered", "too_long")
    ]
    if prompt_was_cut(item.task, reply):
        failures.append("prompt_cut")
    if failures:
        return Checked(reply.text, tuple(failures))
    try:
        text = reply.text if part is None else json.dumps(part.whole(reply.text), ensure_ascii=False)
        data = output.read(text).data
    except InvalidAnswerError as error:
        fault = f"wrong_format: {error} (expected by the caller's output type or schema)"
        return Checked(reply.text, (fault,))
    return Checked(text, (), comparable(output.schema, data), None if part is None else part.fields)


def comparable(schema: Mapping[str, Any], data: Any) -> str | None:
    """The forms of the closed fields as one line; None when there is nothing but open text to compare."""
    forms = forms_of(schema, data)
    if None in forms.values() and set(forms.values()) <= {None, "null"}:
        return None
    return json.dumps(forms, sort_keys=True, ensure_ascii=False)


def prompt_was_cut(task: str, reply: ChatReply) -> bool:
    """Whether the server read only a part of the task: it counted far fewer tokens than the task has words."""
    read, least = reply.usage.total_input, fewest_tokens(task)
    return 0 < read < least - max(_SLACK_TOKENS, least // 20)


_SLACK_TOKENS = 100


def check_text(
    text: str,
    *,
    answer_format: AnswerFormat,
    finish: str = "stop",
    task: str = "",
    most: int = MOST_CHARACTERS,
) -> tuple[str, ...]:
    """What is wrong with an answer, in a fixed order; empty when it may be delivered.

    Args:
        answer_format: The inferred form; what has it is whole, whatever the server says of its end.
        finish: How the model ended, in the wire types' words.
        most: Longest answer in characters.
    """
    shown = plain(text).strip()
    if not shown:
        return ("truncated",) if finish == "length" else ("empty",)
    failures = []
    if finish == "length" or (finish == "unknown" and not _is_whole(shown, answer_format)):
        failures.append("truncated")
    if finish == "content_filter":
        failures.append("filtered")
    if _refuses(shown):
        failures.append("refusal")
    if _echoes(shown, task):
        failures.append("echo")
    if has_marker(text):
        failures.append("leaked_frame")
    if len(text) > most:
        failures.append("too_long")
    return tuple(failures)


_END = re.compile(r"[.!?…。！？»”\"')\]}`*|>]\s*\Z")


def _is_whole(text: str, fmt: AnswerFormat) -> bool:
    """Whether an answer ends as whole ones do: in its closed form, or at the end of a sentence or block."""
    if final_answer(text, fmt) is not None:
        return True
    if fmt == "json" and text.startswith("{"):
        return False
    return _END.search(text) is not None and text.count("```") % 2 == 0


_REFUSAL = re.compile(
    r"\W*(?:(?:i['’]?m|i am) (?:really |very |so )?sorry,?|sorry,|apologies,|unfortunately,|as an ai[\w ]*,)?"
    r"\s*(?:but\s+)?(?:i|we)(?:['’]?m| am)? (?:can(?:no|['’])t|can not|unable to|won['’]t|will not|not able to|"
    r"must decline|have to decline)\s+(?:to\s+)?(?:\w+\s+){0,2}?"
    r"(?:help|assist|answer|comply|fulfil|fulfill|do that|do this|provide|create|generate|write|discuss|continue|"
    r"engage|support|participate|share|complete|process)",
    re.I,
)
_LONG_FOR_A_REFUSAL = 600


def _refuses(text: str) -> bool:
    """A refusal opens with saying so and has little after it; a long text that says sorry first is an answer."""
    return len(text) <= _LONG_FOR_A_REFUSAL and _REFUSAL.match(text) is not None


def _echoes(text: str, task: str) -> bool:
    """The answer is the task again, or begins with the whole of a long one and adds next to nothing."""
    asked = " ".join(task.split()).casefold()
    said = " ".join(text.split()).casefold()
    if len(asked) < 20:
        return False
    return said == asked or (len(asked) > 80 and said.startswith(asked) and len(said) < len(asked) * 1.1)
