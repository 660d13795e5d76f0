"""The official SDKs run their batch calls against the sandbox: create, look, list, results, cancel."""

from __future__ import annotations

import importlib
import io
import json
import warnings
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from tta_dev_primitives.config.models.targets import Price
from tta_dev_primitives.deployments.sandbox import Sandbox, parse_scenario

MESSAGES = [{"role": "user", "content": "What is 17 * 23?"}]
CHAT_BODY = {"model": "openai/gpt-oss-20b", "messages": MESSAGES, "max_completion_tokens": 100}
PRICE = Price(Decimal(1), Decimal(4), source="test")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(prices=lambda provider, model: PRICE) as running:
        yield running


def sdk(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def message(name: str, **more: Any) -> dict[str, Any]:
    params = {"model": "claude-sonnet-4-6", "max_tokens": 100, "messages": MESSAGES, **more}
    return {"custom_id": name, "params": params}


def billed_at_half(sandbox: Sandbox) -> bool:
    """The sandbox's bill is half of what the same tokens cost one call at a time."""
    calls = [call for call in sandbox.calls if call.billed]
    alone = sum((PRICE.cost(call.usage) for call in calls), Decimal(0))
    return bool(calls) and all(call.batch for call in calls) and sandbox.billed() * 2 == alone


def test_anthropic(sandbox: Sandbox) -> None:
    with sdk("anthropic").Anthropic(api_key="any", base_url=sandbox.base_url("anthropic")) as client:
        made = client.messages.batches.create(requests=[message("a"), message("b", max_tokens=0)])
        seen = client.messages.batches.retrieve(made.id)
        results = {one.custom_id: one.result for one in client.messages.batches.results(made.id)}
        listed = [one.id for one in client.messages.batches.list()]
    assert (seen.processing_status, seen.request_counts.succeeded, seen.request_counts.errored) == (
        "ended",
        1,
        1,
    )
    assert listed == [made.id]
    assert "391" in results["a"].message.content[0].text
    assert results["b"].error.error.type == "invalid_request_error"
    assert billed_at_half(sandbox)


def test_anthropic_delay_and_cancel(sandbox: Sandbox) -> None:
    sandbox.use(parse_scenario("batches: {delay: 3600}"))
    with sdk("anthropic").Anthropic(api_key="any", base_url=sandbox.base_url("anthropic")) as client:
        made = client.messages.batches.create(requests=[message("a")])
        assert client.messages.batches.retrieve(made.id).processing_status == "in_progress"
        client.messages.batches.cancel(made.id)
        assert client.messages.batches.retrieve(made.id).request_counts.canceled == 1
        assert next(iter(client.messages.batches.results(made.id))).result.type == "canceled"
    assert sandbox.billed() == 0


@pytest.mark.parametrize(("name", "client", "provider"), [
    ("openai", "OpenAI", "openai-compatible"),
    ("groq", "Groq", "groq"),
])  # fmt: skip
def test_chat_formats(sandbox: Sandbox, name: str, client: str, provider: str) -> None:
    sandbox.use(parse_scenario("batches: {expire_after: 2}"))
    rows = [
        {"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": CHAT_BODY}
        for n in range(3)
    ]
    upload = io.BytesIO("\n".join(json.dumps(row) for row in rows).encode())
    with getattr(sdk(name), client)(api_key="any", base_url=sandbox.base_url(provider)) as api:
        file = api.files.create(file=("in.jsonl", upload), purpose="batch")
        made = api.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"ours": "1"},
        )
        seen = api.batches.retrieve(made.id)
        output = [json.loads(line) for line in api.files.content(seen.output_file_id).text().splitlines()] if (
            name == "groq"
        ) else [json.loads(line) for line in api.files.content(seen.output_file_id).text.splitlines()]  # fmt: skip
        listed = [one.id for one in api.batches.list().data]
    assert (seen.status, seen.request_counts.completed, seen.request_counts.failed) == ("expired", 2, 1)
    assert listed == [made.id]
    assert seen.error_file_id
    assert {row["custom_id"] for row in output} == {"0", "1"}
    assert all(row["response"]["body"]["usage"] for row in output)
    assert billed_at_half(sandbox)


def test_gemini(sandbox: Sandbox) -> None:
    genai = sdk("google.genai")
    client = genai.Client(api_key="any", http_options={"base_url": sandbox.base_url("google-ai-studio")})
    request = {
        "contents": [{"role": "user", "parts": [{"text": "What is 17 * 23?"}]}],
        "metadata": {"key": "a"},
    }
    made = client.batches.create(model="gemini-2.5-pro", src=[request], config={"display_name": "ours"})
    seen = client.batches.get(name=made.name)
    listed = [(one.name, one.display_name) for one in client.batches.list()]
    client.close()
    assert seen.state.name == "JOB_STATE_SUCCEEDED"
    assert listed == [(made.name, "ours")]
    answer = seen.dest.inlined_responses[0]
    assert "391" in answer.response.text
    assert billed_at_half(sandbox)
