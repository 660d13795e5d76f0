"""Numbers as people and models write them, brought to one exact form with their unit. Never a guess.

    number_form("$1,250.00")   -> "1250 $"
    split_form("1250 $")       -> ("1250", "$")

What may be read in two ways (3k, 1,25, "2 or 3") has no form.
"""

from __future__ import annotations

import re
from fractions import Fraction

DIGITS = 40
"""Longest number, in digits and in powers of ten."""

_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_WORDS = "zero one two three four five six seven eight nine ten eleven twelve"
_SPELLED = {w: i for i, w in enumerate(_WORDS.split())}
_NUMBER = re.compile(
    r"(?P<pre>[$€£¥₹]|USD|EUR|GBP)?\s*(?P<sign>[-+])?\s*(?P<pre2>[$€£¥₹])?\s*"
    r"(?P<body>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+|\d+|\.\d+)"
    r"(?:\s*(?:[eE](?P<exp>[-+]?\d{1,3})|(?:[x×*]|\\times)\s*10\s*(?:\^|\*\*)\s*\{?(?P<pow>[-+]?\d{1,3})\}?))?"
    r"(?:\s*/\s*(?P<den>\d{1,20}))?"
    r"\s*(?P<unit>.*)",
    re.S,
)
_UNIT = re.compile(r"[^\W\d_]+(?:[ /][^\W\d_]+){0,3}[²³]?|%|°[CF]?|[$€£¥₹]")
# Letters that multiply where one reads them so: no number with them is certain.
_DOUBTFUL = "k m b bn mn mm dozen score pi e i x y z n or and to"
_DOUBTFUL_UNITS = frozenset(_DOUBTFUL.split())
_ASIDE = re.compile(r"\s\((?![^()]*\b(?:or|not|if)\b)[^()]*\)$", re.I)
_STATES = re.compile(
    r"\D*\b(?:is|are|was|were|be|has|have|had|gets?|got|costs?|makes?|made|earns?|earned|needs?|needed|pays?|paid|"
    r"spends?|spent|sold|sells?|takes?|took|equals)\s+(?P<number>[$€£¥₹]?\s?\d[^=]*)",
    re.I | re.S,
)
_TURNS = re.compile(
    r"\b(?:not|no|never|less|fewer|more|most|least|minus|negative|half|quarter|third|twice|double|triple|hundred|between|"
    r"about|around|nearly|almost|approximately|than|or|and|if|" + "|".join(_WORDS.split()) + r")\b",
    re.I,
)
_DIGITS = re.compile(r"\d[\d,.]*")


def number_form(text: str) -> str | None:
    """The number that the whole text is, in lowest terms, with its unit behind a space; None when in doubt."""
    parsed = _parse_number(text)
    if parsed is None:
        return None
    value, unit = parsed
    return f"{exact(value)} {unit}" if unit else exact(value)


def stated_number(text: str) -> str | None:
    """The one number that a plain sentence states ("Peter is 50 years old."), without a unit; None when in doubt."""
    said = _STATES.fullmatch(text.strip())
    if said is None or len(_DIGITS.findall(text)) != 1 or _TURNS.search(text):
        return None
    head = re.match(r"[$€£¥₹]?\s?\d[\d,]*(?:\.\d+)?(?![\w.,]*\d)", said["number"])
    behind = said["number"][head.end() :].strip(" .") if head is not None else "/"
    if head is None or not re.fullmatch(r"%|[^\W\d_]{2,}(?:[ '’-][^\W\d_]+)*|", behind):
        return None
    scale = _SCALES.get(behind.split(" ")[0].lower())
    return None if scale is not None else number_form(head[0] + ("%" if behind == "%" else ""))


def _parse_number(text: str) -> tuple[Fraction, str] | None:
    text = _latex_number(text).rstrip(".;, \n")
    if text.lower() in _SPELLED:
        return Fraction(_SPELLED[text.lower()]), ""
    mixed = re.fullmatch(r"([-+]?)(\d{1,9})\s+(\d{1,9})\s*/\s*(\d{1,9})", text)
    if mixed:
        whole, top, bottom = (int(g) for g in mixed.groups()[1:])
        if not 0 < top < bottom:
            return None
        value = whole + Fraction(top, bottom)
        return (-value if mixed[1] == "-" else value), ""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    digits = match["body"].replace(",", "")
    if len(digits) > DIGITS or abs(int(match["exp"] or match["pow"] or 0)) > DIGITS:
        return None
    value = Fraction(digits) * Fraction(10) ** int(match["exp"] or match["pow"] or 0)
    if match["den"]:
        if int(match["den"]) == 0:
            return None
        value /= int(match["den"])
    behind = _unit(match["unit"])
    if behind is None:
        return None
    scale, unit = behind
    currency = match["pre"] or match["pre2"] or ""
    if currency and unit not in ("", _currency(currency)):
        return None
    return (-value if match["sign"] == "-" else value) * scale, _currency(currency) or unit


def _currency(sign: str) -> str:
    return {"USD": "$", "EUR": "€", "GBP": "£"}.get(sign, sign)


def _unit(text: str) -> tuple[int, str] | None:
    """The factor and the unit behind a number, None when the rest is no unit."""
    text = re.sub(r"\\(?:text|mathrm|textbf)\{\s*([^{}]*)\}", r" \1 ", text).replace("\\%", "%")
    text = (
        re.sub(r"\\(?:circ|degree)|\^\{?\\circ\}?", "°", text).replace("\\$", "$").replace("\\", "").strip()
    )
    # What a bracket explains behind a unit, "pizzas (3 cheese and 3 pepperoni)", is no part of it.
    text = _ASIDE.sub("", text.rstrip(".;,! ")).strip()
    if text == '"':
        return 1, "inch"
    scale = 1
    first, _, rest = text.partition(" ")
    if first.lower() in _SCALES:
        scale, text = _SCALES[first.lower()], rest.strip()
    if not text:
        return scale, ""
    if text.lower() in ("percent", "per cent"):
        return scale, "%"
    words = re.split(r"[ /]", re.sub(r"^k?m/", "", text.lower()))
    if not _UNIT.fullmatch(text) or any(w in _DOUBTFUL_UNITS for w in words):
        return None
    named = {
        "dollars": "$",
        "dollar": "$",
        "usd": "$",
        "euros": "€",
        "euro": "€",
        "eur": "€",
        "pounds": "pound",
    }
    word = text if len(text) <= 2 else text.lower()
    return scale, named.get(
        word, word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
    )


def _latex_number(text: str) -> str:
    text = (
        text.replace("\\$", "$").replace("\\,", "").replace("\\!", "").replace("{,}", ",").replace("\\ ", " ")
    )
    text = re.sub(r"(?<=\d)\s*\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}", r" \1/\2", text)
    text = re.sub(r"\\[dt]?frac\s*\{(-?\d+)\}\s*\{(\d+)\}", r"\1/\2", text)
    return re.sub(r"\\[dt]?frac\s*(\d)\s*(\d)(?!\d)", r"\1/\2", text).strip()


def exact(value: Fraction) -> str:
    """A decimal where it is finite and short, else a fraction in lowest terms."""
    bottom = value.denominator
    for prime in (2, 5):
        while bottom % prime == 0:
            bottom //= prime
    if bottom != 1 or value.denominator > 10**DIGITS:
        return f"{value.numerator}/{value.denominator}"
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    digits = abs(int(value * 10**places))
    text = str(digits).rjust(places + 1, "0")
    text = f"{text[:-places]}.{text[-places:]}" if places else text
    return f"-{text}" if value < 0 else text


def split_form(text: str) -> tuple[str, str] | None:
    """Number and unit ("" for none) of a form, None when the text is none."""
    match = re.fullmatch(r"(-?\d+(?:\.\d+|/\d+)?)(?: (.+))?", text, re.S)
    return (match[1], match[2] or "") if match and (not match[2] or _UNIT.fullmatch(match[2])) else None
