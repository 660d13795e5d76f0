"""How text that must not be obeyed is shown to a judge. Pure.

    quoted("answer", text, nonce)  ->  <<<answer 3f...>>>
                                       the whole text, its own markers taken out
                                       <<<end answer 3f...>>>

The nonce is a digest of what is judged, so it differs for each call, a repeated call is the same request (and is not
paid twice), and no text can hold it: it would have to contain its own digest.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

# Brackets that a reader can take for < and >, and what can stand between two of them without being seen.
_LT, _GT = "<«≪⋘", ">»≫⋙"
_LOOK_ALIKES = str.maketrans(
    "‹⟨⟪〈《❬❮˂ᐸ◁◂◃⊲›⟩⟫〉》❭❯˃ᐳ▷▸▹⊳∶ː꞉׃܃‖│∣ǀ❘аеосрхуіѕјԁАВЕЅІЈКМНОРСТУХαεορνιτΑΒΕΗΙΚΜΝΟΡΤΥΧı",
    "<<<<<<<<<<<<<>>>>>>>>>>>>>:::::|||||aeocpxyisjdABESIJKMHOPCTYXaeopvitABEHIKMNOPTYXi",
)
_LETTER = re.compile(
    r"LATIN (?:(?:SMALL|CAPITAL) )?LETTER (SMALL CAPITAL )?([A-Z])|.*LATIN (CAPITAL) LETTER ([A-Z])"
)
_GAP = r"[\s\u0300-\u036f\u20d0-\u20ff\u2800]*"
_OPEN = rf"(?:(?:[{_LT}]{_GAP}){{2}}[{_LT}]|⋘|≪{_GAP}<)"
_CLOSE = rf"(?:(?:[{_GT}]{_GAP}){{2}}[{_GT}]|⋙|>{_GAP}≫)"
_MARKER = re.compile(
    rf"{_OPEN}[^{_LT}{_GT}]{{0,120}}{_CLOSE}|{_OPEN}|{_CLOSE}|\[\s*tta\s*:\s*[a-z_]+\s*/\s*\d+\s*\]", re.I
)
_OWN = re.compile(r"<<<(?:end )?[a-z]+ [0-9a-f]{16}>>>|\[tta:[a-z_]+/\d+\]", re.I)
# How model families mark who speaks, where a text or a turn ends, and what is a thought or a call of a tool.
_ROLE = re.compile(
    r"<\|[^|<>\n]{0,40}\|>|\[\|[^|\[\]\n]{0,40}\|\]"  # ChatML, Llama, Phi, DeepSeek, Cohere, Granite; EXAONE, MOSS
    r"|<\|[\w/.-]{1,40}>|<[\w/.-]{1,40}\|>|</?(?:[a-z]+_)*turn(?:_[a-z]+)*>"  # Gemma
    r"|<<\s*/?\s*SYS\s*>>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|MODEL_SETTINGS|ARGS|CALL_ID|IMG"
    r"|THINK|PREFIX|MIDDLE|SUFFIX|CLS|SEP|PAD|BOS|EOS|UNK|MASK|[gs]MASK)\]"  # Mistral, GLM, BERT
    r"|\]~!?b\[|\]~b\]|\[e~\["  # MiniMax
    r"|</?_?(?:system|developer|user|assistant|human|bot)\b[^<>\n]{0,40}>"
    r"|</?(?:s|bos|eos|pad|unk|cls|sep|mask|sop|eop|eo[acdhmt]|eot_id|im_start|im_end)>"
    r"|<(?:start|end)_of_(?:turn|text|utterance|image|role|prompt)>|<(?:bos|eos|bot|eot|pad|start|end)_token>"
    r"|<(?:extra_id|special|reserved|tokens_unused|unused)_?\d+>"  # T5 and Nemotron, Baichuan, InternLM, Gemma
    r"|</?(?:seed|minimax|antml):[a-z_]{1,20}\b[^<>\n]{0,40}>"
    r"|</?(?:think|thinking|reasoning|tools?|tool_(?:call|calls|response|result)|function_(?:calls?|results?)|invoke"
    r"|channel|fim_(?:prefix|middle|suffix))\b[^<>\n]{0,40}>",
    re.I,
)
_BRACKETED = re.compile(r"<(?:[^<>]|<[^<>]{0,40}>){1,80}+>|\[[^\[\]]{1,80}\]")
_INNER = re.compile(r"(?<=.)<[^<>]*>|\s+", re.S)
# Alpaca, Vicuna, OpenChat and older Claude: a role at the head of a line. Only its colon is changed; the lower-case
# keys of a YAML answer stay as they are.
_NAMES = ("System", "Developer", "User", "Assistant", "Human", "Bot", "Instruction", "Response", "Input")
_HEAD = re.compile(
    rf"(?:^[ \t>*\[(]*(?:#+[ \t]*(?i:{'|'.join(_NAMES)})s?|(?:(?:GPT4?|Correct|END_OF|BEGIN_OF)[ \t]+)*"
    rf"(?:{'|'.join((*_NAMES[:6], *(n.upper() for n in _NAMES[:6])))}))|##+[ \t]*(?i:{'|'.join(_NAMES)})s?)"
    r"(?:[ \t]+(?i:prompt|message))?[ \t*_\])]*(?P<colon>:)",
    re.M,
)
_PASSES = 8
"""Markers inside markers that are taken out one by one; what is nested deeper is built to keep us busy."""
_HARMLESS = str.maketrans("<>[]|", "()()/")
# Letters and marks that are drawn as nothing, though Unicode does not call them format characters.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def nonce_for(*parts: str) -> str:
    """16 hex digits that no part can contain: each costs tokens, five times a verdict."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def plain(text: str) -> str:
    """The text without invisible characters (zero-width, fillers, direction marks, tags) and stray controls."""
    if text.isascii():
        return text.translate(_CONTROLS)
    seen = _UNSEEN.sub("", text)
    return "".join(
        c for c in seen if c in "\n\t" or unicodedata.category(c) not in ("Cf", "Cc", "Co", "Cs", "Cn")
    )


_CONTROLS = {
    code: None for code in range(128) if unicodedata.category(chr(code)) == "Cc" and chr(code) not in "\n\t"
}


def is_unseen(character: str) -> bool:
    """Whether nothing is drawn for a character, or only room."""
    return (
        unicodedata.category(character)[0] in "CZ" or character == "\u2800" or bool(_UNSEEN.match(character))
    )


def folded(text: str) -> str:
    """The text as a reader takes it, of the same length: look-alikes (wide, small capital, other scripts) are ASCII."""
    return text if text.isascii() else "".join(map(_folded, text))


@lru_cache(maxsize=4096)
def _folded(character: str) -> str:
    form = unicodedata.normalize("NFKC", character).translate(_LOOK_ALIKES)
    if len(form) == 1 and form.isascii():
        return form
    named = _LETTER.fullmatch(unicodedata.name(character, ""))
    if named is None:
        return character
    return named[4] or (named[2].lower() if named[1] else named[2])


def without_markers(text: str) -> str:
    """The text without anything that looks like a quote marker, a prompt's head or a chat template's role tag.

    Look-alikes count: full-width brackets and letters, and markers with something between their letters. Only what
    reads as a marker is changed.
    """
    text = plain(text)
    if text.isascii() and not _MAY_MARK.search(text):
        return text
    for _ in range(_PASSES):
        cleaned = text
        for pattern in (_MARKER, _ROLE, _BRACKETED, _HEAD):
            cleaned = _cut(pattern, cleaned)
        if cleaned == text:
            return text
        text = cleaned
    return _cut(_MARKER, folded(text).translate(_HARMLESS))


def _cut(pattern: re.Pattern[str], text: str) -> str:
    """The text with a blank for each marker, and a dash for the colon of a prompt's head."""
    out, at = "", 0
    for found in pattern.finditer(folded(text)):
        begin, end = found.span("colon") if pattern is _HEAD else found.span()
        if pattern is _BRACKETED and not _ROLE.fullmatch(_INNER.sub("", found[0])):
            continue
        out += text[at:begin] + (" -" if pattern is _HEAD else " ")
        at = end
    return out + text[at:]


_MAY_MARK = re.compile(r"[<>\[\]:]")
"""What every marker and role tag of ASCII letters holds at least one of."""


def has_marker(text: str) -> bool:
    """True when the text holds one of our own quote markers or prompt heads: it leaked from a prompt."""
    return _OWN.search(plain(text)) is not None


def quoted(label: str, text: str, nonce: str) -> str:
    """The whole text as data between two marker lines that carry `nonce`."""
    inner = without_markers(text)
    return f"<<<{label} {nonce}>>>\n{inner}\n<<<end {label} {nonce}>>>"
