"""Groq's facts on top of the shared chat format: its fields, its limits by minute and by day."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from typing_extensions import override

from tta_dev_primitives.blocks.wire.error_rules import ErrorBody, Fault, limited
from tta_dev_primitives.blocks.wire.openai_chat import OpenAIChat
from tta_dev_primitives.blocks.wire.retry_after import NONSENSE, go_duration, header_wait, try_again_in
from tta_dev_primitives.blocks.wire.types import ChatRequest
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction

_PER_DAY = re.compile(r"\b[RT]PD\b|per day", re.IGNORECASE)
_PER_MINUTE = re.compile(r"\b[RT]PM\b|per minute", re.IGNORECASE)


class Groq(OpenAIChat):
    """Groq."""

    path, models_path = "/openai/v1/chat/completions", "/openai/v1/models"

    @override
    def extras(self, target: Target, request: ChatRequest, body: dict[str, Any]) -> None:
        if target.capabilities.thinking == "groq_effort":
            # Without this some models put their thoughts into the answer text.
            body["include_reasoning"] = False
            if request.thinking == "low":
                body["reasoning_effort"] = "low"

    @override
    def special(self, status: int, headers: Mapping[str, str], body: ErrorBody, now: float) -> Fault | None:
        if status != 429 or body.code in ("insufficient_quota",):
            return None
        if not _PER_DAY.search(body.message[:4000]):
            return limited(
                body, headers=headers, now=now, per_minute=bool(_PER_MINUTE.search(body.message[:4000]))
            )
        # A daily limit: the next model at once. "requests" headers count per day, "tokens" headers per minute.
        wait = header_wait(headers, now)
        wait = try_again_in(body.message) if wait is None else wait
        wait = go_duration(headers.get("x-ratelimit-reset-requests")) if wait is None else wait
        fault = Fault(ErrorClass.QUOTA, LedgerAction.RELEASE, body.message, body.code or body.type)
        return fault if wait is None or wait == NONSENSE else replace(fault, reset_at=now + wait)

    @override
    def overloaded(self, body: ErrorBody) -> bool:
        return body.code in ("over_capacity", "capacity_exceeded") or "over capacity" in body.message[:2000]
