"""Local checks: what nobody should be shown is found before anybody is paid."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_dev_primitives.blocks.wire.types import ChatReply
from tta_dev_primitives.config.models.targets import Usage
from tta_dev_primitives.flows.answers.closed_answers import FORMATS
from tta_dev_primitives.flows.planning.plan_model import Plan
from tta_dev_primitives.flows.validation.local_checks import Checked, check_answer, check_text

LONG_TASK = (
    "Describe the harbour of Hamburg in the year 1900, its ships, its people and its trade, in one paragraph."
)


@pytest.mark.parametrize(
    ("text", "finish", "fmt", "failures"),
    [
        ("Paris.", "stop", "open", ()),
        ("", "stop", "open", ("empty",)),
        (" \n\u200b", "stop", "open", ("empty",)),
        ("", "length", "open", ("truncated",)),
        ("The harbour was", "length", "open", ("truncated",)),
        ("Paris.", "content_filter", "open", ("filtered",)),
        ("I'm sorry, but I can't help with that.", "stop", "open", ("refusal",)),
        ("As an AI language model, I cannot provide that.", "stop", "open", ("refusal",)),
        ("Unfortunately, I am unable to assist with this request.", "stop", "open", ("refusal",)),
        ("I can't believe how good it was! " + "It was. " * 90, "stop", "open", ()),
        ("I cannot help but admire it. " + "It was. " * 90, "stop", "open", ()),
        (LONG_TASK, "stop", "open", ("echo",)),
        (f"  {LONG_TASK.upper()}\n", "stop", "open", ("echo",)),
        (f"{LONG_TASK}\n\nThe harbour was busy. " * 2, "stop", "open", ()),
        ("<<<answer " + "0" * 16 + ">>>", "stop", "open", ("leaked_frame",)),
        ("x" * 400_001, "stop", "open", ("too_long",)),
    ],
)
def test_each_fault_has_its_word(text: str, finish: str, fmt: str, failures: tuple[str, ...]) -> None:
    """Empty, cut, filtered, refused, echoed, leaked and endless answers are named."""
    assert check_text(text, answer_format=fmt, finish=finish, task=LONG_TASK) == failures  # type: ignore[arg-type]


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("finish", ["stop", "unknown"])
def test_an_inferred_format_refuses_no_answer(fmt: str, finish: str) -> None:
    """The format of a plan is a guess about the task: a good answer in another form is not refused for it."""
    summary = "The letter asks the council for a new bridge and names its cost."
    assert check_text(summary, answer_format=fmt, finish=finish, task=LONG_TASK) == ()  # type: ignore[arg-type]


class Work:
    """A task with a plan, as the checks need to know it."""

    def __init__(self, task: str, plan: Plan | None) -> None:
        self.task = task
        self.plan = plan
        self.output = None


def test_a_reply_is_checked_against_its_plan_and_its_closed_answer_read() -> None:
    """One call gives the failures and the canonical answer."""
    reply = ChatReply('{"answer": "1,250"}', "stop", Usage())
    assert check_answer(Work("How many?", Plan(use_case="simple", answer_format="number")), reply) == Checked(
        reply.text, (), "1250"
    )
    assert check_answer(Work("How many?", None), reply) == Checked(reply.text)


def test_several_choices_are_a_closed_answer() -> None:
    """A question with several right choices is answered by their letters in one word."""
    plan = Plan(use_case="simple", answer_format="choice")
    work = Work("Which are incorrect? A) ... B) ... C) ... D) ...", plan)
    assert check_answer(work, ChatReply("ABCD", "stop", Usage())) == Checked("ABCD", (), "ABCD")


@pytest.mark.parametrize(
    ("text", "fmt", "failures"),
    [
        ("It ends in the sea.", "open", ()),
        ("```python\nx = 1\n```", "open", ()),
        ("It ends in", "open", ("truncated",)),
        ("```python\nx = (1)", "open", ("truncated",)),
        ("5", "number", ()),
        ('{"a": 1}', "json", ()),
        ('{"a": {"b": 1}', "json", ("truncated",)),
    ],
)
def test_an_unknown_end_needs_a_whole_answer(text: str, fmt: str, failures: tuple[str, ...]) -> None:
    """A finish reason that no table knows beside text: a whole sentence or closed form passes, a torn one not."""
    work = Work("How does it end?", Plan(use_case="simple", answer_format=fmt))  # type: ignore[arg-type]
    reply = ChatReply(text, "unknown", Usage(input_tokens=9, output_tokens=9), raw_finish="wizard_left")
    assert check_answer(work, reply).failures == failures
    assert check_answer(work, replace(reply, raw_finish=None)).failures == ()


def test_a_prompt_that_the_server_cut_fails() -> None:
    """A count far below the words of the task says that the model read a part of it; a plausible one does not."""
    work = Work("The heron waits in the shallow water. " * 800, None)
    reply = ChatReply("It is about birds.", "stop", Usage(input_tokens=2050, output_tokens=6))
    assert check_answer(work, reply).failures == ("prompt_cut",)
    assert check_answer(work, replace(reply, usage=Usage(input_tokens=7000, output_tokens=6))).failures == ()
    assert check_answer(work, replace(reply, usage=Usage())).failures == ()


@given(st.text(max_size=200), st.sampled_from(FORMATS), st.sampled_from(["stop", "length", "unknown"]))
def test_any_text_can_be_checked(text: str, fmt: str, finish: str) -> None:
    """No text raises."""
    assert isinstance(check_text(text, answer_format=fmt, finish=finish, task="x" * 30), tuple)  # type: ignore[arg-type]
