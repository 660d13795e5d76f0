"""What each error reply of each provider means: the decision tables, row by row.

The rows stand in `wire_errors.yaml`. All times are relative to Sunday, 22 November 2026, 10:00 UTC.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from time import process_time
from typing import Any

import pytest
import yaml
from wire_samples import NOW, PROVIDERS, target

from tta_dev_primitives.blocks.wire.error_rules import read_error
from tta_dev_primitives.blocks.wire.formats import wire_format
from tta_dev_primitives.config.provider_errors import ErrorClass as E
from tta_dev_primitives.config.provider_errors import ProviderError

INSTANTS = {
    "december": NOW + (8 * 24 + 14) * 3600,  # 1 December 2026, 00:00 UTC
    "pacific_midnight": NOW + 22 * 3600,  # 23 November, 00:00 in Los Angeles (08:00 UTC)
    "utc_midnight": NOW + 14 * 3600,
}
TABLE = yaml.safe_load(Path(__file__).with_name("wire_errors.yaml").read_text(encoding="utf-8"))
ROWS: list[tuple[str, dict[str, Any]]] = [(p, row) for p, rows in TABLE.items() for row in rows] + [
    (
        "openai-compatible",
        {"name": name, "status": 200, "means": "malformed", "hold": "presume", "body": body},
    )
    for name, body in (("deep nesting", "[" * 100_000), ("5,000 digits", "9" * 5000))
]


@pytest.mark.parametrize(
    ("provider", "row"), ROWS, ids=lambda v: f"{v['status']} {v['name']}" if isinstance(v, dict) else v
)
def test_an_error_reply_is_judged_as_its_row_says(provider: str, row: dict[str, Any]) -> None:
    """Class, ledger action, scope, wait, end and the provider's own word on retrying, all at once."""
    body = row["body"] if isinstance(row["body"], str) else json.dumps(row["body"])
    headers, wait, over = row.get("headers", {}), row.get("wait"), row.get("over")
    with pytest.raises(ProviderError) as caught:
        wire_format(provider).parse(target(provider), row["status"], headers, body.encode(), now=NOW)
    error = caught.value
    got = (
        error.error_class,
        error.ledger_action,
        error.scope,
        error.retry_after_s,
        error.retry_after_s,
        error.retryable,
    )
    wanted = (
        row["means"],
        row.get("hold", "release"),
        row.get("scope", "model"),
        wait,
        wait,
        row.get("retryable"),
    )
    assert got == wanted
    assert error.reset_at == (None if over is None else pytest.approx(INSTANTS.get(over) or NOW + over))
    assert error.status == row["status"]
    assert len(str(error)) <= 500


def test_the_tables_are_wide() -> None:
    """Each provider has a table of its own with at least 15 rows; no key of a row is unknown to the test."""
    known = {"name", "status", "means", "hold", "scope", "wait", "over", "retryable", "headers", "body"}
    assert min(Counter(provider for provider, _ in ROWS)[p] for p in PROVIDERS) >= 15
    assert {key for _, row in ROWS for key in row} == known


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("No endpoints found matching your data policy (Free model publication).", "privacy_restricted"),
        ("No endpoints found that can handle the requested parameters.", "constraint_filtered"),
        ("No endpoints found for x/y.", "404"),
    ],
)
def test_what_older_replies_of_openrouter_say_in_words_has_its_code(said: str, code: str) -> None:
    """The user can fix a data policy, another request asks for less: that is not gone for a day."""
    with pytest.raises(ProviderError) as caught:
        wire_format("openrouter").parse(
            target("openrouter"),
            404,
            {},
            json.dumps({"error": {"code": 404, "message": said}}).encode(),
            now=NOW,
        )
    assert (caught.value.error_class, caught.value.code) == (E.MODEL_GONE, code)


def test_a_wait_on_a_good_reply_is_ignored() -> None:
    """Anthropic sends retry-after with many good replies; it means nothing there."""
    body = {"type": "message", "content": [{"type": "text", "text": "42"}], "stop_reason": "end_turn"}
    reply = wire_format("anthropic").parse(
        target("anthropic"), 200, {"retry-after": "61"}, json.dumps(body).encode()
    )
    assert reply.text == "42"


def test_an_error_holds_what_a_person_needs() -> None:
    """Provider, model, request id and the provider's words, on one line; it survives pickling."""
    import pickle

    body = json.dumps(
        {"type": "error", "error": {"type": "not_found_error", "message": "model:\n  claude-opus-4-0"}}
    ).encode()
    with pytest.raises(ProviderError) as caught:
        wire_format("anthropic").parse(target("anthropic"), 404, {"request-id": "req_9"}, body, now=NOW)
    error: ProviderError = pickle.loads(pickle.dumps(caught.value))
    assert str(error) == (
        "anthropic model the-model: model_gone (HTTP 404 not_found_error): model: claude-opus-4-0. "
        "Check the model 'the-model', or name another one"
    )
    assert (error.provider, error.model, error.request_id, error.code) == (
        "anthropic",
        "the-model",
        "req_9",
        "not_found_error",
    )


def test_a_key_that_a_provider_echoes_is_not_passed_on() -> None:
    """Some providers quote the rejected key in their message."""
    message = "Incorrect API key provided: sk-proj-abcdefghijklmnop1234. See our site."
    body = json.dumps({"error": {"message": message}}).encode()
    with pytest.raises(ProviderError) as caught:
        wire_format("openai-compatible").parse(target("openai-compatible"), 401, {}, body)
    assert "abcdefgh" not in str(caught.value)
    assert "[redacted]" in str(caught.value)


@pytest.mark.parametrize("message", ["Please pass a valid API key.", "Please pass a valid API key"])
def test_a_message_has_one_full_stop_before_its_mend(message: str) -> None:
    """The provider's sentence and ours are joined by one full stop, however the provider ends its own."""
    body = json.dumps(
        {
            "error": {
                "code": 400,
                "status": "INVALID_ARGUMENT",
                "message": message,
                "details": [{"reason": "API_KEY_INVALID"}],
            }
        }
    ).encode()
    with pytest.raises(ProviderError) as caught:
        wire_format("google-ai-studio").parse(target("google-ai-studio"), 400, {}, body, now=NOW)
    assert "Please pass a valid API key. Check the key in" in str(caught.value)


def test_an_error_is_read_in_time_whatever_it_lacks() -> None:
    """Ten thousand plain errors take less than a second of the processor: what is missing is not looked for inside."""
    body, began = (
        {"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down."}},
        process_time(),
    )
    for _ in range(10_000):
        assert read_error(body).message == "Slow down."
    assert process_time() - began < 1
