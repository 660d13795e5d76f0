"""What the sandbox answers when no rule says otherwise: labelled, deterministic, of the form asked for."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, DivisionByZero, InvalidOperation, localcontext
from typing import Any, Literal

from tta_dev_primitives.config.models.targets import Usage
from tta_dev_primitives.deployments.sandbox.chat import Answer, Ask, estimate_tokens
from tta_dev_primitives.deployments.sandbox.http_reply import token
from tta_dev_primitives.deployments.sandbox.scenario.samples import sample

LABEL = "[sandbox]"
_VERDICT = {"properties": {"score": {"type": "number"}, "reason": {"type": "string"}}}
"""What a verdict looks like when the request does not say it."""


def answer_for(ask: Ask, *, verdict: Literal["accept", "reject"] = "accept") -> Answer:
    """The default answer: JSON when a schema is known, a verdict when one is asked, else labelled text."""
    schema = ask.schema if ask.schema is not None else _schema_in(ask)
    if schema is None and ask.prompt == "verdict":
        schema = _VERDICT
    solution = solve(ask.user)
    if schema is not None:
        value = sample(schema, answer=solution, verdict=verdict if ask.prompt == "verdict" else None)
        return scripted_answer(ask, json.dumps(value, ensure_ascii=False))
    if _wants_json(ask):
        value = {"reasoning": f"{LABEL} no model was asked", "answer": solution or LABEL}
        return scripted_answer(ask, json.dumps(value))
    if solution is not None:
        return scripted_answer(ask, f"{LABEL} The answer is {solution}.")
    mark = token(ask.user, length=8)
    text = f"{LABEL} This is a scripted answer to task {mark}. It comes from the sandbox provider under the name of "
    return scripted_answer(ask, f"{text}{ask.model}; no language model was asked and nothing was paid.")


def scripted_answer(ask: Ask, text: str) -> Answer:
    """An answer with the given text and plausible usage."""
    usage = Usage(input_tokens=ask.input_tokens, output_tokens=max(1, estimate_tokens(text)))
    return Answer(text, usage, finish="tool" if ask.tool else "stop")


def _wants_json(ask: Ask) -> bool:
    return ask.json_mode or bool(re.search(r"\bjson (?:format|object)\b", ask.user, re.I) and "{" in ask.user)


def _schema_in(ask: Ask) -> Mapping[str, Any] | None:
    """A JSON Schema written into the prompt, as models without a schema mode get it."""
    decoder = json.JSONDecoder()
    for text in (ask.system, ask.user):
        at = text.rfind("JSON Schema")
        start = text.find("{", at) if at >= 0 else -1
        if start < 0:
            continue
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and ("properties" in value or "type" in value):
            return value
    return None


_NUMBER = r"-?\d+(?:\.\d+)?"
_SUM = re.compile(
    rf"(?<![\w.])({_NUMBER})\s*([-+*/x×·÷]|plus|minus|times|divided by)\s*({_NUMBER})(?![\w.]*\d)", re.I
)
_OPERATORS: Mapping[str, Callable[[Decimal, Decimal], Decimal]] = {
    "+": operator.add, "plus": operator.add, "-": operator.sub, "minus": operator.sub,
    "*": operator.mul, "x": operator.mul, "×": operator.mul, "·": operator.mul, "times": operator.mul,
    "/": operator.truediv, "÷": operator.truediv, "divided by": operator.truediv,
}  # fmt: skip


def solve(task: str) -> str | None:
    """The answer to one short sum; None for everything else."""
    sums = _SUM.findall(task)
    if len(task) > 400 or len(sums) != 1:
        return None
    first, sign, second = sums[0]
    with localcontext() as context:
        context.prec = 40
        try:
            value = _OPERATORS[sign.lower()](Decimal(first), Decimal(second))
        except (DivisionByZero, InvalidOperation):
            return None
        return f"{value:.10f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"
