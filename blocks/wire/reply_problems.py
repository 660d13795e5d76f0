"""When a reply that arrived well is still no answer: cut, empty, refused, or broken by the model."""

from __future__ import annotations

from tta_dev_primitives.blocks.wire.types import ChatReply
from tta_dev_primitives.config.errors import ErrorClass

__all__ = ["reply_problem"]

# A turn that Anthropic paused: what was said so far is not the whole answer.
_UNFINISHED = frozenset({"pause_turn"})


def reply_problem(reply: ChatReply) -> ErrorClass | None:
    """Name what keeps `reply` from being an answer, or None.

    `TRUNCATED` holds with and without text: a cut answer is judged as incomplete, never accepted silently.
    """
    if reply.finish == "content_filter":
        return ErrorClass.CONTENT
    if reply.finish == "length" or reply.raw_finish in _UNFINISHED:
        return ErrorClass.TRUNCATED
    if reply.finish == "error":
        return ErrorClass.MODEL_SLIP
    if not reply.text.strip():
        return ErrorClass.EMPTY
    return None
