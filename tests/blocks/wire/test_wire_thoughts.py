"""Thoughts inside an answer's text are taken out of it; text that speaks of a tag stays."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_samples import NOW, target

from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.blocks.wire.reply_problems import reply_problem
from tta_dev_primitives.blocks.wire.thoughts import split_thoughts
from tta_dev_primitives.blocks.wire.types import ChatReply
from tta_dev_primitives.config.provider_errors import ErrorClass

HARMONY = (
    "<|channel|>analysis<|message|>2 and 3<|end|><|start|>assistant<|channel|>final<|message|>5<|return|>"
)


@pytest.mark.parametrize(
    ("text", "answer", "thoughts"),
    [
        ("<think>\n2 and 3\n</think>\n\n5", "5", "2 and 3"),
        ("<think></think>5", "5", ""),
        ("<THINK>a</THINK> 5", "5", "a"),
        ("  <thinking>a</thinking>\n<think>b</think>\n5", "5", "a\n\nb"),
        ("2 and 3 make 5.\n</think>\n\n5", "5", "2 and 3 make 5."),
        ("so it is 5.</think>5", "5", "so it is 5."),
        ("<think>a<think>b</think>c</think>5", "5", "a<think>b\n\nc"),
        ("<think>\nuse ```json </think>\n```json\n{}\n```", "```json\n{}\n```", "use ```json"),
        ('<think>\nThe tag "</think>" ends it.\n</think>\n5', "5", 'The tag "</think>" ends it.'),
        ("[THINK]a[/THINK]5", "5", "a"),
        ("◁think▷a◁/think▷5", "5", "a"),
        ("<seed:think>a</seed:think>5", "5", "a"),
        ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>5<|END_RESPONSE|>", "5", "a"),
        (HARMONY, "5", "2 and 3"),
        ("<|channel|>analysis 2 and 3 <|channel|>final 5", "5", "2 and 3"),
        ("2 and 3<|end|><|start|>assistant<|channel|>final<|message|>5", "5", "2 and 3"),
        ('<|channel|>final <|constrain|>json<|message|>{"a":1}', '{"a":1}', ""),
        ("analysisWe add.assistantfinal5", "5", "We add."),
        ("<think>\nnever ends", "", "never ends"),
        ("<|channel|>analysis<|message|>never ends", "", "never ends"),
        ("Sure.\n<think>\na\n</think>\n5", "Sure.\n\n5", "a"),
    ],
)
def test_thoughts_are_taken_out(text: str, answer: str, thoughts: str) -> None:
    """Blocks, closing tags alone, other vendors' brackets, harmony channels; an open end takes all."""
    assert split_thoughts(text) == (answer, thoughts)


@pytest.mark.parametrize(
    "text",
    [
        "I think 2 and 3 make 5.",
        "Qwen writes `<think>` first and `</think>` last.",
        'Put it between "<think>" and "</think>".',
        "```\n<think>\nhidden\n</think>\n```\nThat is the format.",
        "The tag </think> closes what <think> opens.",
        '{"template": "<think>x</think>", "n": 1}',
        "`<|channel|>final` marks the answer.",
        "if a<b and c>d: analysis of the final assistant",
        "The analysis is final.",
    ],
)
def test_text_about_thoughts_stays(text: str) -> None:
    """In code, in quotes, in a sentence, in JSON."""
    assert split_thoughts(text) == (text, "")


@given(st.text(max_size=120), st.text(alphabet="abc 123.\n", min_size=1, max_size=60))
def test_what_follows_the_thoughts_is_the_answer(thoughts: str, answer: str) -> None:
    """Whatever a model thinks, the text after its closing tag comes through."""
    inner = thoughts.replace("<", "").replace("[", "").replace("◁", "").replace('"', "").replace("`", "")
    inner = "".join(c for c in inner if c not in "“”«»'‘’")
    assert split_thoughts(f"<think>\n{inner}\n</think>\n{answer}")[0] == answer.strip()


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "\n", "`", "```\n", '"', "a ", "<|channel|>final", "5"]))
)
def test_any_mixture_of_tags_can_be_split(parts: list[str]) -> None:
    """Nothing raises, and nothing is invented."""
    answer, _ = split_thoughts("".join(parts))
    assert len(answer) <= len("".join(parts)) + 2 * len(parts)


def read(provider: str, payload: Any) -> ChatReply:
    return wire_format(provider).parse(target(provider), 200, {}, json.dumps(payload).encode(), now=NOW)


def chat(**message: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9}}


@pytest.mark.parametrize(
    ("provider", "payload"),
    [
        ("groq", chat(content="5", reasoning="why")),
        ("openai-compatible", chat(content="5", reasoning_content="why")),
        ("openai-compatible", chat(content="<think>why</think>5")),
        ("openrouter", chat(content="5", reasoning_details=[{"type": "reasoning.text", "text": "why"}])),
        (
            "openai-compatible",
            chat(
                content=[
                    {"type": "thinking", "thinking": [{"type": "text", "text": "why"}]},
                    {"type": "text", "text": "5"},
                ]
            ),
        ),
        (
            "anthropic",
            {
                "type": "message",
                "content": [{"type": "thinking", "thinking": "why"}, {"type": "text", "text": "5"}],
                "stop_reason": "end_turn",
            },
        ),
        (
            "google-ai-studio",
            {
                "candidates": [
                    {
                        "content": {"parts": [{"text": "why", "thought": True}, {"text": "5"}]},
                        "finishReason": "STOP",
                    }
                ]
            },
        ),
    ],
)
def test_every_format_keeps_thoughts_apart(provider: str, payload: Any) -> None:
    """In a field, in a part, in the text: the answer is `5` and the reasoning `why`."""
    reply = read(provider, payload)
    assert (reply.text, reply.reasoning) == ("5", "why")


def test_a_stream_keeps_thoughts_apart() -> None:
    """Pieces of both kinds are added up, also when a tag is torn between two pieces."""
    pieces = [
        {"reasoning_content": "wh"},
        {"reasoning_content": "y"},
        {"content": "<thi"},
        {"content": "nk>x</think>5"},
    ]
    chunks = [{"choices": [{"delta": piece}]} for piece in pieces]
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    reply = wire_format("openai-compatible").parse(
        target("openai-compatible"), 200, {}, text.encode(), now=NOW
    )
    assert (reply.text, reply.reasoning) == ("5", "why\n\nx")


@pytest.mark.parametrize(
    ("finish", "problem"), [("stop", ErrorClass.EMPTY), ("length", ErrorClass.TRUNCATED)]
)
def test_thoughts_without_an_answer_are_no_answer(finish: str, problem: ErrorClass) -> None:
    """Empty, or cut while thinking."""
    payload = {"choices": [{"message": {"content": "<think>\nhm"}, "finish_reason": finish}]}
    assert reply_problem(read("groq", payload)) is problem
