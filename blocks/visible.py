"""Text of models and providers as people may see it: what steers a terminal or reorders a line becomes a symbol. Pure.

visible("a\\x1b[2Jb\\u202e")  ->  "a␛[2Jb⟨U+202E⟩"
"""

from __future__ import annotations

import re

STEERING = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"  # controls; escape sequences begin with one
    r"|\r(?!\n)"  # goes back and overwrites the line
    r"|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # changes the direction of reading
    r"|[\u2028\u2029\ufff9-\ufffb\U000e0000-\U000e007f]"  # breaks a line, or is seen by models only
    r"|[\ud800-\udfff]"  # half a character
)
"""What a text may not hold when it is shown."""


def visible(text: str) -> str:
    """The text with a symbol for each character that would act instead of being seen."""
    return STEERING.sub(_symbol, text)


def _symbol(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
