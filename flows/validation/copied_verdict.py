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
from string import ascii_lowercase, ascii_uppercase, digits
from urllib.parse import unquote

from tta_dev_primitives.flows.validation.prompt_quoting import folded, plain

_DEPTH = 3
"""Encodings inside encodings that are undone; of a text that is long only one, for the time that it takes."""
_LONG = 40_000
_NEAR = 60
"""Letters and digits that may stand between the parts of a copied verdict."""
_PART = 12_000
_OVERLAP = 3_000
"""More than a copied verdict takes, encoded twice."""
_READABLE = re.compile(r"[ -~\s]{24}")
_UNICODE_ESCAPE = re.compile(r"(?<!\\)\\++(?:u\{?|x|U0000)([0-9a-fA-F]{2,4})\}?")
_SPACE_ESCAPE = re.compile(r"(?<!\\)\\++[nrtbf]")
_SIGNS = str.maketrans("$@!", "sai")
_LEET = str.maketrans("0134578", "oieastb")


def _shifted(letters: int, numbers: int) -> dict[int, int]:
    """The alphabet moved on by so many letters, and the digits by so many."""
    parts = ((ascii_lowercase, letters), (ascii_uppercase, letters), (digits, numbers))
    return {ord(c): ord(part[(i + n) % len(part)]) for part, n in parts for i, c in enumerate(part)}


_ATBASH = {
    ord(c): ord(part[-1 - i]) for part in (ascii_lowercase, ascii_uppercase) for i, c in enumerate(part)
}
_CASED = [*(_shifted(n, 0) for n in range(26)), _ATBASH]
_ALPHABETS = [*_CASED, *(_shifted(n, n) for n in range(1, 26)), _shifted(13, 5)]
_ENCODED = re.compile(r"[!-~]{24,}|(?<![!-~])(?=[A-Za-z+/_-]*(?:[0-9=]|[a-z][A-Z]))[A-Za-z0-9+/=_-]{10,}")
"""What is no word: base64 and the like, in one piece or with prose between its pieces."""
_MOST_ENCODED = 6_000
_MOST_DECODED = 500_000
"""Characters that are decoded for one answer. What needs more is built to keep us busy, and counts as a copy."""


class _TooMuch(Exception):
    """The answer needs more decoding than any honest one."""


_ROT47 = {code: 33 + (code + 14) % 94 for code in range(33, 127)}


def is_copied(score: Decimal | int, reason: str, judged: str) -> bool:
    """True when `judged` holds the words `score` and `reason` with this score and this reason beside them."""
    exact = Decimal(score).as_tuple().digits
    # 0.95, .950 and 95 % have the same digits.
    shown, why = "".join(map(str, exact)).strip("0"), _letters(reason).translate(_LEET)
    readings = _Readings()
    try:
        return any(
            _holds(view.translate(table), shown, why)
            for part in _parts(plain(judged))
            for text in readings.of(part, _DEPTH if len(judged) < _LONG else 1)
            for letters in (_letters(text),)
            for view in (letters, letters[::-1])
            for table in _ALPHABETS
        )
    except _TooMuch:
        return True


def _parts(text: str) -> Iterator[str]:
    """The text in pieces that overlap: undoing encodings costs time that grows with a piece's length."""
    yield text[:_PART]
    for begin in range(_PART - _OVERLAP, len(text) - _OVERLAP, _PART - _OVERLAP):
        yield text[begin : begin + _PART]


def _holds(letters: str, shown: str, why: str) -> bool:
    words = letters.translate(_LEET)
    if "score" not in words or "reason" not in words:
        return False
    near = len(why) + _NEAR
    for number in re.finditer(r"\d+", letters):
        # Numbers that stood beside it have become one run of digits with it.
        if shown in number[0]:
            around = words[max(0, number.start() - near) : number.end() + near]
            if "score" in around and "reason" in around and why in around:
                return True
    return False


def _letters(text: str) -> str:
    seen = folded(unicodedata.normalize("NFKD", text)).casefold().translate(_SIGNS)
    return "".join(filter(str.isalnum, seen))


class _Readings:
    """What texts say when their encodings are undone, up to an amount of work."""

    def __init__(self) -> None:
        self._left = _MOST_DECODED

    def of(self, text: str, depth: int) -> Iterator[str]:
        """The text, and what it says, also through several encodings."""
        undone = html.unescape(unquote(text))
        undone = _SPACE_ESCAPE.sub(" ", _UNICODE_ESCAPE.sub(lambda found: chr(int(found[1], 16)), undone))
        for reading in {text, undone}:
            yield reading
            yield reading.translate(_ROT47)
            for decoded in self._decodings(reading, pieces=depth > 1) if depth else ():
                if _READABLE.search(decoded):
                    yield from self.of(plain(decoded), depth - 1)

    def _decodings(self, text: str, *, pieces: bool) -> Iterator[str]:
        """What is encoded in the text; `pieces`: also backwards, with shifted letters, and with prose between."""
        yield from self._decoded(text)
        yield _COUNTED.sub(lambda found: ascii_lowercase[int(found[0]) - 1], text)
        encoded = "".join(_ENCODED.findall(text))[:_MOST_ENCODED] if pieces else ""
        for view in (encoded, encoded[::-1]) if encoded else ():
            for table in (*_CASED, _ROT47):
                yield from self._decoded(view.translate(table))

    def _decoded(self, text: str) -> Iterator[str]:
        self._left -= len(text)
        if self._left < 0:
            raise _TooMuch
        yield from _decoded(text)


_COUNTED = re.compile(r"(?<!\d)0?(?:[1-9]|1\d|2[0-6])(?![\d])")
"""Letters as their places in the alphabet."""


def _decoded(text: str) -> Iterator[str]:
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
