"""Copied verdicts: whether a judge's verdict stands in the answer that it judged. Pure.

    is_copied({"score": Decimal("0.95"), "reason": "fine"}, answer_text)   # True: the judge repeated the answer

A copy stays a copy with other quotes, case, spacing, escapes or order, in wide or look-alike letters, in leet,
reversed, with shifted letters (Caesar, Atbash, rot47), as numbers in base 2, 8, 10 or 16, and as base32, base64 or
base85; also one in the other. Only letters and digits are compared. A reply has no room for a code that an answer
cannot know: its format is fixed, and recorded verdicts have none.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal
from string import ascii_lowercase
from urllib.parse import unquote

from tta_dev_primitives.flows.validation.prompt_quoting import plain

_DEPTH = 3
"""Encodings inside encodings that are undone; of a text that is long only one, for the time that it takes."""
_LONG = 40_000
_NEAR = 60
"""Letters and digits that may stand between the parts of a copied verdict."""
_PART = 12_000
_OVERLAP = 3_000
"""More than a copied verdict takes, encoded twice."""
_READABLE = re.compile(r"[ -~\s]{16}")
_UNICODE_ESCAPE = re.compile(r"\\+(?:u\{?|x|U0000)([0-9a-fA-F]{2,4})\}?")
_SPACE_ESCAPE = re.compile(r"\\+[nrtbf]")
_LOOK_ALIKES = str.maketrans("аеосрхуіѕјԁαεορνιτ$@!", "aeocpxyisjdaeopvitsai")
_LEET = str.maketrans("0134578", "oieastb")
_ALPHABETS = [
    *(str.maketrans(ascii_lowercase, ascii_lowercase[n:] + ascii_lowercase[:n]) for n in range(26)),
    str.maketrans(ascii_lowercase, ascii_lowercase[::-1]),
]
_ROT47 = {code: 33 + (code + 14) % 94 for code in range(33, 127)}


def is_copied(score: Decimal | int, reason: str, judged: str) -> bool:
    """True when `judged` holds the words `score` and `reason` with this score and this reason beside them."""
    exact = Decimal(score).as_tuple().digits
    # 0.95, .950 and 95 % have the same digits.
    digits, why = "".join(map(str, exact)).strip("0"), _letters(reason).translate(_LEET)
    return any(
        _holds(view.translate(table), digits, why)
        for part in _parts(plain(judged))
        for text in _readings(part, _DEPTH if len(judged) < _LONG else 1)
        for letters in (_letters(text),)
        for view in (letters, letters[::-1])
        for table in _ALPHABETS
    )


def _parts(text: str) -> Iterator[str]:
    """The text in pieces that overlap: undoing encodings costs time that grows with a piece's length."""
    yield text[:_PART]
    for begin in range(_PART - _OVERLAP, len(text) - _OVERLAP, _PART - _OVERLAP):
        yield text[begin : begin + _PART]


def _holds(letters: str, digits: str, why: str) -> bool:
    words = letters.translate(_LEET)
    if "score" not in words or "reason" not in words:
        return False
    near = len(why) + _NEAR
    for number in re.finditer(r"\d+", letters):
        # Numbers that stood beside it have become one run of digits with it.
        if digits in number[0]:
            around = words[max(0, number.start() - near) : number.end() + near]
            if "score" in around and "reason" in around and why in around:
                return True
    return False


def _letters(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text).casefold().translate(_LOOK_ALIKES)
    return "".join(filter(str.isalnum, folded))


def _readings(text: str, depth: int) -> Iterator[str]:
    """The text, and what it says when its encodings are undone."""
    undone = html.unescape(unquote(text))
    undone = _SPACE_ESCAPE.sub(" ", _UNICODE_ESCAPE.sub(lambda found: chr(int(found[1], 16)), undone))
    for reading in {text, undone}:
        yield reading
        yield reading.translate(_ROT47)
        for decoded in _decodings(reading) if depth else ():
            if _READABLE.search(decoded):
                yield from _readings(plain(decoded), depth - 1)


def _decodings(text: str) -> Iterator[str]:
    """What numbers and base32, base64 and base85 in the text say, read from each place of a group.

    Where the encoded part begins is not known: prose around it becomes noise.
    """
    for base, alphabet, group in _NUMBERS:
        stream = re.sub(f"[^{alphabet}]", "", text)
        for start in range(group):
            ends = range(start + group, len(stream) + 1, group)
            yield "".join(chr(int(stream[end - group : end], base)) for end in ends)
        yield "".join(_character(token, base) for token in _TOKEN.findall(text))
    for alphabet, group in (("A-Za-z0-9+/", 4), ("A-Z2-7", 8)):
        stream = re.sub(f"[^{alphabet}]", "", text.translate(_URL_SAFE) if group == 4 else text.upper())
        for start in range(group):
            part = stream[start:]
            padded = part + "A" * (-len(part) % group)
            data = binascii.a2b_base64(padded) if group == 4 else base64.b32decode(padded)
            yield data.decode("utf-8", "replace")
    for alphabet in _BASE_85:
        for run in re.findall(f"[{re.escape(alphabet)}]{{30,}}", text):
            places = [alphabet.index(c) for c in run]
            for start in range(5):
                yield _base85(places[start:]).decode("utf-8", "replace")


_NUMBERS = ((2, "01", 8), (2, "01", 7), (8, "0-7", 3), (10, "0-9", 3), (16, "0-9a-fA-F", 2))
"""Base, digits, and how many of them a letter takes where nothing stands between the letters."""
_TOKEN = re.compile(r"(?<![0-9a-z])(?:0[xob])?([0-9a-f]{2,8})(?![0-9a-z])", re.IGNORECASE)
_URL_SAFE = str.maketrans("-_", "+/")
_BASE_85 = (
    "".join(map(chr, range(33, 118))),
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~",
)


def _character(number: str, base: int) -> str:
    try:
        return chr(int(number, base))
    except (ValueError, OverflowError):
        return " "


def _base85(places: list[int]) -> bytes:
    data = b""
    for begin in range(0, len(places), 5):
        value = 0
        for place in (places[begin : begin + 5] + [84] * 4)[:5]:
            value = 85 * value + place
        data += (value % 2**32).to_bytes(4, "big")
    return data
