"""When a reply that arrived well is still no answer: cut, empty, refused, or broken by the model."""

from __future__ import annotations

from tta_dev_primitives.blocks.wire.finish import finish_of
from tta_dev_primitives.blocks.wire.types import ChatReply
from tta_dev_primitives.config.provider_errors import ErrorClass


def reply_problem(reply: ChatReply) -> ErrorClass | None:
    """Name what keeps `reply` from being an answer, or None.

    `TRUNCATED` holds with and without text: a cut answer is judged as incomplete, never accepted silently.
    """
    finish = finish_of(reply.raw_finish) if reply.finish == "unknown" else reply.finish
    if finish == "content_filter":
        return ErrorClass.CONTENT
    if finish == "length":
        return ErrorClass.TRUNCATED
    if finish == "error":
        return ErrorClass.MODEL_SLIP
    if not reply.text.strip():
        return ErrorClass.EMPTY
    return None


def unknown_finish(reply: ChatReply) -> str | None:
    """The provider's reason for the end of an answer when no table knows it: the answer may be cut."""
    return reply.raw_finish if reply.finish == "unknown" and reply.text.strip() else None
