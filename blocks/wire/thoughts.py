"""Thoughts that a model wrote into its answer text are taken out of it. Pure.

    split_thoughts("<think>2 and 3 ...</think>\\n\\n5") -> ("5", "2 and 3 ...")

A tag inside code or quotes is text about tags and stays. Thoughts without an end take the rest of the text with them.
"""

from __future__ import annotations

import re
from bisect import bisect_left

_MOST_BLOCKS = 100
"""A text with more blocks than this is no answer of any model; each one costs a look at the whole text."""
_NAME = r"(?:think|thinking|thought|thoughts|seed:think)"
_OPEN = re.compile(
    rf"<{_NAME}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>|<\|channel>thought",
    re.IGNORECASE,
)
_CLOSE = re.compile(
    rf"</{_NAME}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>|<channel\|>", re.IGNORECASE
)
_WRAPPERS = re.compile(
    r"\A\s*<\|(?:START_RESPONSE|START_TEXT|begin_of_solution)\|>|<\|(?:END_RESPONSE|END_TEXT|end_of_solution)\|>\s*\Z"
)
_FENCED = re.compile(r"^[ \t]*(```++|~~~++)[^\n]*+\n.*?(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(
    r"(?<!`)(`++)[^\n]{0,400}?(?<!`)\1(?!`)|\"[^\"\n]{0,400}\"|“[^”\n]{0,400}”|«[^»\n]{0,400}»|'<[^'\n]{0,80}'|‘[^’\n]{0,400}’"
)
_CHANNEL = re.compile(
    r"(?:<\|start\|>\s*+\w*+\s*+)?<\|channel\|>\s*(\w+)"
    r"(?:[^<\n]{0,200}(?:<\|constrain\|>\s*+\w*+\s*+)?<\|message\|>|(?=\s|\Z))"
)
_TOKEN = re.compile(r"<\|(?:start|end|return|call|channel|message)\|>")
_BARE_HARMONY = re.compile(r"\A\s*(?:assistant)?analysis(?=[A-Z\s])(.*?)assistant\s*final(.*)\Z", re.DOTALL)


def split_thoughts(text: str) -> tuple[str, str]:
    """The answer and the thoughts of a model's text; a text without thoughts comes back as it is."""
    harmony = _harmony(text)
    if harmony is not None:
        return harmony
    if _OPEN.search(text) is None and _CLOSE.search(text) is None:
        return text, ""
    answer, thoughts = text, []
    for _ in range(_MOST_BLOCKS):
        block = _block(answer)
        if block is None:
            break
        begin, inner_begin, inner_end, end = block
        thoughts.append(answer[inner_begin:inner_end].strip())
        before, after = answer[:begin].rstrip(), answer[end:].lstrip()
        answer = f"{before}\n\n{after}" if before and after else before or after
    if not thoughts:
        return text, ""
    return _WRAPPERS.sub("", answer).strip(), "\n\n".join(filter(None, thoughts))


def _harmony(text: str) -> tuple[str, str] | None:
    """The final channel of a text in OpenAI's harmony format, and the other channels; None for other texts."""
    bare = _BARE_HARMONY.match(text)
    if bare is not None:
        return bare[2].strip(), bare[1].strip()
    if "<|channel|>" not in text:
        return None
    hidden = _quoted(text)
    marks = [mark for mark in _CHANNEL.finditer(text) if not _inside(mark.start(), hidden)]
    if not marks:
        return None
    final, thoughts = "", [_TOKEN.sub("", text[: marks[0].start()]).strip()]
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=True):
        said = re.split(r"<\|(?:end|return|call|start)\|>", text[mark.end() : end], maxsplit=1)[0].strip()
        if mark[1].lower() == "final":
            final = said
        else:
            thoughts.append(said)
    return final, "\n\n".join(filter(None, thoughts))


def _block(text: str) -> tuple[int, int, int, int] | None:
    """Begin, inner begin, inner end and end of the next thoughts; None when there are none."""
    hidden = _quoted(text)
    for opened in _OPEN.finditer(text):
        begin = opened.start()
        if text[text.rfind("\n", 0, begin) + 1 : begin].strip() or _inside(begin, hidden):
            continue
        # Code in the thoughts may be cut anywhere: what is hidden is looked for from the tag on.
        rest = text[opened.end() :]
        inside = _quoted(rest)
        closes = [*_CLOSE.finditer(rest)]
        shut = next((c for c in closes if not _inside(c.start(), inside)), closes[0] if closes else None)
        before = _lone_close(text[:begin], hidden)
        if before is not None:
            return 0, 0, before.start(), before.end()
        if shut is None:
            return begin, opened.end(), len(text), len(text)
        return begin, opened.end(), opened.end() + shut.start(), opened.end() + shut.end()
    lone = _lone_close(text, hidden)
    return None if lone is None else (0, 0, lone.start(), lone.end())


def _lone_close(text: str, hidden: list[tuple[int, int]]) -> re.Match[str] | None:
    """The closing tag of thoughts whose opening tag the server kept for itself."""
    first = _OPEN.search(text)
    for shut in _CLOSE.finditer(text):
        if _inside(shut.start(), hidden):
            continue
        line = text[text.rfind("\n", 0, shut.start()) + 1 : shut.start()]
        if not line.strip():
            return shut
        if first is not None and first.start() < shut.start():
            continue
        # "the tag </think> ends it" speaks of the tag; "so it is 5.</think>" ends the thoughts.
        if not line[-1:].isspace() or line.rstrip()[-1:] in ".!?:":
            return shut
    return None


def _quoted(text: str) -> list[tuple[int, int]]:
    """Where code and quotes stand, in order; no two overlap."""
    fences = [match.span() for match in _FENCED.finditer(text)]
    return sorted(fences + [m.span() for m in _INLINE.finditer(text) if not _inside(m.start(), fences)])


def _inside(at: int, spans: list[tuple[int, int]]) -> bool:
    before = bisect_left(spans, (at,)) - 1
    return before >= 0 and at < spans[before][1]
