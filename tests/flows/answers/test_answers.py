"""Closed answers are found, brought to one form and compared; whatever is in doubt is never equal."""

from __future__ import annotations

import json
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_dev_primitives.flows.answers.closed_answers import FORMATS, agree, canonical, final_answer

closed = st.sampled_from([f for f in FORMATS if f != "open"])
snippets = st.sampled_from(
    [
        "$",
        "1,250",
        "50%",
        "\\frac{3}{4}",
        "\\boxed{",
        "}",
        " dollars",
        "1e5",
        "(B)",
        "'a'",
        "[1, 2]",
        "-",
        "½",
        "\u200b",
    ]
)
texts = st.lists(st.one_of(st.text(max_size=6), snippets), max_size=5).map("".join)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1,250", "1250.00"),
        ("$1,250.00", "1250 dollars"),
        ("-$5", "-5"),
        ("\\frac{3}{4}", "0.75"),
        ("\\dfrac34", "3/4"),
        ("1 1/2", "1.5"),
        ("\\boxed{42}", "42"),
        ("**42**", "42"),
        ("3e2", "300"),
        ("3 \\times 10^{2}", "300"),
        ("2 million", "2000000"),
        ("45 apples", "45"),
        ("45 apple", "45 apples"),
        ("50%", "50 percent"),
        ("50", "50%"),
        ("−7", "-7"),
        ("１２", "12"),
        ("72 km/h", "72"),
        ("twelve", "12"),
        ("1/3", "2/6"),
        ('67"', "67"),
        ("55 m/s", "55"),
        ("6 pizzas (3 cheese and 3 pepperoni)", "6"),
        ("Peter is 50 years old.", "50"),
        ("Elvis is 54 miles east of his house.", "54"),
        ("The total cost is $160.", "160"),
    ],
)
def test_numbers_that_say_the_same_agree(left: str, right: str) -> None:
    """Separators, currency, units, fractions, LaTeX and powers of ten do not make two answers of one."""
    assert agree(canonical(left, "number"), canonical(right, "number"))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("45 cents", "45 dollars"),
        ("$45", "45 cents"),
        ("0.5", "0.5%"),
        ("0.5", "50%"),
        ("3 hours", "180 minutes"),
        ("1,25", "125"),
        ("3k", "3"),
        ("3 dozen", "3"),
        ("2 or 3", "2"),
        ("2 and 3", "2"),
        ("12 * 12 = 144", "144"),
        ("3:30", "3"),
        ("1.000.000", "1000000"),
        ("x = 5", "5"),
        ("2x", "2"),
        ("5/0", "5"),
        ("about 12", "12"),
        ("3 (or 4)", "3"),
        ("It is 3 or 4.", "3"),
        ("He has twice 5.", "5"),
        ("He is 5 million dollars richer.", "5"),
        ("She has 12% left.", "12"),
        ("It takes 3/4 of it.", "3"),
        ("There are 5, not 6.", "5"),
        ("She has three dogs and is 5.", "5"),
        ("He is not 5.", "5"),
        ("1" * 50, "1" * 50),
        ("1e999", "1e999"),
        ("", ""),
    ],
)
def test_numbers_in_doubt_never_agree(left: str, right: str) -> None:
    """Other units, shares against percentages, unsure separators and expressions stay apart, even from themselves."""
    assert not agree(canonical(left, "number"), canonical(right, "number"))


@pytest.mark.parametrize(
    ("fmt", "text", "expected"),
    [
        ("choice", "(B)", "B"),
        ("choice", "B) Paris", "B"),
        ("choice", "Option c", "C"),
        ("choice", "The correct answer is (D).", "D"),
        ("choice", "A dog", None),
        ("choice", "(A) and (B)", None),
        ("choice", "A, C", None),
        ("choice", "ABCD", "ABCD"),
        ("choice", "The answers are ACD.", "ACD"),
        ("choice", "BAD", None),
        ("choice", "AAB", None),
        ("boolean", "Yes, because it rains.", "true"),
        ("boolean", "FALSE", "false"),
        ("boolean", "No doubt it is true", None),
        ("boolean", "maybe", None),
        ("json", '{"b": 1.0, "a": [1, "x"]}', '{"a":[1,"x"],"b":1}'),
        ("json", '{"a": 1, "a": 2}', None),
        ("json", "[NaN]", None),
        ("literal", "Done!", "'Done!'"),
        ("literal", '"Done!"', "'Done!'"),
        ("literal", "{2, 1}", "{1, 2}"),
        ("literal", "{'b': 1, 'a': 2}", "{'a': 2, 'b': 1}"),
        ("literal", "'a' + 'b'", None),
        ("literal", ")'", ")'"),
        ("literal", "[1, 2", "[1, 2"),
        ("literal", " abc", None),
        ("literal", "001", "'001'"),
        ("literal", ")", "')'"),
        ("literal", "assert f([2, 0], 3) == [-5, 3]", "[-5, 3]"),
        ("literal", "f('a') == 'b'", "'b'"),
        ("literal", "assert f(2) == g(3)", None),
        ("short", "The Eiffel Tower.", "eiffel tower"),
        ("short", "\\dfrac{\\pi}{2}", "\\frac{\\pi}{2}"),
        ("short", "$ 1,000 $", "1000"),
        ("short", "x" * 500, None),
        ("short", "Peter is 50 years old.", "50"),
    ],
)
def test_each_format_has_one_form(fmt: str, text: str, expected: str | None) -> None:
    """Labels, truth values, JSON, Python literals and short strings read as one form, or as none."""
    assert canonical(text, fmt) == expected  # type: ignore[arg-type]


def test_python_values_of_other_types_stay_apart() -> None:
    """1, 1.0, True and '1' are four answers."""
    forms = {canonical(text, "literal") for text in ("1", "1.0", "True", "'1'")}
    assert len(forms) == 4


@pytest.mark.parametrize(
    ("fmt", "text", "expected"),
    [
        ("number", '{"reasoning": "3*3=9, 5*9=45", "answer": "45"}', "45"),
        ("number", 'Here:\n```json\n{"reasoning": "x", "answer": 45}\n```', "45"),
        ("number", '{"reasoning": "a "quoted" word", "answer": "1,250"}', "1250"),
        ("number", "So 40 + 5 = 45.\n#### 45", "45"),
        ("number", "Thus the answer is $45.", "45 $"),
        ("number", "The answer is 40. No wait, the answer is 45.", "45"),
        ("number", "We get \\boxed{\\frac{1}{2}}.", "0.5"),
        ("number", "There are 3 cats and 4 dogs.", None),
        ("number", "45", "45"),
        ("short", '{"answer": "\\frac{1}{2}"}', "0.5"),
        ("choice", "I think the answer is (B) because it is.", "B"),
        ("json", 'Sure:\n```json\n{"a": 1}\n```', '{"a":1}'),
        ("literal", '{"answer": "[1, 2]"}', "[1, 2]"),
        ("number", '{"answer": "1", "answer": "2"}', None),
        ("open", '{"answer": "45"}', None),
        ("number", '{"answer": null}', None),
    ],
)
def test_the_final_answer_is_found_in_the_text(fmt: str, text: str, expected: str | None) -> None:
    """JSON fields, fences, broken JSON, `####`, boxes and "the answer is" give the answer; prose gives none."""
    assert final_answer(text, fmt) == expected  # type: ignore[arg-type]


@given(texts, closed)
def test_canonical_is_idempotent(text: str, fmt: str) -> None:
    """The one form of the one form is itself."""
    once = canonical(text, fmt)  # type: ignore[arg-type]
    if once is not None:
        assert canonical(once, fmt) == once  # type: ignore[arg-type]


@given(texts, texts, closed)
def test_agreement_is_reflexive_and_symmetric(left: str, right: str, fmt: str) -> None:
    """What can be read agrees with itself, and agreement does not depend on who is asked first."""
    a, b = canonical(left, fmt), canonical(right, fmt)  # type: ignore[arg-type]
    assert agree(a, a) is (a is not None)
    assert agree(a, b) is agree(b, a)


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_different_numbers_never_agree(left: int, right: int) -> None:
    """However a number is written, it agrees with the same number only."""
    for write in ("{}", "${:,}", "{:,}.00", "{} apples"):
        assert agree(canonical(write.format(left), "number"), canonical(str(right), "number")) is (
            left == right
        )


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(),
        lambda c: st.lists(c) | st.dictionaries(st.text(max_size=4), c),
        max_leaves=8,
    )
)
def test_json_in_any_order_is_one_answer(value: object) -> None:
    """Key order and white space do not matter in JSON."""
    wide = canonical(json.dumps(value, indent=1), "json")
    assert wide == canonical(json.dumps(value, sort_keys=True), "json")


@given(texts, closed)
def test_any_text_is_read_without_a_warning(text: str, fmt: str) -> None:
    """No input raises or warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        final_answer(text, fmt)  # type: ignore[arg-type]


def test_nothing_agrees_with_nothing() -> None:
    """Two unreadable answers are no agreement."""
    assert not agree(None, None)
    assert not agree(None, "1")


def test_an_answer_field_may_hold_the_empty_string() -> None:
    """Code that returns "" is answered by "": that says the same as its literal, and nothing without a field does."""
    assert final_answer('{"reasoning": "it stays empty", "answer": ""}', "literal") == canonical(
        "''", "literal"
    )
    assert final_answer("", "literal") is None
    assert final_answer('{"answer": ""}', "short") is None


def test_a_question_about_true_or_false_tests_may_be_answered_with_a_number() -> None:
    """ "How many points do 25 true/false questions give?" is read as a number where no truth value was given."""
    assert final_answer('{"answer": "41"}', "boolean") == "41"
    assert final_answer('{"answer": "true"}', "boolean") == "true"
    assert final_answer('{"answer": "perhaps"}', "boolean") is None
