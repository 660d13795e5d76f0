"""Answers that doubt themselves are told from those that do not."""

from __future__ import annotations

import pytest

from tta_dev_primitives.flows.answers.hedging import hedged


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("It is not stated, so we assume 8 hours a day. The answer is 42.", "42"),
        ("That gives 12. However, one of them is broken: 11.", "11"),
        ("This can't be, so it is approximately 7.", "7"),
        ("Rounded up that is 4.", "4"),
        ("Each gets a share.", "3.5"),
        ("Each gets a share.", "10/3 boxe"),
    ],
)
def test_a_wavering_text_or_a_broken_number_is_doubted(text: str, final: str) -> None:
    """Words that take something back or guess, and numbers that are not whole."""
    assert hedged(text, final)


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("3 boxes of 14 are 42.", "42"),
        ("The round table seats 8, the button is red, and a cannon is no can.", "8 seat"),
        ("It is Paris.", "paris"),
        ("Nothing to read here.", None),
    ],
)
def test_a_plain_answer_is_not_doubted(text: str, final: str | None) -> None:
    """Whole numbers and labels, and words that only look like wavering."""
    assert not hedged(text, final)
