"""JSON of verdicts and plans: what the strict reader takes, and what it refuses because money hangs on it."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_dev_primitives.flows.answers.strict_json import StrictJsonError, one_object


@pytest.mark.parametrize(
    "text",
    [
        '{"score": 0.9}',
        '  \n{"score": 0.9}\n ',
        '```json\n{"score": 0.9}\n```',
        '```\n{"score": 0.9}\n```',
    ],
)
def test_one_object_is_taken_with_or_without_a_fence(text: str) -> None:
    """Blank space and one code fence around the object do no harm."""
    assert one_object(text) == {"score": 0.9}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("```json\n\n```", "is empty"),
        ("yes", "not one JSON object"),
        ('{"score": 0.9} and more', "not one JSON object"),
        ('Here it is: {"score": 0.9}', "not one JSON object"),
        ('{"score": 0.9}{"score": 1}', "not one JSON object"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ('{"\\uDFff": 1}', "half of a surrogate pair"),
        ('{"a": "\ud800"}', "half of a surrogate pair"),
        ("[1]", "expected a JSON object, got list"),
        ('"score"', "expected a JSON object, got str"),
        ("null", "expected a JSON object, got NoneType"),
        ('{"score": 0.9, "score": 1.0}', "the key 'score' stands twice"),
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' stands twice"),
        ('{"' + "x" * 1001 + '": 1}', "is longer than 1,000 characters"),
        ('{"score": NaN}', "NaN is not a JSON number"),
        ('{"score": Infinity}', "Infinity is not a JSON number"),
        ('{"score": -Infinity}', "-Infinity is not a JSON number"),
        ('{"score": 1e999}', "is out of range"),
        ('{"score": 1e-999}', "is out of range"),
        ('{"n": ' + "9" * 5000 + "}", "a number is too long"),
        ("{'score': 1}", "not one JSON object"),
        ('{"a":' * 21 + "1" + "}" * 21, "nested more than 20 levels"),
        ("[" * 100_000, "nested more than 20 levels"),
        ('{"a": "' + "x" * 300_000 + '"}', "longer than"),
        ("```json\n```json\n{}\n```\n```", "not one JSON object"),
    ],
)
def test_everything_else_is_refused_with_a_reason(text: str, reason: str) -> None:
    """The reason is one line that can be shown to the model for its second try."""
    with pytest.raises(StrictJsonError, match=reason) as caught:
        one_object(text)
    assert len(str(caught.value)) < 120
    assert "\n" not in str(caught.value)


def test_brackets_in_strings_are_not_nesting() -> None:
    """Depth counts structure only, with escaped quotes in view."""
    text = json.dumps({"code": "[" * 50 + '\\"' + "{" * 50})
    assert one_object(text)["code"].count("[") == 50


@given(st.text(max_size=60) | st.text(alphabet='{}[]":,0123456789.eE+-nulltrefas \n`', max_size=60))
def test_no_text_escapes_the_one_error(text: str) -> None:
    """Any text: an object or an `StrictJsonError`."""
    try:
        answer = one_object(text)
    except StrictJsonError:
        return
    assert isinstance(answer, dict)


@given(
    st.dictionaries(
        st.text(max_size=6),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=9),
        max_size=5,
    )
)
def test_every_honest_object_survives(value: dict[str, object]) -> None:
    """What was written is what is read."""
    assert one_object(json.dumps(value)) == value
    assert all(not isinstance(v, float) or math.isfinite(v) for v in value.values())
