"""Batch formats as pure functions: what is sent, how states and result lines are read."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_dev_primitives.blocks.wire.batches.formats import (
    at_batch_price,
    batch_factor,
    batch_format,
    batch_line,
)
from tta_dev_primitives.blocks.wire.batches.types import BatchFormat, BatchLine
from tta_dev_primitives.blocks.wire.reading import Unreadable
from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.config.models.targets import Price, Target, Usage

LINES = [BatchLine("a", {"model": "m", "messages": []}), BatchLine("b", {"model": "m", "messages": []})]
PROVIDERS = ["anthropic", "google-ai-studio", "groq", "openai", "together", "mistral"]


def target(provider: str, **changes: Any) -> Target:
    price = Price(Decimal(3), Decimal(15), cache_read_usd_per_mtok=Decimal("0.3"), source="test")
    made = Target("m", provider, "maker/m", "paid", "KEY", "m", price)
    return replace(made, **changes)


def form(provider: str) -> BatchFormat:
    found = batch_format(target(provider))
    assert found is not None
    return found


@pytest.mark.parametrize("provider", PROVIDERS)
def test_half_the_price_in_every_class(provider: str) -> None:
    usage = Usage(input_tokens=7, cache_read_tokens=5, output_tokens=3)
    whole, half = target(provider).price, at_batch_price(target(provider)).price
    assert whole is not None
    assert half is not None
    assert half.cost(usage) * 2 == whole.cost(usage)
    assert batch_factor(target(provider)) == Decimal("0.5")
    assert "https://" in half.source


@pytest.mark.parametrize("provider", ["openrouter", "openai-compatible", "deepseek", "ollama"])
def test_no_batches_no_discount(provider: str) -> None:
    assert batch_format(target(provider)) is None
    assert at_batch_price(target(provider)) == target(provider)


def test_free_models_have_no_batches() -> None:
    assert batch_format(target("google-ai-studio", billing="free")) is None


@pytest.mark.parametrize(
    ("provider", "upload", "submit", "look"),
    [
        ("anthropic", None, "/v1/messages/batches", "/v1/messages/batches/x"),
        ("google-ai-studio", None, "/v1beta/models/maker%2Fm:batchGenerateContent", "/v1beta/batches/x"),
        ("groq", "/openai/v1/files", "/openai/v1/batches", "/openai/v1/batches/x"),
        ("openai", "/files", "/batches", "/batches/x"),
        ("together", "/files/upload", "/batches", "/batches/x"),
        ("mistral", "/files", "/batch/jobs", "/batch/jobs/x"),
    ],
)
def test_addresses(provider: str, upload: str | None, submit: str, look: str) -> None:
    spoken = form(provider)
    uploaded = spoken.upload(LINES, "tta-1")
    assert (None if uploaded is None else uploaded.path) == upload
    assert spoken.submit(target(provider), LINES, "tta-1", "file-1").path == submit
    assert spoken.look("batches/x" if provider == "google-ai-studio" else "x").path == look
    sent = (uploaded.body if uploaded else b"") + spoken.submit(
        target(provider), LINES, "tta-1", "file-1"
    ).body
    assert b'"a"' in sent
    assert b'"b"' in sent


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_line_is_the_chat_request(provider: str) -> None:
    line = batch_line(target(provider), ChatRequest((Message("user", "hello"),), system="be brief"), "id-1")
    assert line.id == "id-1"
    assert "hello" in json.dumps(line.body)
    assert "stream" not in line.body


@pytest.mark.parametrize(
    ("provider", "payload", "state", "succeeded"),
    [
        (
            "anthropic",
            {
                "id": "m",
                "processing_status": "ended",
                "request_counts": {
                    "processing": 0,
                    "succeeded": 2,
                    "errored": 1,
                    "canceled": 0,
                    "expired": 0,
                },
            },
            "ended",
            2,
        ),
        ("anthropic", {"id": "m", "processing_status": "canceling"}, "running", None),
        ("openai", {"id": "m", "status": "finalizing"}, "running", None),
        (
            "openai",
            {"id": "m", "status": "expired", "request_counts": {"total": 3, "completed": 1}},
            "ended",
            1,
        ),
        ("groq", {"id": "m", "status": "failed", "errors": {"data": [{"message": "no"}]}}, "failed", None),
        ("together", {"job": {"id": "m", "status": "VALIDATING"}}, "running", None),
        ("together", {"id": "m", "status": "COMPLETED", "output_file_id": "f"}, "ended", None),
        (
            "mistral",
            {"id": "m", "status": "SUCCESS", "succeeded_requests": 4, "output_file": "f"},
            "ended",
            4,
        ),
        ("mistral", {"id": "m", "status": "QUEUED"}, "running", None),
        (
            "google-ai-studio",
            {"name": "batches/m", "metadata": {"state": "JOB_STATE_PENDING"}},
            "running",
            None,
        ),
        (
            "google-ai-studio",
            {
                "name": "batches/m",
                "metadata": {"state": "BATCH_STATE_SUCCEEDED", "batchStats": {"successfulRequestCount": "5"}},
            },
            "ended",
            5,
        ),
        (
            "google-ai-studio",
            {"name": "batches/m", "metadata": {"state": "BATCH_STATE_FAILED"}},
            "failed",
            None,
        ),
    ],
)
def test_states(provider: str, payload: dict[str, Any], state: str, succeeded: int | None) -> None:
    status = form(provider).status(payload)
    assert (status.state, status.succeeded) == (state, succeeded)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("payload", [None, [], {}, {"id": 7}, {"name": "../secrets"}, "text"])
def test_what_is_no_batch(provider: str, payload: Any) -> None:
    with pytest.raises(Unreadable):
        form(provider).status(payload)


@pytest.mark.parametrize(
    ("provider", "line", "kind", "status"),
    [
        ("anthropic", {"custom_id": "a", "result": {"type": "succeeded", "message": {}}}, "reply", 200),
        (
            "anthropic",
            {
                "custom_id": "a",
                "result": {"type": "errored", "error": {"error": {"type": "overloaded_error"}}},
            },
            "reply",
            529,
        ),
        ("anthropic", {"custom_id": "a", "result": {"type": "expired"}}, "not_run", 200),
        ("openai", {"custom_id": "a", "response": {"status_code": 429, "body": {}}}, "reply", 429),
        ("openai", {"custom_id": "a", "error": {"code": "batch_expired"}}, "not_run", 200),
        ("groq", {"custom_id": "a", "error": {"code": "bad"}}, "reply", 400),
        ("google-ai-studio", {"key": "a", "response": {"candidates": []}}, "reply", 200),
        ("google-ai-studio", {"key": "a", "error": {"code": 8, "message": "x"}}, "reply", 429),
        ("google-ai-studio", {"key": "a", "error": {"code": 1, "message": "cancelled"}}, "not_run", 200),
    ],
)
def test_result_lines(provider: str, line: dict[str, Any], kind: str, status: int) -> None:
    [found] = form(provider).results(b"not json\n\n" + json.dumps(line).encode() + b"\n")
    assert (found.id, found.kind, found.status) == ("a", kind, status)


@given(st.binary(max_size=300), st.sampled_from(PROVIDERS))
def test_no_bytes_break_the_reader(body: bytes, provider: str) -> None:
    assert len(list(form(provider).results(body))) <= body.count(b"\n") + 1
