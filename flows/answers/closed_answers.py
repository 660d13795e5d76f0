"""Closed answers: find them in a model's text, bring them to one form, compare them. Never equal on doubt.

    final_answer('... {"answer": "$1,250.00"}', "number") -> '1250 $'
    canonical("$1,250.00", "number")            -> '1250 $'
    agree("1250 $", canonical("1250", "number")) -> True

Two wrong "equal" deliver a wrong answer un-judged; one wrong "different" costs one paid call. So whatever
cannot be read with certainty has no canonical form (None), and None agrees with nothing.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
import warnings
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal, get_args

from tta_dev_primitives.flows.answers.numbers import DIGITS, exact, number_form, split_form, stated_number
from tta_dev_primitives.flows.answers.strict_json import HOOKS

AnswerFormat = Literal["number", "choice", "boolean", "json", "short", "literal", "open"]
FORMATS: tuple[str, ...] = get_args(AnswerFormat)

_MOST = 400
"""Characters of a closed answer; anything longer is prose or data, and is not compared."""
_MOST_JSON = 20_000
_TAIL = 24_000
"""Characters at the end of a text in which its answer is looked for: time grows faster than what is read."""


def agree(a: str | None, b: str | None) -> bool:
    """Whether two canonical answers say the same. None agrees with nothing, not even with None.

    A number without a unit agrees with the same number in any unit, because the question names the unit; two
    different units never agree. A bare number agrees with a percentage only above 1: 0.5 and 0.5 % may be
    two things.
    """
    if a is None or b is None:
        return False
    if a == b:
        return True
    left, right = split_form(a), split_form(b)
    if left is None or right is None or left[0] != right[0] or (left[1] and right[1]):
        return False
    return (left[1] or right[1]) != "%" or abs(Fraction(left[0])) > 1


def canonical(text: str, fmt: AnswerFormat) -> str | None:
    """The one form of a closed answer, None when it has none. `canonical(canonical(x)) == canonical(x)`."""
    if fmt == "open":
        return None
    form = _read(text, fmt)
    # A form that reads as another one is in doubt.
    return form if form is not None and _read(form, fmt) == form else None


def _read(text: str, fmt: AnswerFormat) -> str | None:
    # Inside JSON and Python literals every character counts, spaces and look-alikes too.
    text = _tidy(text) if fmt not in ("literal", "json") else _unwrap(text)
    if not text or len(text) > (_MOST_JSON if fmt == "json" else _MOST):
        return None
    return _READERS[fmt](text)


def _tidy(text: str) -> str:
    """Look-alike characters become one; invisible ones go; wrappers around the whole answer come off."""
    text = unicodedata.normalize("NFKC", text.replace("−", "-").replace("–", "-"))
    text = "".join(c for c in text if unicodedata.category(c) != "Cf").strip()
    for _ in range(4):
        bare = _unwrap(text)
        if bare == text:
            break
        text = bare
    return text


def _unwrap(text: str) -> str:
    for left, right in (("**", "**"), ("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]"), ("`", "`"), ("$", "$")):
        inner = text[len(left) : -len(right)]
        if (
            len(text) > len(left) + len(right)
            and text.startswith(left)
            and text.endswith(right)
            and left not in inner
        ):
            return inner.strip()
    boxed = _boxed(text)
    if boxed is not None and text.startswith("\\boxed") and text.endswith("}") and boxed[1] == len(text):
        return boxed[0].strip()
    return text


_CHOICE = re.compile(
    r"(?:(?i:(?:the\s+)?(?:correct\s+)?(?:answer|option|choice)(?:\s+is)?):?\s*)?"
    r"(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Z])(?:[).:]|\s*$)|([a-z])(?:\)|\s*$))(.*)",
    re.S,
)


_CHOICES = re.compile(
    r"(?:(?i:(?:the\s+)?(?:correct\s+)?(?:answers?|options?|choices?)(?:\s+(?:is|are))?):?\s*)?([A-J]{2,10})\.?"
)


def _choice(text: str) -> str | None:
    text = re.sub(r"\\text(?:bf)?\{([^{}]*)\}", r"\1", text)
    several = _CHOICES.fullmatch(text)
    # "ABCD" names several choices, each once and in order; "BAD" is a word.
    if several is not None and list(several[1]) == sorted(set(several[1])):
        return several[1]
    match = _CHOICE.fullmatch(text)
    if match is None:
        return None
    # "(A) and (B)", "A, C", "B. or D.": more than one choice is no choice.
    if re.match(r"\s*(?:,|/|&|and\b|or\b)", match[5], re.I) or re.search(r"\([A-Za-z]\)", match[5]):
        return None
    return next(g for g in match.groups() if g).upper()


def _boolean(text: str) -> str | None:
    match = re.fullmatch(r"(yes|no|true|false|correct|incorrect)(?:[.!]?|[.,;:]\s.*)", text, re.I | re.S)
    if match is None:
        return None
    return "true" if match[1].lower() in ("yes", "true", "correct") else "false"


def _json(text: str) -> str | None:
    try:
        return _dump(json.loads(text, parse_float=Decimal, parse_int=Decimal, **HOOKS))
    except (ValueError, RecursionError, ArithmeticError):
        return None


def _dump(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{"
            + ",".join(f"{json.dumps(k, ensure_ascii=False)}:{_dump(value[k])}" for k in sorted(value))
            + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(_dump(v) for v in value) + "]"
    if isinstance(value, Decimal):
        if abs(value.adjusted()) > DIGITS or len(value.as_tuple().digits) > DIGITS:
            raise ValueError("number too long")
        return exact(Fraction(value))
    return json.dumps(value, ensure_ascii=False)


_BARE = re.compile(r"[^\s'\"\[\](){}][^'\"\[\](){}\n]*(?<!\s)")
_PLAIN = re.compile(
    r"[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?j?|True|False|None|\.\.\.|0[xob][\da-fA-F]+"
)

_SAME = re.compile(r"\S(?:[^\n]{0,198}\S)?")


def _literal(text: str) -> str | None:
    """A Python literal. Bare words can only be a string whose quotes were left out."""
    if _BARE.fullmatch(text) and not _PLAIN.fullmatch(text):
        return repr(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _show(ast.literal_eval(_asserted(text.strip())))
    except SyntaxError:
        if not _SAME.fullmatch(text):
            return None
        # A string that lost its quotes, or something broken, with which only the very same characters agree.
        return text if re.search(r"['\"]|^[\[({]", text) else repr(text)
    except (ValueError, RecursionError, MemoryError, TypeError):
        return None


def _asserted(text: str) -> ast.expr | str:
    """The right side of `assert f(...) == value`, which some give for the value; else the text itself."""
    if "==" in text:
        match ast.parse(text).body:
            case [ast.Assert(test=ast.Compare(left=ast.Call(), ops=[ast.Eq()], comparators=[value]))]:
                return value
            case [ast.Expr(value=ast.Compare(left=ast.Call(), ops=[ast.Eq()], comparators=[value]))]:
                return value
    return text


def _show(value: Any) -> str:
    """`repr` in one order: equal sets and dictionaries look equal; 1, 1.0 and True stay apart."""
    if isinstance(value, dict):
        return "{" + ", ".join(sorted(f"{_show(k)}: {_show(v)}" for k, v in value.items())) + "}"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(map(_show, value))) + "}" if value else "set()"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_show, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(_show, value)) + "]"
    return repr(value)


def _short(text: str) -> str | None:
    """A few words or a formula. Numbers count as numbers; case is folded only where it means nothing."""
    number = number_form(text) or stated_number(text)
    if number is not None:
        return number
    if len(text) > 200:
        return None
    formula = bool(re.search(r"[\\^_{}=+*/<>|\d]", text))
    if formula:
        for pattern, plain in _SPELLINGS:
            text = pattern.sub(plain, text)
        return text or None
    text = re.sub(r"\s+", " ", text).strip(" .,;:!?\"'")
    return re.sub(r"^(?:the|an?) ", "", text.casefold()) or None


_SPELLINGS = (
    (re.compile(r"\\left|\\right|\\,|\\!|\\;|\\ |\\displaystyle"), ""),
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\text(?:bf|rm)?\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\frac(\d)(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\cdot|\\times"), "*"),
    (re.compile(r"\s+"), ""),
    (re.compile(r"[.,;]+$"), ""),
)

_READERS = {
    "number": lambda text: number_form(text) or stated_number(text),
    "choice": _choice,
    "boolean": _boolean,
    "json": _json,
    "literal": _literal,
    "short": _short,
}


def final_answer(text: str, fmt: AnswerFormat) -> str | None:
    """The canonical closed answer that a model's whole text gives, None when none is certain."""
    if fmt == "open":
        return None
    found = _found(text[-_TAIL:], fmt)
    if found is None:
        return None
    if fmt == "literal" and not found:
        return repr("")  # an answer field that holds the empty string
    form = canonical(found, fmt)
    # A question that only speaks of "true or false" somewhere may ask how many.
    return canonical(found, "number") if form is None and fmt == "boolean" else form


def _found(text: str, fmt: AnswerFormat) -> str | None:
    for finder in (_from_json, _from_broken_json, _from_box, _from_hashes, _from_phrase):
        found = finder(text)
        if found is not None:
            return found
    if fmt == "json":
        return _fenced(text)
    whole = text.strip()
    if canonical(whole, fmt) is not None and "\n" not in whole:
        return whole
    last = whole.rsplit("\n", 1)[-1].strip()
    return last if fmt in ("number", "choice", "boolean") and canonical(last, fmt) is not None else None


def _fenced(text: str) -> str | None:
    blocks = re.findall(r"```(?:json)?\s*\n(.*?)\n\s*```", text, re.S)
    if len(blocks) == 1:
        return str(blocks[0])
    return text.strip() if text.strip()[:1] in "{[" else None


def _from_json(text: str) -> str | None:
    """The `answer` field of the last JSON object in the text that has one."""
    decoder = json.JSONDecoder(strict=False, **HOOKS)
    found: str | None = None
    at = text.find("{")
    while at != -1:
        try:
            value, end = decoder.raw_decode(text, at)
        except RecursionError:
            return found  # nested as no answer is; to begin at each of its brackets would take minutes
        except ValueError:
            at = text.find("{", at + 1)
            continue
        if isinstance(value, dict) and "answer" in value:
            found = _field(value["answer"])
        at = text.find("{", end)
    return found


_EATEN = {"\f": "\\f", "\b": "\\b", "\t": "\\t", "\r": "\\r", "\v": "\\v"}


def _field(value: Any) -> str | None:
    if isinstance(value, str):
        # JSON reads "\frac" as a form feed and "rac": the backslash of a formula was eaten.
        return "".join(_EATEN.get(c, c) for c in value)
    if value is None:
        return None
    return json.dumps(value)


_BROKEN = re.compile(r'"answer"\s*:\s*("(?:[^"\\]|\\.)*"|-?[\d.,]+|true|false)\s*[,}\n]', re.S)


def _from_broken_json(text: str) -> str | None:
    """`"answer": "..."` inside JSON that does not parse, mostly for a stray backslash or line break."""
    matches = _BROKEN.findall(text)
    if len(set(matches)) != 1:
        return None
    raw = str(matches[0])
    if not raw.startswith('"'):
        return raw.strip(",")
    return re.sub(r'\\(["/])', r"\1", raw[1:-1].replace("\\\\", "\\"))


def _boxed(text: str) -> tuple[str, int] | None:
    """The content of the last `\\boxed{...}` and where it ends."""
    start = text.rfind("\\boxed{")
    if start == -1:
        return None
    depth = 0
    for at in range(start + 6, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start + 7 : at], at + 1
    return None


def _from_box(text: str) -> str | None:
    found = _boxed(text)
    return found[0] if found else None


def _from_hashes(text: str) -> str | None:
    matches = re.findall(r"^[^\S\n]*####[^\S\n]*(\S.*?)[^\S\n]*$", text, re.M)
    return str(matches[-1]) if matches else None


_PHRASE = re.compile(
    r"(?:(?:final|correct)\s+)?answer(?:\s+is|\s*:)\s*:?\s*(?:option\s+)?(.+?)(?:\.\s|\.?\s*$|\n)",
    re.I | re.M,
)


def _from_phrase(text: str) -> str | None:
    matches = _PHRASE.findall(text)
    return str(matches[-1]).strip() if matches else None
