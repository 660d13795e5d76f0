"""One provider call through its layers: real HTTP on loopback, a real ledger, no Prefect."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import fault_replies as f
import pytest
from drive import PAID, PAID_KEY, Bench, ledger_rows, runtime_at, using

from tta_dev_primitives.blocks.ledger.types import CallInfo
from tta_dev_primitives.blocks.providers.client import ProviderClient
from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.config.models.targets import Limits, Target
from tta_dev_primitives.config.provider_errors import ErrorClass
from tta_dev_primitives.config.reading.api_keys import key_id
from tta_dev_primitives.flows.bulk.runner import JobOptions, JobRun
from tta_dev_primitives.flows.calling.call import Answered, Call, Failed, Result
from tta_dev_primitives.flows.calling.runtime import Runtime
from tta_dev_primitives.flows.tasks.result import Attempt

GOOD = json.dumps(
    {
        "choices": [{"message": {"content": "4"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
    }
).encode()
ENVOY = b"upstream connect error or disconnect/reset before headers. reset reason: connection termination"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv(PAID_KEY, "a-key-of-no-provider")
    return Bench(
        f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, "a-key-of-no-provider", "http://127.0.0.1:9"
    )


@asynccontextmanager
async def running(bench: Bench, url: str, **target: Any) -> AsyncIterator[Runtime]:
    """A run whose paid model is an OpenAI-compatible server at `url`."""
    runtime = await runtime_at(bench, url, provider="openai-compatible")
    changed = replace(runtime.targets[PAID], base_url=url, **target)
    runtime = using(runtime, targets={**runtime.targets, PAID: changed})
    try:
        yield runtime
    finally:
        await runtime.services.client.aclose()


class Asked:
    """What one question has left: its outcome, attempts and notes."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.notes: list[str] = []
        self.outcome: Result | None = None

    @property
    def cost(self) -> Decimal:
        return sum((a.cost_usd for a in self.attempts), Decimal(0))


async def ask(runtime: Runtime, text: str = "2 + 2?", **options: Any) -> Asked:
    """Ask the paid model one question."""
    asked = Asked()

    def request_of(_: Target) -> ChatRequest:
        return ChatRequest((Message("user", text),), **options)

    asked.outcome = await runtime.calls(
        Call(
            targets=[runtime.targets[PAID]],
            request_of=request_of,
            role="execute",
            use_case="simple",
            on_attempt=asked.attempts.append,
            note=asked.notes.append,
        )
    )
    return asked


async def slots_left(runtime: Runtime) -> int:
    """How many requests of the paid model's minute may still go out."""
    target = runtime.targets[PAID]
    key = key_id(await runtime.services.keys.key_of(target))
    book = (await runtime.services.quota.snapshot([(target, key)]))[0]
    left = 0
    while book.free_in(target.limits, 1, "interactive").wait_s == 0:
        book.take(1, "interactive")
        left += 1
    return left


async def test_nothing_is_held_for_a_request_that_cannot_be_built(bench: Bench) -> None:
    """No JSON can say NaN: no row in the ledger, no cost, and the failure lets the next model be asked."""
    async with running(bench, "http://127.0.0.1:9/v1", limits=Limits(rpm=1)) as runtime:
        asked = await ask(runtime, temperature=float("nan"))
        assert isinstance(asked.outcome, Failed)
        assert asked.outcome.error.error_class is ErrorClass.INVALID_REQUEST
        assert "cannot be built" in str(asked.outcome.error)
        assert await ledger_rows(runtime) == []
        assert await slots_left(runtime) == 1
        assert (await runtime.ledger.balance()).held == 0


async def test_an_unexpected_error_before_the_first_byte_releases_the_hold(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no library promises to raise: the money is free again, and the next model's turn comes."""

    def broken(self: ProviderClient, reach: Any) -> Any:
        raise LookupError("no pool today")

    monkeypatch.setattr(ProviderClient, "_pool", broken)
    async with running(bench, "http://127.0.0.1:9/v1") as runtime:
        asked = await ask(runtime)
        assert isinstance(asked.outcome, Failed)
        assert "LookupError" in str(asked.outcome.error)
        assert [row["state"] for row in await ledger_rows(runtime)] == ["released"]
        assert asked.cost == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
async def test_a_call_that_never_left_gives_its_quota_slot_back(bench: Bench, host: str) -> None:
    """A refused connection and a name that leads nowhere cost no request of the provider's minute."""
    url = f"http://{host}:{f.closed_port()}/v1"
    async with running(bench, url, limits=Limits(rpm=4)) as runtime:
        asked = await ask(runtime)
        assert {a.outcome for a in asked.attempts} == {"connect"}
        assert await slots_left(runtime) == 4


async def test_a_503_of_a_gateway_is_charged_and_shown(bench: Bench) -> None:
    """The model may have been at work: each attempt shows what the ledger charged for it."""
    reply = f.response(ENVOY, status="503 Service Unavailable", headers={"content-type": "text/plain"})
    async with f.rude_server(f.answers(reply)) as server, running(bench, f"{server.url}/v1") as runtime:
        asked = await ask(runtime)
        rows = await ledger_rows(runtime)
        assert {row["state"] for row in rows} == {"presumed"}
        assert asked.cost == (await runtime.ledger.balance()).spent > 0


async def test_an_empty_answer_says_so_without_the_models_name(bench: Bench) -> None:
    """The table of failed models has the name in its first column."""
    reply = f.response(GOOD.replace(b'"4"', b'""'), headers={"content-type": "application/json"})
    async with f.rude_server(f.answers(reply)) as server, running(bench, f"{server.url}/v1") as runtime:
        asked = await ask(runtime)
        assert isinstance(asked.outcome, Failed)
        assert asked.outcome.error.short == "empty: the reply holds no answer text"


async def test_a_refused_field_is_left_out_once_and_remembered(bench: Bench) -> None:
    """The refused call costs nothing, the second answers, the next question is asked right at once."""
    message = "Unsupported parameter: 'max_tokens' is not supported with this model."
    refused = json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()
    bodies: list[dict[str, Any]] = []

    def judge(_text: str, seen: f.Asked) -> bytes:
        body = seen.body
        bodies.append(body)
        return f.response(refused, status="400 Bad Request") if "max_tokens" in body else f.response(GOOD)

    async with (
        f.rude_server(f.answering(judge, "")) as server,
        running(bench, f"{server.url}/v1") as runtime,
    ):
        first = await ask(runtime)
        second = await ask(using(runtime, answers=type(runtime.services.answers)()), "3 + 3?")
    assert isinstance(first.outcome, Answered)
    assert [a.outcome for a in first.attempts] == ["invalid_request", "ok"]
    assert first.attempts[0].cost_usd == 0
    assert any("max_completion_tokens" in note for note in first.notes)
    assert [a.outcome for a in second.attempts] == ["ok"]
    assert second.notes == []
    assert ["max_tokens" in body for body in bodies] == [True, False, False]


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/chat/completions", "/v1/chat/completions/"])
async def test_a_base_url_may_end_in_the_endpoint(bench: Bench, path: str) -> None:
    """Both forms lead to the same address."""
    paths: list[str] = []

    def note(_text: str, seen: f.Asked) -> bytes:
        paths.append(seen.target.split()[1])
        return f.response(GOOD)

    async with (
        f.rude_server(f.answering(note, "")) as server,
        running(bench, f"{server.url}{path}") as runtime,
    ):
        assert isinstance((await ask(runtime)).outcome, Answered)
    assert paths == ["/v1/chat/completions"]


async def test_a_jobs_cost_holds_what_was_charged_for_calls_that_were_cut_off(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that an interrupt ended is no attempt of any task; its charge stands in the ledger."""
    async with running(bench, "http://127.0.0.1:9/v1") as runtime:
        monkeypatch.setattr(Runtime, "flow_run_id", lambda _: "the-run")
        call = CallInfo.of(
            runtime.targets[PAID], role="execute", use_case="simple", step_key="s", flow_run_id="the-run"
        )
        await runtime.ledger.charge_at_bound(
            await runtime.ledger.reserve(call, Decimal("0.5"), Decimal(9)), "cut off"
        )
        run = JobRun(runtime, JobOptions(), lambda *_: None)
        await run._count_cut_off()
        assert run.progress.cost_usd == Decimal("0.5")
        assert "0.5 USD" in run.warnings[0]
        await run._count_cut_off()
        assert len(run.warnings) == 1
