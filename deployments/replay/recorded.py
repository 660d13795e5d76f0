"""Serves recorded answers of real models, with an oracle for verdicts. Pure: records in, answers out.

    replay = Replay(read_records(path), {"gemini-2.5-pro": "gemini-1.5-pro"})
    with Sandbox(answers=replay) as sandbox: ...

A record holds `prompt` (and often `question`) and, for each recorded model, the answer, whether it was right,
and its token counts. A prompt that no record holds is refused as an invalid request: a replay never makes an
answer up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.models.targets import Usage
from tta_dev_primitives.deployments.sandbox.chat import Answer, Ask, Failure, Refusal
from tta_dev_primitives.deployments.sandbox.scenario.answers import answer_for
from tta_dev_primitives.flows.tasks.request import UseCase

_WINDOW = 40
"""Characters of a question's beginning by which it is found inside a longer prompt."""
_MOST_TOKENS = 10_000_000
_ACCEPTED_SCORE = 0.7
"""A recorded score (0..1) from which an answer counts as right, where the record has no `correct`."""


def read_records(path: str | Path, *, limit: int | None = None) -> list[Record]:
    """Records of a JSONL file, the first `limit` of them.

    Raises:
        ConfigError: The file cannot be read, holds no record, or a line is no record; names file and line.
    """
    records: list[Record] = []
    first: dict[str, tuple[int, Record]] = {}
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                if limit is not None and len(records) >= limit:
                    break
                if line.strip():
                    record = _record(line, f"{path}:{number}")
                    before, same = first.setdefault(record.prompt.strip(), (number, record))
                    if same.models != record.models:
                        raise ConfigError(
                            f"{path}:{number}: the same prompt as in line {before}, with other answers; a replay "
                            "cannot tell which to serve."
                        )
                    records.append(record)
    except OSError as error:
        raise ConfigError(f"Replay {path}: cannot be read: {error.strerror}.") from None
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"Replay {str(path)!r}: cannot be read: {error}.") from None
    if not records:
        raise ConfigError(
            f"Replay {path}: holds no record; expected a line of JSON for each task, with prompt and models."
        )
    return records


class _Turn(BaseModel):
    answer: str


class Recorded(BaseModel, strict=True):
    """What one model said of one task."""

    answer: str | None = None
    final: str | None = None
    turns: list[_Turn] | None = None
    correct: bool | None = None
    truncated: bool | None = None
    score: Annotated[float, Field(ge=0, le=1)] | None = None
    input_tokens: int | None = Field(default=None, ge=0, le=_MOST_TOKENS)
    output_tokens: int | None = Field(default=None, ge=0, le=_MOST_TOKENS)

    @property
    def text(self) -> str | None:
        """The recorded text; where only the choice was kept, the sentence that names it; None: neither was."""
        if self.answer is not None:
            return self.answer
        if self.turns:
            return self.turns[0].answer
        return None if self.final is None else f"The answer is ({self.final})."

    @property
    def right(self) -> bool:
        """Whether it was right: `correct`, else by its score."""
        return (self.score or 0) >= _ACCEPTED_SCORE if self.correct is None else self.correct


class Record(BaseModel, strict=True):
    """One task with what each recorded model said."""

    id: str | int | None = None
    dataset: str | None = None
    prompt: str = Field(pattern=r"\S")
    question: str | None = None
    use_case: UseCase | None = None
    models: dict[str, Recorded] = Field(min_length=1)
    routellm_contaminated: bool | None = None


def _record(line: bytes, where: str) -> Record:
    try:
        return Record.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part)[:60] for part in first["loc"]) or "record"
        raise ConfigError(f"{where}: {place}: {first['msg']}.") from None


class Replay:
    """A source of answers for `Sandbox(answers=...)`.

    Args:
        models: Requested API model id -> recorded model name.

    Raises:
        ConfigError: A recorded model name that no record holds.
    """

    def __init__(self, records: Iterable[Record], models: Mapping[str, str]) -> None:
        self._models = dict(models)
        self._by_prompt: dict[str, Record] = {}
        self._by_window: dict[str, list[tuple[str, Record]]] = {}
        self._short: list[tuple[str, Record]] = []
        known: set[str] = set()
        for record in records:
            known.update(record.models)
            self._index(record)
        if unknown := sorted(set(self._models.values()) - known):
            raise ConfigError(
                f"Replay: no record of {', '.join(unknown)}; recorded are {', '.join(sorted(known))}."
            )

    def _index(self, record: Record) -> None:
        self._by_prompt[record.prompt.strip()] = record
        for text in {_squeezed(record.prompt), _squeezed(record.question or record.prompt)}:
            if len(text) < _WINDOW:
                self._short.append((text, record))
            else:
                self._by_window.setdefault(text[:_WINDOW], []).append((text, record))

    def find(self, text: str) -> Record | None:
        """The record whose prompt or question stands in `text`; of several, the one with the longest."""
        exact = self._by_prompt.get(text.strip())
        if exact is not None:
            return exact
        text = _squeezed(text)
        best: tuple[str, Record] | None = None
        for at in range(len(text) - _WINDOW + 1):
            for question, record in self._by_window.get(text[at : at + _WINDOW], ()):
                if text.startswith(question, at) and (best is None or len(question) > len(best[0])):
                    best = (question, record)
        if best is None:
            found = [pair for pair in self._short if pair[0] in text]
            best = max(found, key=lambda pair: len(pair[0]), default=None)
        return best[1] if best else None

    def __call__(self, ask: Ask) -> Answer | None:
        """The recorded answer, or the oracle's verdict; plans are left to the default answer.

        Raises:
            Refusal: No record fits.
        """
        if ask.prompt == "plan":
            return None
        record = self.find(ask.user)
        if record is None:
            raise _refused("no recorded prompt is contained in this message")
        return self._verdict(ask, record) if ask.prompt == "verdict" else self._recorded(ask, record)

    def _recorded(self, ask: Ask, record: Record) -> Answer:
        name = self._models.get(ask.model)
        answer = record.models.get(name) if name else None
        if answer is None:
            raise _refused(f"no recorded answer of {ask.model} to {record.id or 'this prompt'}")
        text = answer.text
        if text is None:
            raise _refused(f"the record {record.id or ''} keeps no answer text of {name}")
        read, wrote = answer.input_tokens, answer.output_tokens
        usage = Usage(
            ask.input_tokens if read is None else read,
            output_tokens=max(1, len(text) // 4) if wrote is None else wrote,
        )
        return Answer(text, usage, finish="length" if answer.truncated else "stop")

    def _verdict(self, ask: Ask, record: Record) -> Answer:
        accept = judged(record, ask.user)
        if accept is None:
            raise _refused(f"no recorded answer to {record.id or 'this prompt'} stands in the verdict frame")
        return answer_for(ask, verdict="accept" if accept else "reject")


def judged(record: Record, frame: str) -> bool | None:
    """Whether the recorded answer that stands in `frame` was right; None when none stands there."""
    loose = _loose(frame)
    found: list[tuple[int, bool]] = []
    for answer in record.models.values():
        if (plain := _loose(answer.text or "")) and plain in loose:
            found.append((len(plain), answer.right))
    return max(found)[1] if found else None


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _loose(text: str) -> str:
    """Without spaces and escapes: a frame may hold the answer as a JSON string."""
    return re.sub(r"\\[nrt]|[\s\\]", "", text)


def _refused(why: str) -> Refusal:
    return Refusal(Failure("invalid_request", f"Replay: {why}."))
