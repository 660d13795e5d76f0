"""When a reply that arrived well is still no answer: cut, empty, refused, or broken by the model."""

from __future__ import annotations

from collections.abc import Mapping

from tta_dev_primitives.blocks.wire.types import ChatReply, Finish
from tta_dev_primitives.config.provider_errors import ErrorClass

_WORDS: Mapping[Finish, str] = {
    "stop": "stop stopped stop_sequence stop_token stop_sequence_reached eos eos_token end_of_sequence end_turn "
    "end_of_turn end finish finished complete completed done success normal",
    "length": "length max_length max_tokens max_token max_tokens_reached max_new_tokens max_output_tokens "
    "max_completion_tokens output_limit token_limit limit model_length context_length context_length_exceeded "
    "model_context_window_exceeded context_window_exceeded continuation incomplete truncated pause_turn",
    "content_filter": "content_filter content_filtered content_policy content_policy_violation filtered safety "
    "recitation blocklist prohibited_content spii language escalation model_armor image_safety "
    "image_prohibited_content image_recitation refusal refused guardrail guardrail_intervened moderation "
    "sensitive blocked error_toxic",
    "tool": "tool tool_use tool_call tool_calls function_call",
    "error": "error errored failed failure abort aborted cancelled canceled timeout network_error server_error "
    "insufficient_system_resource other image_other no_image malformed_function_call malformed_response "
    "malformed_tool_use malformed_model_output unexpected_tool_call too_many_tool_calls "
    "missing_thought_signature",
}
_TABLE: Mapping[str, Finish] = {word: finish for finish, words in _WORDS.items() for word in words.split()}


def finish_of(raw: str | None) -> Finish:
    """The meaning of a provider's finish reason in any letter case; `unknown` when the table has no such word."""
    word = (raw or "").strip().casefold().replace("-", "_").replace(" ", "_")
    return _TABLE.get(word.removeprefix("finish_reason_"), "unknown")


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
