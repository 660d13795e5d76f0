"""Optional request fields that a model refused: learned from its provider's own words, kept for a week.

A 400 or 422 that names one of our optional fields says how the model must be asked. The request is changed as little
as possible: a field is renamed, moved or left out. What is kept stands in the ledger's database, a row for each model,
key and field, so that all processes of the database know it. What the configuration says of a field is never changed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from tta_dev_primitives.blocks.ledger.database.migrations import register_schema
from tta_dev_primitives.blocks.ledger.database.protocol import Database, Tx, writes
from tta_dev_primitives.blocks.wire.types import ChatRequest
from tta_dev_primitives.config.models.targets import Capabilities, Target
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError

register_schema(
    "capabilities",
    1,
    [
        "CREATE TABLE IF NOT EXISTS model_capability (scope TEXT NOT NULL, field TEXT NOT NULL, "
        "value TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (scope, field)) STRICT"
    ],
)

KEPT_S = 7 * 86_400.0
_READ_AGAIN_S = 60.0

_REFUSED = re.compile(
    r"not support|n't support|unsupported"
    r"|not (?:be )?(?:enabled|permitted|allowed|available|accepted|implemented|valid|used)"
    r"|unrecogni[sz]ed|unknown|unexpected|extra (?:inputs|fields|argument)|only (?:the )?(?:default|user|'?text)"
    r"|must be (?:one of|either)|must alternate|deprecated|instead|invalid (?:field|parameter|argument|role)",
    re.IGNORECASE,
)
_JSON_STEPS = {"json_schema": "json_object", "json_object": "none", "tool": "none"}


@dataclass(frozen=True, slots=True)
class Lesson:
    """One field of `Capabilities` with the value that the provider's refusal asks for."""

    field: str
    value: str | bool
    what: str
    """What is done from now on, for the result's warnings."""

    def applied_to(self, target: Target) -> Target:
        """The target asked as the lesson says."""
        return target.asked_with(**{self.field: self.value})


@dataclass(frozen=True, slots=True)
class _Field:
    """An optional field: how providers name it, whether this request holds it, and what to do without it."""

    named: re.Pattern[str]
    sent: Callable[[Capabilities, ChatRequest], bool]
    lesson: Callable[[Capabilities, str], Lesson | None]


def _words(*names: str) -> re.Pattern[str]:
    return re.compile(r"(?<![A-Za-z_])(?:" + "|".join(names) + r")(?![A-Za-z_])", re.IGNORECASE)


def _token_limit(can: Capabilities, said: str) -> Lesson | None:
    """The other name of the limit: a call without any limit has no bound."""
    sent = "max_completion_tokens" if can.max_tokens_field == "max_completion_tokens" else "max_tokens"
    other = "max_tokens" if sent == "max_completion_tokens" else "max_completion_tokens"
    named = _words(sent).search(said)
    first_other = _words(other).search(said)
    if named is None or (first_other is not None and first_other.start() < named.start()):
        return None
    return Lesson("max_tokens_field", other, f"{other} is sent in place of {sent}")


def _json_mode(can: Capabilities, _said: str) -> Lesson | None:
    value = _JSON_STEPS.get(can.json_mode)
    if value is None:
        return None
    what = "the shape of the answer is asked for in words" if value == "none" else f"{value} is asked for"
    return Lesson("json_mode", value, what)


_FIELDS = (
    _Field(
        _words("max_tokens", "max_completion_tokens"),
        lambda can, _: can.max_tokens_field != "maxOutputTokens",
        _token_limit,
    ),
    _Field(
        _words("temperature"),
        lambda can, request: can.temperature and request.temperature is not None,
        lambda *_: Lesson("temperature", False, "no temperature is sent"),
    ),
    _Field(
        _words(
            r"system[ _]?(?:role|instruction|message|prompt)s?",
            "systemInstruction",
            r"developer (?:instruction|message|role)s?",
            r"roles? [^.]{0,40}system",
            r"role'? does not support 'system'",
            "conversation roles must alternate",
        ),
        lambda can, request: can.system_role and bool(request.system),
        lambda *_: Lesson("system_role", False, "the system text is sent in the user's turn"),
    ),
    _Field(
        _words(
            "response_format",
            "json_schema",
            "json_object",
            "json mode",
            r"response_?(?:mime_?type|schema|json_?schema)",
            r"output_config(?:\.format)?",
            "output_format",
            r"structured outputs?",
            "tool_choice",
        ),
        lambda can, request: can.json_mode != "none" and request.json_schema is not None,
        _json_mode,
    ),
    _Field(
        _words("stop", "stop_sequences?", "stopSequences"),
        lambda can, request: can.stop and bool(request.stop),
        lambda *_: Lesson("stop", False, "no stop sequences are sent"),
    ),
    _Field(
        _words(
            "reasoning",
            "reasoning_effort",
            "include_reasoning",
            "reasoning_format",
            "thinking",
            r"thinking[ _]?(?:config|budget|level)",
            "effort",
        ),
        lambda can, _: can.thinking != "none",
        lambda *_: Lesson("thinking", "none", "nothing is said about reasoning"),
    ),
)


def lesson_of(target: Target, request: ChatRequest, error: ProviderError) -> Lesson | None:
    """What a refusal teaches of the model, or None when it names no optional field that was sent. Pure.

    The field that the message names first is the one that was refused.
    """
    if error.status not in (400, 422) or error.error_class is not ErrorClass.INVALID_REQUEST:
        return None
    said = str(error)
    if not _REFUSED.search(said):
        return None
    found: list[tuple[int, Lesson]] = []
    for field in _FIELDS:
        named = field.named.search(said)
        if named is None or not field.sent(target.capabilities, request):
            continue
        lesson = field.lesson(target.capabilities, said)
        if lesson is not None and lesson.field not in target.fixed_capabilities:
            found.append((named.start(), lesson))
    return min(found, key=lambda one: one[0])[1] if found else None


class LearnedCapabilities:
    """What providers taught about models, over the ledger's database."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self.database, self._clock = database, clock
        self._read: dict[str, tuple[float, dict[str, str | bool]]] = {}

    async def applied_to(self, target: Target, key_id: str) -> Target:
        """The target with what is known of it; the configuration's own words hold above that."""
        known = await self._known(_scope(target, key_id))
        changes = {field: value for field, value in known.items() if field not in target.fixed_capabilities}
        return target.asked_with(**changes) if changes else target

    async def keep(self, target: Target, key_id: str, lessons: list[Lesson]) -> None:
        """Remember for a week what a call has proved."""
        scope, until = _scope(target, key_id), self._clock() + KEPT_S
        _, known = self._read.get(scope, (0.0, {}))
        self._read[scope] = (time.monotonic(), known | {one.field: one.value for one in lessons})
        await self._write(scope, lessons, until)

    @writes("capabilities.keep", idempotent=True)
    async def _write(self, tx: Tx, scope: str, lessons: list[Lesson], until: float) -> None:
        for one in lessons:
            await tx.execute(
                "INSERT INTO model_capability (scope, field, value, until) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (scope, field) DO UPDATE SET value = excluded.value, until = excluded.until",
                *(scope, one.field, _text(one.value), until),
            )
        await tx.execute("DELETE FROM model_capability WHERE until < ?", self._clock())

    async def _known(self, scope: str) -> dict[str, str | bool]:
        at, known = self._read.get(scope, (float("-inf"), {}))
        if time.monotonic() - at < _READ_AGAIN_S:
            return known
        rows = await self.database.fetch(
            "SELECT field, value FROM model_capability WHERE scope = ? AND until > ?", scope, self._clock()
        )
        known = {row["field"]: _value(row["value"]) for row in rows}
        self._read[scope] = (time.monotonic(), known)
        return known


def _scope(target: Target, key_id: str) -> str:
    return f"{target.provider}|{target.base_url or ''}|{key_id}|{target.api_model}"


def _text(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else value


def _value(text: str) -> str | bool:
    return text == "true" if text in ("true", "false") else text
