"""What a paid opinion on one answer is expected to cost, and which one is cheaper. Pure, exact decimals.

A verdict reads the task and the answer and writes a few tokens. The orchestrator's own answer reads the task and writes
a whole answer, which is delivered then. On short answers the verdict is the dearer one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from tta_dev_primitives.config.models.targets import Price, Usage

VERDICT_PROMPT, VERDICT_OUTPUT = 169, 14
"""Tokens of a verdict's prompt beside the task and the answer, and of a verdict: counted with two public tokenizers."""
VERDICT_CAP, _BYTES, _FIXED = 40, 4.5, 760
"""A call is held at its cap of output tokens and one token a byte; `_FIXED`: bytes of the prompt, and what providers
add."""

_CLASSES = (64, 256, 1024)
_MOST_RATIO = 2.0
"""A longer paid answer counts as this many times the free one: one outlier must not raise a baseline."""
_SPREAD = 0.25
"""Standard deviation that a class is believed to have before its own pairs show one."""
_Z = 1.64


def tokens_of(text: str) -> int:
    """A guess of a text's tokens, for answers whose usage is not known."""
    return len(text) // 4 + 1


def length_class(tokens: int) -> int:
    """The length class of an answer of so many output tokens: 0 for short ones, 3 for the longest."""
    return sum(tokens > most for most in _CLASSES)


@dataclass(frozen=True, slots=True)
class LengthRatios:
    """How long the orchestrator's answers are against those of the executors, by length class of the latter.

    Each class keeps the number of pairs, the sum of their ratios and the sum of the squares.
    """

    classes: Mapping[int, tuple[int, float, float]] = field(default_factory=dict)

    @staticmethod
    def ratio(delivered: int, own: int) -> float:
        """The ratio of one pair, in tokens, as it is counted."""
        return min(_MOST_RATIO, own / max(1, delivered))

    def with_pair(self, delivered: int, own: int) -> LengthRatios:
        """The ratios after one more pair."""
        ratio, key = self.ratio(delivered, own), length_class(delivered)
        n, total, squares = self.classes.get(key, (0, 0.0, 0.0))
        return LengthRatios({**self.classes, key: (n + 1, total + ratio, squares + ratio * ratio)})

    def expected(self, tokens: int) -> float:
        """The mean ratio of the class; 1 before the first pair."""
        n, total, _ = self.classes.get(length_class(tokens), (0, 0.0, 0.0))
        return total / n if n else 1.0

    def lower(self, tokens: int) -> float:
        """The lower end of the ratio's 90 % interval, within 0 and 1; 1 before the first pair."""
        n, total, squares = self.classes.get(length_class(tokens), (0, 0.0, 0.0))
        if not n:
            return 1.0
        mean = total / n
        variance = (max(0.0, squares - n * mean * mean) + _SPREAD**2) / n
        return min(1.0, max(0.0, mean - _Z * float((variance / n) ** 0.5)))


@dataclass(frozen=True, slots=True)
class OpinionCosts:
    """What the orchestrator's opinions cost on one task."""

    price: Price
    ratios: LengthRatios = field(default_factory=LengthRatios)
    most_tokens: int = 2048
    """Output tokens at which an answer is held."""
    room_to_think: int = 0
    """Output tokens that a verdict is held at beyond its own (`Capabilities.room_to_think`)."""

    def verdict(self, task_tokens: int, answer_tokens: int) -> Decimal:
        """USD expected for a verdict."""
        read = VERDICT_PROMPT + task_tokens + answer_tokens
        return self.price.cost(Usage(read, output_tokens=VERDICT_OUTPUT))

    def verdict_bound(self, task_tokens: int, answer_tokens: int) -> Decimal:
        """USD, about, that a verdict must have saved before it is asked for: what is held for it."""
        read = round((task_tokens + answer_tokens) * _BYTES)
        return self.price.most(read + _FIXED, VERDICT_CAP + self.room_to_think)

    def check_bound(self, task_tokens: int, answer_tokens: int, *, closed: bool) -> Decimal:
        """USD, about, that are held for the cheaper check: a solution, or for an open task a verdict."""
        solution = self.price.most(round(task_tokens * _BYTES) + _FIXED, self.most_tokens)
        return solution if closed else min(solution, self.verdict_bound(task_tokens, answer_tokens))

    def answer(self, task_tokens: int, answer_tokens: int) -> Decimal:
        """USD expected for the orchestrator's own answer, from the length of the one that is there."""
        wrote = round(answer_tokens * self.ratios.expected(answer_tokens))
        return self.price.cost(Usage(task_tokens, output_tokens=wrote))

    def answer_is_cheaper(self, task_tokens: int, answer_tokens: int, failure_rate: float) -> bool:
        """True when a verdict costs at least what its yes would save."""
        verdict = self.verdict(task_tokens, answer_tokens)
        yes = Decimal(repr(min(1.0, max(0.0, 1.0 - failure_rate))))
        return verdict >= yes * self.answer(task_tokens, answer_tokens)
