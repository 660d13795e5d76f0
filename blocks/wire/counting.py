"""The fewest tokens that a text can have, without any tokenizer. Pure."""

from __future__ import annotations

import re

# Tokenizers split at blanks and before marks; one mark may belong to the word after it (`.name`, `"The`), and a run of
# one character may be one token.
_PIECE = re.compile(r"[^\w\s]?[^\W_]+(?:['’][^\W_]+)*|[^\w\s]+")
_RUN = re.compile(r"(.)\1+")
_LONGEST_TOKEN = 24
"""Characters; longer words are made of several tokens by every known vocabulary."""


def fewest_tokens(text: str) -> int:
    """Tokens that no vocabulary comes below: one a word or group of marks, more for words of unusual length."""
    return sum(1 + len(_RUN.sub(r"\1", piece)) // _LONGEST_TOKEN for piece in _PIECE.findall(text))
