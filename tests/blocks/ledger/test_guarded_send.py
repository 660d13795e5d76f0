"""The one way to a provider: whatever happens to a call, its money ends up where the fault matrix says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tta_dev_primitives.blocks.ledger.billing import other_model
from tta_dev_primitives.blocks.ledger.cost_bound import bound_usd
from tta_dev_primitives.blocks.ledger.database.protocol import database_for
from tta_dev_primitives.blocks.ledger.guarded_call import guarded_send
from tta_dev_primitives.blocks.ledger.ledger import Ledger
from tta_dev_primitives.blocks.ledger.stored_replies import GuardedReply, content_key, stored_reply
from tta_dev_primitives.blocks.ledger.types import CallInfo
from tta_dev_primitives.blocks.wire.types import ChatReply, ChatRequest, Message
from tta_dev_primitives.config.errors import (
    BudgetExceededError,
    LedgerError,
    MissingKeyError,
    QuarantinedError,
    UnknownPriceError,
)
from tta_dev_primitives.config.models.targets import Price, Target, Usage
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction, ProviderError

PRICE = Price(Decimal(3), Decimal(15))
PAID = Target("paid", "anthropic", "paid-1", "paid", "KEY", "x", PRICE, context_tokens=200_000)
FREE = Target("free", "groq", "free-1", "free", "KEY", "y", Price(Decimal("0.1"), Decimal("0.4")))
REQUEST = ChatRequest((Message("user", "Say hello."),), max_output_tokens=100)
GOOD = ChatReply("hello", "stop", Usage(input_tokens=200, output_tokens=100), model_returned="paid-1")
BOUND = bound_usd(PAID, REQUEST)
LIMIT = Decimal(1)

Send = Callable[[], Awaitable[ChatReply]]


def answers(reply: ChatReply) -> Send:
    async def send() -> ChatReply:
        return reply

    return send


def raises(error: BaseException) -> Send:
    async def send() -> ChatReply:
        raise error

    return send


def provider_error(action: LedgerAction, usage: Usage | None = None) -> ProviderError:
    return ProviderError(
        "scripted", provider="anthropic", model="paid", error_class=ErrorClass.TRANSIENT,
        ledger_action=action, usage=usage,
    )  # fmt: skip


async def go(
    ledger: Ledger,
    send: Send,
    *,
    target: Target = PAID,
    request: ChatRequest = REQUEST,
    limit: Decimal | None = LIMIT,
    **more: Any,
) -> GuardedReply:
    key = content_key(target, request)
    if (stored := await stored_reply(ledger, key, target)) is not None:
        return stored
    return await guarded_send(
        ledger=ledger,
        client_send=send,
        target=target,
        request=request,
        call=CallInfo.of(target, role="execute", use_case="simple", step_key=key),
        limit=limit,
        wait_busy_s=0,
        **more,
    )


async def test_a_paid_answer_costs_what_its_tokens_cost(ledger: Ledger) -> None:
    """200 tokens in at 3 USD and 100 out at 15 USD a million: 0.0006 + 0.0015 USD."""
    got = await go(ledger, answers(replace(GOOD, usage=Usage(input_tokens=200, output_tokens=100))))
    assert (got.cost_usd, got.list_value_usd, got.reused, got.flag) == (
        Decimal("0.0021"),
        Decimal("0.0021"),
        False,
        None,
    )
    balance = await ledger.balance()
    assert (balance.spent, balance.held) == (Decimal("0.0021"), 0)


async def test_what_the_provider_says_it_charged_beats_the_price_list(ledger: Ledger) -> None:
    """OpenRouter reports the cost of each call."""
    usage = Usage(input_tokens=10, output_tokens=5, reported_cost_usd=Decimal("0.00001234"))
    assert (await go(ledger, answers(replace(GOOD, usage=usage)))).cost_usd == Decimal("0.00001234")


async def test_an_answer_is_paid_for_once(ledger: Ledger) -> None:
    """The same request again, in any process, gets the stored answer; nothing is sent and nothing is paid."""
    first = await go(ledger, answers(replace(GOOD, usage=Usage(input_tokens=4, output_tokens=1))))
    again = await go(ledger, raises(AssertionError("sent again")), limit=Decimal(0))
    assert (again.reused, again.cost_usd, again.call_id) == (True, Decimal(0), first.call_id)
    assert replace(again.reply, headers={}) == replace(first.reply, headers={})
    assert await stored_reply(ledger, content_key(PAID, REQUEST)) == again
    assert (await ledger.balance()).spent == first.cost_usd


async def test_another_request_is_another_answer() -> None:
    """Every field of the request and the identity of the model are part of the key; the alias is not."""
    variants = [
        (PAID, REQUEST),
        (replace(PAID, base_url="https://example.org"), REQUEST),
        (replace(PAID, api_model="paid-2"), REQUEST),
        (replace(PAID, provider="openrouter"), REQUEST),
        (PAID, replace(REQUEST, messages=(Message("user", "Say hello!"),))),
        (PAID, replace(REQUEST, messages=(Message("assistant", "Say hello."),))),
        (PAID, replace(REQUEST, system="s")),
        (PAID, replace(REQUEST, system="")),
        (PAID, replace(REQUEST, max_output_tokens=101)),
        (PAID, replace(REQUEST, temperature=0.0)),
        (PAID, replace(REQUEST, stop=("x",))),
        (PAID, replace(REQUEST, json_schema={"a": 1})),
        (PAID, replace(REQUEST, schema_name="other")),
        (PAID, replace(REQUEST, thinking="low")),
        (PAID, replace(REQUEST, messages=(Message("user", "\ud800"),))),
    ]
    assert len({content_key(*variant) for variant in variants}) == len(variants)
    assert content_key(replace(PAID, name="alias", api_key_env="OTHER"), REQUEST) == content_key(
        PAID, REQUEST
    )


@pytest.mark.parametrize(
    ("action", "usage", "spent"),
    [
        (LedgerAction.RELEASE, None, Decimal(0)),
        (LedgerAction.CHARGE_AT_BOUND, None, BOUND),
        (LedgerAction.SETTLE, Usage(input_tokens=100), Decimal("0.0003")),
        (LedgerAction.SETTLE, None, BOUND),
        (LedgerAction.SETTLE, Usage(flag="usage_invalid"), BOUND),
    ],
)
async def test_a_failed_call_is_charged_as_its_error_says(
    ledger: Ledger, action: LedgerAction, usage: Usage | None, spent: Decimal
) -> None:
    """Unsent is free, unknown costs the bound, reported usage costs its price; nothing stays held."""
    with pytest.raises(ProviderError, match="scripted"):
        await go(ledger, raises(provider_error(action, usage)))
    balance = await ledger.balance()
    assert (balance.spent, balance.held) == (spent, 0)
    assert await ledger.verify() == []


@pytest.mark.parametrize(
    "error", [ValueError("bug"), KeyboardInterrupt(), SystemExit(), asyncio.CancelledError()]
)
async def test_anything_unforeseen_costs_the_bound(ledger: Ledger, error: BaseException) -> None:
    """Whatever else breaks while the call is in flight may have been billed."""
    with pytest.raises(type(error)):
        await go(ledger, raises(error))
    balance = await ledger.balance()
    assert (balance.presumed, balance.held) == (BOUND, 0)


async def test_a_missing_key_costs_nothing(ledger: Ledger) -> None:
    """It is noticed before anything is sent."""
    with pytest.raises(MissingKeyError):
        await go(ledger, raises(MissingKeyError("KEY is not set")))
    balance = await ledger.balance()
    assert (balance.spent, balance.held) == (0, 0)


async def test_a_cancelled_call_is_charged_at_its_bound(ledger: Ledger) -> None:
    """Cancelled in flight, even twice, the bound is written down before the cancellation goes on."""
    sent = asyncio.Event()

    async def send() -> ChatReply:
        sent.set()
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.create_task(go(ledger, send))
    await sent.wait()
    task.cancel()
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    balance = await ledger.balance()
    assert (balance.presumed, balance.held) == (BOUND, 0)


@pytest.mark.parametrize("turns", range(6))
async def test_cancelled_while_its_cost_is_written_it_is_written_all_the_same(
    turns: int, ledger: Ledger
) -> None:
    """The reply is there and the caller is cancelled, twice, at any turn of the loop after it: nothing stays held."""
    await ledger.balance()
    replied = asyncio.Event()

    async def send() -> ChatReply:
        replied.set()
        return replace(GOOD, usage=Usage(input_tokens=200, output_tokens=100))

    task = asyncio.create_task(go(ledger, send))
    await replied.wait()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.gather(task, return_exceptions=True)
    balance = await ledger.balance()
    assert (balance.spent, balance.held) == (Decimal("0.0021"), 0)
    assert await stored_reply(ledger, content_key(PAID, REQUEST)) is not None


async def test_a_wait_for_the_wire_is_no_part_of_the_call(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that had to wait longer than its deadline before it could be sent has all of its deadline then."""
    loop, waited = asyncio.get_running_loop(), [0.0]
    monkeypatch.setattr(loop, "time", lambda now=loop.time: now() + waited[0])

    @asynccontextmanager
    async def turn() -> AsyncIterator[None]:
        waited[0] = 1000.0
        await asyncio.sleep(0)  # whatever is due by now has its turn
        await asyncio.sleep(0)
        yield

    reply = replace(GOOD, usage=Usage(input_tokens=200, output_tokens=100))
    got = await go(ledger, answers(reply), target=replace(PAID, timeout_s=120.0), turn=turn)
    assert (got.cost_usd, got.flag) == (Decimal("0.0021"), None)


async def test_cancelled_while_it_waits_for_the_wire_a_call_costs_nothing(ledger: Ledger) -> None:
    """Its money was set aside and nothing was sent: all of it is given back."""
    waits = asyncio.Event()

    @asynccontextmanager
    async def turn() -> AsyncIterator[None]:
        waits.set()
        await asyncio.Event().wait()
        yield

    task = asyncio.create_task(go(ledger, raises(AssertionError("sent")), turn=turn))
    await waits.wait()
    assert (await ledger.balance()).held == BOUND
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    balance = await ledger.balance()
    assert (balance.spent, balance.held) == (0, 0)


async def test_a_body_that_never_ends_is_cut_off(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline of the whole call holds where the client's own fails."""
    monkeypatch.setattr("tta_dev_primitives.blocks.ledger.guarded_call._GRACE_S", 0.0)

    async def send() -> ChatReply:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(ProviderError, match="may have been billed") as failed:
        await go(ledger, send, target=replace(PAID, timeout_s=0.01))
    assert failed.value.error_class is ErrorClass.TIMEOUT
    assert (await ledger.balance()).presumed == BOUND


@pytest.mark.parametrize(
    "usage",
    [
        Usage(flag="usage_missing"),
        Usage(),
        Usage(input_tokens=-1),
        Usage(input_tokens=True),
        Usage(output_tokens=1.5),  # type: ignore[arg-type]
        Usage(output_tokens="7"),  # type: ignore[arg-type]
        Usage(input_tokens=1, reported_cost_usd=Decimal("NaN")),
        Usage(input_tokens=1, reported_cost_usd=Decimal(-1)),
        Usage(input_tokens=1, reported_cost_usd=0.1),  # type: ignore[arg-type]
    ],
)
async def test_unusable_usage_keeps_the_answer_and_costs_the_bound(ledger: Ledger, usage: Usage) -> None:
    """The answer is good, its price is not known: the bound is charged and the flag says so."""
    got = await go(ledger, answers(replace(GOOD, usage=usage)))
    assert (got.reply.text, got.cost_usd, got.list_value_usd) == ("hello", BOUND, None)
    assert got.flag in ("usage_missing", "usage_invalid")
    assert (await ledger.balance()).presumed == BOUND
    assert (await go(ledger, raises(AssertionError()))).reused


async def test_another_model_in_the_reply_is_flagged(ledger: Ledger) -> None:
    """A dated spelling of the same model is not another model."""
    small = Usage(input_tokens=4, output_tokens=1)
    dated = await go(ledger, answers(replace(GOOD, usage=small, model_returned="vendor/paid-1-20260101")))
    other = await go(
        ledger,
        answers(replace(GOOD, usage=small, model_returned="cheap-9")),
        request=replace(REQUEST, system="s"),
    )
    assert (dated.flag, other.flag) == (None, "model_differs")


@pytest.mark.parametrize(
    ("asked", "returned", "same"),
    [
        ("anthropic/claude-sonnet-4.5", "anthropic/claude-4.5-sonnet-20250929", True),
        ("claude-3-5-haiku-latest", "claude-3-5-haiku-20241022", True),
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("gemini-2.0-flash", "models/gemini-2.0-flash-001", True),
        ("gemini-2.5-pro-preview-03-25", "gemini-2.5-pro", True),
        ("deepseek/deepseek-r1:free", "deepseek/deepseek-r1", True),
        ("qwen3", "qwen3:latest", True),
        ("gemini-2.5-pro", "gemini-3.8-flash", False),
        ("gemini-2.5-flash", "gemini-2.5-flash-lite", False),
        ("gpt-5", "gpt-5-mini", False),
        ("claude-sonnet-4-6", "claude-opus-4-6", False),
        ("llama-3.1-8b-instant", "llama-3.1-70b-instant", False),
    ],
)
def test_what_is_another_model(asked: str, returned: str, same: bool) -> None:
    """Order, dates and revisions make no difference; a size, a tier or a version does."""
    assert other_model(replace(PAID, provider="openrouter", api_model=asked), returned) == (
        None if same else returned
    )


@pytest.mark.parametrize(
    ("returned", "cost"),
    [
        ("claude-opus-4-0", "0.000135"),  # 4 x 15 + 1 x 75 USD per million, instead of 4 x 3 + 1 x 15
        ("claude-haiku-4-5", "0.000027"),
        ("claude-sonnet-4-6-20260101", "0.000027"),
        ("nobody-knows-1", "0.000027"),
    ],
)
async def test_when_another_model_answers_the_dearer_price_counts(
    ledger: Ledger, returned: str, cost: str
) -> None:
    """A provider that answers with another model may bill for that one: never less than the one asked for."""
    asked = replace(
        PAID,
        provider="anthropic",
        api_model="claude-sonnet-4-6",
        price=Price(Decimal(3), Decimal(15), source="catalogue"),
    )
    reply = replace(GOOD, usage=Usage(input_tokens=4, output_tokens=1), model_returned=returned)
    assert (await go(ledger, answers(reply), target=asked)).cost_usd == Decimal(cost)


async def test_an_older_name_of_the_same_model_is_not_another(ledger: Ledger) -> None:
    """Anthropic answers `claude-opus-4-0` with its dated id."""
    asked = replace(PAID, provider="anthropic", api_model="claude-opus-4-0")
    reply = replace(
        GOOD, usage=Usage(input_tokens=4, output_tokens=1), model_returned="claude-opus-4-20250514"
    )
    assert (await go(ledger, answers(reply), target=asked)).flag is None


async def test_only_usable_answers_are_kept(ledger: Ledger) -> None:
    """Refused and empty ones are asked again; a cut one is kept when it was paid for, not when it was free."""
    small = Usage(input_tokens=4, output_tokens=1)
    kept = []
    for target in (PAID, FREE):
        for text, finish in (
            ("", "stop"),
            ("no", "content_filter"),
            ("half", "length"),
            ("", "length"),
            ("x", "error"),
        ):
            request = replace(REQUEST, system=f"{text}{finish}")
            await go(ledger, answers(ChatReply(text, finish, small)), target=target, request=request)  # type: ignore[arg-type]
            if await stored_reply(ledger, content_key(target, request)):
                kept.append((target.name, text, finish))
    assert kept == [("paid", "half", "length")]


async def test_a_free_call_is_recorded_and_touches_no_money(ledger: Ledger) -> None:
    """It works under a limit of 0, and the report knows its tokens, outcome and what it saved."""
    reply = replace(GOOD, model_returned="free-1")
    got = await go(ledger, answers(reply), target=FREE, limit=Decimal(0))
    with pytest.raises(ProviderError):
        await go(
            ledger,
            raises(provider_error(LedgerAction.CHARGE_AT_BOUND)),
            target=FREE,
            request=replace(REQUEST, system="s"),
        )
    assert (got.cost_usd, got.list_value_usd) == (Decimal(0), Decimal("0.00006"))
    rows = await ledger.report_rows("2026-11")
    assert {(r.outcome, r.calls, r.input_tokens, r.charged, r.list_value) for r in rows} == {
        ("ok", 1, 200, Decimal(0), Decimal("0.00006")),
        ("transient", 1, 0, Decimal(0), Decimal(0)),
    }
    assert 0 < (await ledger.mean_seconds("2026-11") or 0) < 60  # an estimate of a job counts on it
    assert (await ledger.balance()).spent == 0
    assert await ledger.journal("2026-11") == []


async def test_a_free_model_that_bills_is_charged_and_closed(ledger: Ledger) -> None:
    """Money that was taken is never reported as 0."""
    usage = Usage(input_tokens=10, output_tokens=5, reported_cost_usd=Decimal("0.002"))
    got = await go(ledger, answers(replace(GOOD, usage=usage, model_returned="free-1")), target=FREE)
    assert (got.cost_usd, got.flag) == (Decimal("0.002"), "free_billed")
    assert (await ledger.balance()).spent == Decimal("0.002")
    with pytest.raises(QuarantinedError):
        await go(ledger, answers(GOOD), target=FREE, request=replace(REQUEST, system="s"))
    assert await ledger.verify() == []


async def test_nothing_is_sent_without_money_or_price(ledger: Ledger) -> None:
    """An exhausted budget and an unknown price stop a call before the socket."""
    never = raises(AssertionError("was sent"))
    with pytest.raises(BudgetExceededError):
        await go(ledger, never, limit=Decimal("0.000001"))
    with pytest.raises(UnknownPriceError, match="its price is not known"):
        await go(ledger, never, target=replace(PAID, price=None))
    assert (await ledger.balance()).held == 0


async def test_without_a_limit_spending_is_still_recorded(ledger: Ledger) -> None:
    """Cost tracking that is off refuses nothing and still counts."""
    got = await go(ledger, answers(replace(GOOD, usage=Usage(input_tokens=4))), limit=None)
    assert (await ledger.balance()).spent == got.cost_usd > 0


async def test_without_a_ledger_no_call_is_made() -> None:
    ledger = Ledger(database_for("sqlite:////proc/none/ledger.db"))
    for target in (PAID, FREE):
        with pytest.raises(LedgerError):
            await go(ledger, raises(AssertionError("was sent")), target=target)
    await ledger.database.aclose()


async def test_an_answer_is_not_lost_when_its_cost_cannot_be_written(ledger: Ledger) -> None:
    """The ledger fails after the reply: the answer is returned with a warning, the money stays held."""

    async def send() -> ChatReply:
        async def break_it(tx: object) -> None:
            await tx.execute("ALTER TABLE ledger_event RENAME TO hidden")  # type: ignore[attr-defined]

        await ledger.database.transact(break_it)  # type: ignore[arg-type]
        return GOOD

    got = await go(ledger, send)
    assert (got.reply.text, got.cost_usd, got.flag) == ("hello", BOUND, "unsettled")
    assert "charged at the bound later" in (got.warning or "")
    assert (await ledger.balance()).held == BOUND
