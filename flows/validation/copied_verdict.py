"""Copied verdicts: whether a judge's verdict stands in the answer that it judged. Pure.

    is_copied({"score": Decimal("0.95"), "reason": "fine"}, answer_text)   # True: the judge repeated the answer

A copy stays a copy with other quotes, case, spacing, escapes or order, in wide or look-alike letters, reversed, and
encoded as base64, hex, rot13, HTML entities or percent signs, also twice. Only letters and digits are compared.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from decimal import Decimal
from urllib.parse import unquote

from tta_dev_primitives.flows.validation.prompt_quoting import plain

_DEPTH = 2
"""Encodings inside encodings that are undone."""
_NEAR = 60
"""Letters and digits that may stand between the parts of a copied verdict."""
_PART = 12_000
_OVERLAP = 2_000
"""More than a copied verdict takes, encoded twice."""
_READABLE = re.compile(r"[ -~\s]{16}")
_UNICODE_ESCAPE = re.compile(r"\\+(?:u\{?|x|U0000)([0-9a-fA-F]{2,4})\}?")
_SPACE_ESCAPE = re.compile(r"\\+[nrtbf]")
_LOOK_ALIKES = str.maketrans("аеосрхуіѕјԁαεορνιτ", "aeocpxyisjdaeopvit")


def is_copied(score: Decimal | int, reason: str, judged: str) -> bool:
    """True when `judged` holds the words `score` and `reason` with this score and this reason beside them."""
    exact = Decimal(score).as_tuple().digits
    # 0.95, .950 and 95 % have the same digits.
    digits, why = "".join(map(str, exact)).strip("0"), _letters(reason)
    return any(
        _holds(letters, digits, why)
        for part in _parts(plain(judged))
        for text in _readings(part, _DEPTH)
        for letters in _both(text)
    )


def _parts(text: str) -> Iterator[str]:
    """The text in pieces that overlap: undoing encodings costs time that grows with a piece's length."""
    yield text[:_PART]
    for begin in range(_PART - _OVERLAP, len(text) - _OVERLAP, _PART - _OVERLAP):
        yield text[begin : begin + _PART]


def _holds(letters: str, digits: str, why: str) -> bool:
    if "score" not in letters or "reason" not in letters:
        return False
    near = len(why) + _NEAR
    for number in re.finditer(r"\d+", letters):
        # Numbers that stood beside it have become one run of digits with it.
        if digits in number[0]:
            around = letters[max(0, number.start() - near) : number.end() + near]
            if "score" in around and "reason" in around and why in around:
                return True
    return False


def _both(text: str) -> tuple[str, str]:
    letters = _letters(text)
    return letters, letters[::-1]


def _letters(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text).casefold().translate(_LOOK_ALIKES)
    return "".join(c for c in folded if c.isalnum())


def _readings(text: str, depth: int) -> Iterator[str]:
    """The text, and what it says when its encodings are undone."""
    yield text
    undone = html.unescape(unquote(text))
    undone = _SPACE_ESCAPE.sub(" ", _UNICODE_ESCAPE.sub(lambda found: chr(int(found[1], 16)), undone))
    if undone != text:
        yield undone
    yield codecs.encode(undone, "rot13")
    if depth == 0:
        return
    for decoded in _decodings(undone):
        if _READABLE.search(decoded):
            yield from _readings(plain(decoded), depth - 1)


def _decodings(text: str) -> Iterator[str]:
    """What base64, base32 and hex of the text say.

    Where the encoded part begins is not known: each alignment is tried, prose around it becomes noise.
    """
    for alphabet, decode, group in _ENCODINGS:
        stream = alphabet.sub("", text.translate(_URL_SAFE) if group == 4 else text.upper())
        for start in range(group):
            part = stream[start:]
            yield decode(part + "A" * (-len(part) % group)).decode("utf-8", "replace")


_URL_SAFE = str.maketrans("-_", "+/")
_ENCODINGS: tuple[tuple[re.Pattern[str], Callable[[str], bytes], int], ...] = (
    (re.compile(r"[^A-Za-z0-9+/]"), binascii.a2b_base64, 4),
    (re.compile(r"[^0-9A-F]"), bytes.fromhex, 2),
    (re.compile(r"[^A-Z2-7]"), base64.b32decode, 8),
)
"""What does not belong to the alphabet, the decoder, and the characters of a group."""
