"""What kind of task a text is: a local guess from its words, deterministic, without any model.

    classify("What is the capital of France?")   -> Guess("simple", 1.0)
    answer_format("Tom has 3 apples and buys 4. How many has he?") -> "number"
    is_compound("1. Summarize ... 2. Translate ... 3. List ...")   -> True

It reads English cues (numbers, code, formulas, options, verbs), so it is a guess with a stated sureness: a caller
who knows the use case should name it, and `planning: auto` asks the orchestrator where the guess is not sure. A
text in another language has few cues and is rarely sure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tta_dev_primitives.flows.answers.closed_answers import AnswerFormat

SURE = 0.55
"""From this sureness on the guess is used without asking the orchestrator."""
_LONG = 48


@dataclass(frozen=True, slots=True)
class Guess:
    """A use case of the guide and how sure the classifier is, 0..1 (share of the cues that speak for it)."""

    use_case: str
    sureness: float

    @property
    def sure(self) -> bool:
        """Whether the guess may be used without asking the orchestrator."""
        return self.sureness >= SURE


def _words(*parts: str) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(parts) + r")\b", re.I)


_MAKE = r"(?:implement|write|develop|create|refactor|debug|optimi[sz]e|fix|complete|code)\b[^.\n]{0,60}\b"
_SOFTWARE = (
    r"(?:code|function|program|script|class|method|algorithm|quer(?:y|ies)|api|regex|sql|website|html|"
    r"c\+\+|python)"
)

_CUES: tuple[tuple[str, float, re.Pattern[str]], ...] = (
    ("speed-critical", 6, _words("asap", "as fast as possible", "real[- ]time", "low[- ]latency", r"within \d+ ?ms")),
    ("speed-critical", 4, _words("auto-?complete", "quick(?:ly)? (?:reply|answer|tell)", "answer quickly")),
    ("expert", 6, re.compile(r"^[ \t]*(?:def|class|function|fn|func|public|private|void)\s+\w+.*[({:]\s*$", re.M)),
    ("expert", 5, re.compile(r"^[ \t]*(?:import \w+|from \w+ import|#include|SELECT .+ FROM|return\b.*;?$)", re.M)),
    ("expert", 5, re.compile(_MAKE + _SOFTWARE + r"\b", re.I)),
    ("expert", 2, _words("python", "javascript", "typescript", "java", "rust", "golang", "sql", "compiler")),
    ("expert", 3, _words("legal opinion", "differential diagnosis", "threat model", "time complexity", "big-o")),
    ("reasoning", 5, re.compile(r"\\(?:frac|sqrt|sum|int|cdot|binom|pi|theta|angle|triangle|ldots|le|ge)\b")),
    ("reasoning", 4, re.compile(r"\$(?:[^$\s\d][^$\n]{0,80}|\d+[_^\\][^$\n]{0,80})\$")),
    ("reasoning", 4, _words("prove", "proof", "deduce", "logic puzzle", "riddle", "lemma", "theorem", "must be true")),
    (
        "reasoning",
        4,
        _words(
            "polynomials?", "matri(?:x|ces)", "integers?", "modulo", "remainder when", "derivative", "integral",
            r"real numbers?", r"f\(x\)", "probability", "expected value", "coefficients?", "divisors?", "divisible",
            "hyperbola", "parabola", "ellipse", "polygon", "inscribed", "perpendicular", "complex numbers?",
        ),
    ),
    (
        "moderate",
        4,
        _words(
            "summari[sz]e", "summary", "analy[sz]e", "analysis", "compare", "contrast", "translate", "rewrite",
            "rephrase", "edit", "draft", "compose", "extract", "review", "outline", "describe", "explain", "evaluate",
        ),
    ),
    (
        "moderate",
        3,
        _words("blog", "e-?mail", "essay", "story", "letter", "poem", "article", "paragraph", "headline", "pretend"),
    ),
    ("moderate", 4, _words("how (?:many|much|far|long|old|tall|fast)")),
    (
        "complex",
        5,
        _words(
            "step[- ]by[- ]step", "multi[- ]step", "plan (?:for|to|the)", "strategy", "trade-?offs?", "root cause",
            "taking into account", "what would be the best approach",
        ),
    ),
    ("complex", 3, _words("design", "propose", "recommend", "assess", "justify", "implications?", "consequences")),
    (
        "simple",
        4,
        re.compile(
            r"^\W*(?:who|when|where|which|what(?:'s| is| was| are)|name|define|is|are|was|were|does|do|did)\b"
            r"[^\n]{0,110}\??\s*$",
            re.I,
        ),
    ),
)  # fmt: skip
"""(use case, points, cue): every cue counts once."""

_OPTION = re.compile(r"^[ \t]*\(?([A-J])[).:]\s+\S", re.M)
_NUMBER = re.compile(r"(?<![\w.])\$?\d[\d,]*(?:\.\d+)?%?")
_SAYS_NUMBER = re.compile(
    r"\b(?:give|answer|reply|respond|return)\b[^.\n]{0,20}\b(?:a|the|one|only|just)\b[^.\n]{0,12}\b(?:number|integer)\b"
    r"(?! of)\s*(?:only\s*)?[.!]?\s*$",
    re.I | re.M,
)
_SUM = re.compile(
    r"^\W*(?:what(?:'s| is)|compute|calculate)\s+[-\d(][\d\s+\-*/x×÷().,^%]*[\d)]\s*[?.]?\s*$", re.I
)
_ASKS = re.compile(r"\?\s*$|^\W*(?:determine|identify|name|state|tell|give)\b", re.I)
_SENTENCE = re.compile(r"[.?!](?:\s|$)")
_HEADING = re.compile(r"^\W*(?:## ?)?Question:?\s*\n?", re.I)
_HOW_TO_ANSWER = re.compile(
    r"(?:^#+ ?Instructions?:?\s*$|^[^\S\n]*Please (?:answer|show|present)\b).*\Z", re.I | re.M | re.S
)


def _core(task: str) -> str:
    """The question itself: a heading before it and a paragraph on how to answer tell nothing of its kind."""
    core = _HOW_TO_ANSWER.sub("", _HEADING.sub("", task)).strip()
    return core or task.strip()


def _points(task: str) -> dict[str, float]:
    points: dict[str, float] = {}

    def add(use_case: str, weight: float) -> None:
        points[use_case] = points.get(use_case, 0.0) + weight

    for use_case, weight, cue in _CUES:
        if cue.search(task):
            add(use_case, weight)
    words, sentences = len(task.split()), len(_SENTENCE.findall(task))
    options = len(_OPTION.findall(task))
    if len(_NUMBER.findall(task)) >= 2 and sentences >= 2 and not points.keys() & {"reasoning", "expert"}:
        add("moderate", 5)  # an everyday sum in the form of a story
    if options >= 6:
        add("complex", 12)
    elif options >= 2:
        add("simple", 10)
    elif words <= 25 and sentences <= 2:
        add("simple", 4 if _ASKS.search(task) else 2)  # being short alone is a hint, not enough to be sure
    if words > 250:
        add("complex", 3)
    return points


def classify(task: str) -> Guess:
    """The use case that most cues of the text speak for; `moderate` with no sureness when none do."""
    points = _points(_core(task))
    if not points:
        return Guess("moderate", 0.0)
    best = max(points, key=lambda use_case: points[use_case])
    share = points[best] / sum(points.values())
    return Guess(best, round(share * min(1.0, points[best] / 4), 3))


def is_long(task: str) -> bool:
    """True when the question itself has more than 48 words: within one use case, longer ones are harder."""
    return len(_core(task).split()) > _LONG


_VERB = (
    r"(?:write|list|summari[sz]e|translate|explain|describe|compare|analy[sz]e|create|design|draft|extract|implement|"
    r"generate|calculate|compute|give|make|find|identify|propose|suggest|review|rewrite|outline|plan|research|build|"
    r"test|document|evaluate|classify|produce|prepare|convert)\b"
)
_PART = re.compile(
    rf"^[^\S\n]*(?:\d+[.)]|[-*•]|step \d+:?)\s*{_VERB}|(?:^|[.;!:]\s+|\bthen\s+|\bfinally,?\s+|\balso\s+){_VERB}",
    re.I | re.M,
)


def is_compound(task: str) -> bool:
    """True when the text asks for three or more things that could be done apart."""
    return len(_PART.findall(_core(task))) >= 3


_ANSWER_FIELD = re.compile(r"[`\"']answer[`\"']\s*(?:field|key|:)|\banswer field\b", re.I)
_LITERAL = re.compile(r"\bassert\b.*==\s*\?\?|\bpython literal\b|\bliteral \(no unsimplified", re.I)
_BOOLEAN = _words("yes or no", "true or false", "yes/no", "true/false")
_JSON = _words(
    r"(?:as|in|return|output|respond (?:with|in)|reply (?:with|in))\s+(?:an? |only |valid |one )*json",
    "json object",
)
_QUANTITY = _words(
    "how (?:many|much|far|tall|old|long|fast|high|deep|wide|heavy)",
    r"what (?:is|was|are|will be) the (?:total|sum|number|average|difference|product|percentage|price|cost|profit|"
    r"distance|area|remainder)",
    "what percent",
    "calculate",
    "compute",
)
_SHORT = _words(
    "in (?:one|a single) word", "one word", "only the name", "a single (?:word|name)", "with the (?:name|label) only",
    r"(?:answer|reply|respond|label)\b[^.\n]{0,40}\b(?:one of|either)",
)  # fmt: skip
_PROSE = _words(
    "why", "explain", "describe", "write", "summari[sz]e", "discuss", "essay", "story", "compare",
    "how (?:do|does|did|can|could|should|would)",
)  # fmt: skip


_FENCED = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1|\Z)", re.M | re.S)
_TAGGED = re.compile(r"<([a-zA-Z][\w-]*)(?:\s[^<>\n]*)?>.*?</\1\s*>", re.S)
_CITED = re.compile(r"^[ \t]*>.*$", re.M)
_QUOTED = re.compile(r"[\"“«](?=(?:[^\"”»\n]*\s){2})[^\"”»]{1,4000}?[\"”»]")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_LINE_END = re.compile(r"\n+|(?<=[.?!])\s+")
_ENDS = 2
_ORDERS = re.compile(
    r"^\W*(?:(?:please|only|just|then|finally|now|and)\W+)*(?:answer|reply|respond|return|output|give|say|state|provide|"
    r"choose|decide|label|classify|produce|format|show|extract|present)\b",
    re.I,
)
_WRITES = re.compile(
    r"^\W*(?:(?:please|can you|could you)\W+)*(?:summari[sz]e|explain|describe|write|translate|rewrite|draft|compare|"
    r"discuss|review|analy[sz]e|outline|edit)\b",
    re.I,
)


_MOST_OF_AN_END = 15_000
_INSTRUCTS = re.compile(
    rf"\?\W*$|^\W*(?:(?:please|only|just|then|finally|now|can you|could you|i want you to)\W+)*(?:{_VERB}|"
    r"(?:answer|reply|respond|return|output|say|state|provide|choose|pick|select|decide|determine|label|show|present|"
    r"complete|solve|fill|count|estimate|tell|edit|discuss|answer)\b)",
    re.I,
)


def _instruction(text: str) -> list[str]:
    """The sentences of a text that say what to do: outside quotations, fences and tags, at its begin or its end.

    Where one end orders or asks something and the other does not, the other belongs to the text that is worked on.
    """
    if len(text) > 2 * _MOST_OF_AN_END:
        text = f"{text[:_MOST_OF_AN_END]}\n\n{text[-_MOST_OF_AN_END:]}"
    for quoted in (_FENCED, _TAGGED, _CITED, _QUOTED):
        text = quoted.sub(" ", text)
    paragraphs = [found for part in _BLANK_LINE.split(text) if (found := _sentences(part))]
    if not paragraphs:
        return []
    head, tail = paragraphs[0][:_ENDS], paragraphs[-1][-_ENDS:]
    ordering = [end for end in (head, tail) if any(_INSTRUCTS.search(line) for line in end)]
    return [line for end in ordering or (head, tail) for line in end]


def _sentences(text: str) -> list[str]:
    return [line for line in (line.strip() for line in _LINE_END.split(text)) if len(line) > 1]


def answer_format(task: str, system: str | None = None) -> AnswerFormat:
    """How the instruction wants its answer; `open` unless it is plain about a closed form.

    Only the instruction counts: the first and last sentences, outside quoted, fenced or tagged text, and the system
    text. It is a guess that helps to compare answers; no answer is refused for it.
    """
    question = _instruction(_core(task))
    how = [
        line
        for text in (*(m.group() for m in _HOW_TO_ANSWER.finditer(task)), system or "")
        for line in _instruction(text)
    ]
    said = [*question, *how]
    prose = any(_PROSE.search(line) for line in question)

    def asked(cue: re.Pattern[str]) -> bool:
        """In prose a closed form must be ordered: the text that the task is about may speak of it too."""
        return any(cue.search(line) and (not prose or line in how or _ORDERS.search(line)) for line in said)

    if any(_LITERAL.search(line) for line in said):
        return "literal"
    if _has_options(_core(task), question):
        return "choice"
    if asked(_BOOLEAN):
        return "boolean"
    if asked(_SAYS_NUMBER) or _SUM.search(_core(task)):
        return "number"
    field = any(_ANSWER_FIELD.search(line) for line in said)
    if not field and asked(_JSON):
        return "json"
    if field or not prose:
        if _asks_quantity(question, _core(task)):
            return "number"
        if field or asked(_SHORT):
            return "short"
    return "open"


def _has_options(core: str, question: list[str]) -> bool:
    """Options A and B, one after the other, which end the task or are not the text that it writes about."""
    if "AB" not in "".join(_OPTION.findall(_FENCED.sub("", core))):
        return False
    end = core.rstrip().removesuffix("Answer:").rstrip().rsplit("\n", 1)[-1]
    return _OPTION.match(end) is not None or not any(_WRITES.search(line) for line in question)


def _asks_quantity(question: list[str], core: str) -> bool:
    asks = any(_QUANTITY.search(line) for line in question)
    return asks and len(_NUMBER.findall(core)) >= 2 and "\\" not in core
