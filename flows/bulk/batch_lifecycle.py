"""One batch at a time: hold its money, submit it once, look at it, collect its results, settle each of them.

Whatever process does this needs only the ledger and the configuration: the requests stand in the ledger until their
results are settled. Every step may be repeated after a crash.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from decimal import Decimal
from functools import partial
from typing import Any

from tta_dev_primitives.blocks.ledger.batches import Batch, BatchCall, NewBatch, Opened, OpenLine
from tta_dev_primitives.blocks.ledger.failpoints import failpoint
from tta_dev_primitives.blocks.ledger.guarded_call import settle_batch_failure, settle_batch_reply
from tta_dev_primitives.blocks.ledger.money import MAX_USD
from tta_dev_primitives.blocks.ledger.stored_replies import GuardedReply
from tta_dev_primitives.blocks.providers.batch_client import BatchClient
from tta_dev_primitives.blocks.wire.batches.formats import at_batch_price
from tta_dev_primitives.blocks.wire.batches.types import BatchLine, BatchStatus, LineResult
from tta_dev_primitives.blocks.wire.types import ChatRequest, Message
from tta_dev_primitives.config.errors import ConfigError
from tta_dev_primitives.config.models.targets import Price, Target
from tta_dev_primitives.config.provider_errors import ErrorClass, LedgerAction, ProviderError
from tta_dev_primitives.config.reading.api_keys import key_id
from tta_dev_primitives.flows.calling.services import Services
from tta_dev_primitives.flows.tasks.gather_all import gather_all

_LOG = logging.getLogger("tta_dev_primitives.bulk")
_GONE = 404
_FIND_LINES = 20
"""So many result lines of a batch without metadata are compared with our ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTiming:
    """How often batches are looked at, in seconds."""

    quiet_s: float = 1.0
    """No call of the job has moved for so long: those that wait are sent together."""
    first_s: float = 30.0
    longest_s: float = 600.0
    horizon_s: float = 900.0
    """A submission that the provider's list does not show after this long has not arrived."""
    overdue_s: float = 25 * 3600.0
    """Providers end a batch after 24 hours."""

    def interval(self, age_s: float) -> float:
        """How long to wait before the next look at a batch of this age."""
        return min(self.longest_s, max(self.first_s, age_s / 4))


@dataclass(frozen=True, slots=True)
class NotRun:
    """A request that was canceled, expired or lost before it ran: it costs nothing and may be asked again."""

    why: str


Settled = GuardedReply | ProviderError | NotRun


@dataclass(slots=True)
class Looked:
    """What a look at a batch has shown."""

    over: bool
    words: str = ""
    """The provider's words for its state, or why it could not be asked."""
    results: dict[str, Settled] = field(default_factory=dict)
    """By content key, when this look has collected them."""
    lines: dict[str, OpenLine] = field(default_factory=dict)
    """What each of them is: its hold, and the run that pays for it."""


class ProviderBatches:
    """The batches of one configuration."""

    def __init__(self, services: Services, timing: BatchTiming) -> None:
        self._services, self.timing = services, timing

    async def _client(self, target: Target) -> BatchClient:
        return BatchClient(self._services.client, target, await self._services.keys.key_of(target))

    async def submit(
        self, new: NewBatch, target: Target, calls: Sequence[BatchCall], lines: Mapping[str, BatchLine]
    ) -> Opened:
        """Hold the money of the calls that the month allows, and submit those.

        Args:
            lines: What is sent, by call id.

        Raises:
            ProviderError: It was refused, and every hold is released; nothing runs.
            LedgerError: The ledger cannot be used; nothing was sent.
        """
        services, client = self._services, await self._client(target)
        await services.ledger.check_clock()
        limit = MAX_USD if services.limit is None else services.limit
        opened = await services.ledger.open_batch(
            new, calls, limit, ask_date=partial(services.client.date_of, target)
        )
        if not opened.held:
            return opened
        held = [lines[call.call.id] for call in calls if call.call.id in opened.held]
        try:
            file = await client.upload(held, new.id)
        except ProviderError as error:
            await self._refused(new.id, error)
            raise
        failpoint("batch.uploaded")
        try:
            status = await client.submit(held, new.id, file)
        except ProviderError as error:
            if error.ledger_action is LedgerAction.RELEASE:
                await self._refused(new.id, error)
                await _delete_file(client, file)
                raise
            _LOG.warning("batch %s: it is not known whether it was taken: %s", new.id, error)
            return opened
        failpoint("batch.submitted")
        if not await services.ledger.batch_submitted(new.id, status.id):
            _LOG.error(
                "batch %s was given up before the provider took it as %s: it is canceled", new.id, status.id
            )
            await client.cancel(status.id)
        failpoint("batch.recorded")
        return opened

    async def _refused(self, batch: str, error: ProviderError) -> None:
        await self._release(
            await self._services.ledger.open_lines(batch), str(error), error.error_class.value
        )
        await self._services.ledger.end_batch(batch, "failed", str(error))

    async def _release(self, lines: Sequence[OpenLine], why: str, outcome: str) -> None:
        ledger = self._services.ledger
        await gather_all(ledger.release(line.hold, why, outcome=outcome) for line in lines)

    async def look(self, batch: Batch) -> Looked:
        """Ask for the state of a batch, and collect it when it is over.

        Raises:
            ConfigError: Its model is no longer configured.
            MissingKeyError: Its model has no key.
        """
        services = self._services
        if batch.state not in ("submitting", "open"):
            return Looked(over=True, words=batch.state)
        target = self._target_of(batch)
        client = await self._client(target)
        age = services.clock() - batch.submitted_at
        try:
            name, unclear = batch.provider_batch, False
            if name is None:
                name, unclear = await self._find(batch, client)
            if name is None and not unclear and age > self.timing.horizon_s:
                why = "the provider has no such batch: its submission never arrived"
                return await self._lost(batch, why, may_have_run=False)
            if name is None:
                return Looked(over=False, words="submission not confirmed yet")
            status = await client.look(name)
            if status.over:
                return await self._collect(batch, target, client, status)
            if age > self.timing.overdue_s:
                await client.cancel(name)
        except ProviderError as error:
            if error.error_class is ErrorClass.MODEL_GONE and age > self.timing.overdue_s:
                return await self._lost(batch, f"the provider no longer has it: {error}", may_have_run=True)
            _LOG.warning("batch %s cannot be looked at now: %s", batch.id, error)
            return Looked(over=False, words=f"cannot be looked at: {error.error_class.value}")
        words = (
            status.raw_state
            if status.succeeded is None
            else f"{status.raw_state}, {status.succeeded} answered"
        )
        if words != batch.seen:
            await services.ledger.batch_seen(batch.id, words)
        return Looked(over=False, words=words)

    async def cancel(self, batch: Batch) -> None:
        """Ask the provider to stop a batch; what it has answered by then is collected and paid as usual.

        Raises:
            ConfigError: It is over, or its submission is not confirmed.
            ProviderError: The provider did not take it.
        """
        if batch.state not in ("submitting", "open"):
            raise ConfigError(f"batch {batch.id} is {batch.state}: there is nothing to cancel.")
        client = await self._client(self._target_of(batch))
        name = batch.provider_batch or (await self._find(batch, client))[0]
        if name is None:
            raise ConfigError(
                f"batch {batch.id}: the provider does not show it yet. Try again in some minutes."
            )
        await client.cancel(name)

    def _target_of(self, batch: Batch) -> Target:
        """The model of a batch, at the price of its submission."""
        for target in self._services.targets.values():
            if target.key == batch.model_key and target.billing == "paid":
                return replace(target, price=decode_price(batch.price))
        raise ConfigError(
            f"batch {batch.id}: its model '{batch.model}' ({batch.provider}) is no longer in the configuration. "
            "Put it back until the batch is collected."
        )

    async def _find(self, batch: Batch, client: BatchClient) -> tuple[str | None, bool]:
        """The provider's id of a batch whose submission was not recorded.

        Returns:
            The id, None when its list does not show it; and whether a running batch may be it: without metadata and
            without a file only the results can say whose it is.
        """
        services, unclear = self._services, False
        known = {one.provider_batch for one in await services.ledger.batches() if one.provider_batch}
        ours: set[str] | None = None
        for status in await client.newest():
            found = status.key == batch.id
            if not found and status.key is None and status.id not in known and _may_be(status, batch):
                found = await client.is_ours(status, batch.id)
                if not found and not status.over:
                    unclear = unclear or status.file is None
                elif not found and status.file is None:
                    ours = ours or {line.call_id for line in await services.ledger.open_lines(batch.id)}
                    results = await client.results(status)
                    found = any(result.id in ours for result in results[:_FIND_LINES])
            if found:
                await services.ledger.batch_submitted(batch.id, status.id)
                return status.id, False
        return None, unclear

    async def _lost(self, batch: Batch, why: str, *, may_have_run: bool) -> Looked:
        """End a batch without results: its holds are charged where it may have run, else released."""
        ledger = self._services.ledger
        lines = {line.step_key: line for line in await ledger.open_lines(batch.id)}
        if may_have_run:
            await gather_all(ledger.charge_at_bound(line.hold, why) for line in lines.values())
        else:
            await self._release(list(lines.values()), why, "lost_submission")
        await ledger.end_batch(batch.id, "lost", why)
        return Looked(True, "lost", dict.fromkeys(lines, NotRun(why)), lines)

    async def _collect(
        self, batch: Batch, target: Target, client: BatchClient, status: BatchStatus
    ) -> Looked:
        """Settle every line of a batch that is over, then close it."""
        services = self._services
        lines = {line.call_id: line for line in await services.ledger.open_lines(batch.id)}
        found = _by_id(await client.results(status), lines, batch)
        if len(found) < len(lines) and status.state == "ended":
            found |= _by_id(await client.results(status), lines, batch)
        failpoint("batch.fetched")
        looked = Looked(over=True, words=status.raw_state)

        async def settle(line: OpenLine, result: LineResult | None) -> None:
            looked.lines[line.step_key] = line
            if result is None:
                settled = await self._missing(line, target, status, found)
            else:
                settled = await self._settle(line, target, client, result)
            failpoint("batch.settled")
            looked.results[line.step_key] = settled

        await gather_all(settle(line, found.get(name)) for name, line in lines.items())
        missing = len(lines) - len(found)
        note = status.error or (f"{missing} of {len(lines)} results are missing" if missing else None)
        if note:
            _LOG.warning("batch %s (%s): %s", batch.id, status.id, note)
        await _delete_file(client, status.file)
        await services.ledger.end_batch(batch.id, "failed" if status.state == "failed" else "ended", note)
        return looked

    async def _settle(
        self, line: OpenLine, target: Target, client: BatchClient, result: LineResult
    ) -> Settled:
        ledger, request = self._services.ledger, decode_request(line.request)
        if result.kind == "not_run":
            await ledger.release(line.hold, f"batch: {result.note}", outcome=result.note[:40] or "canceled")
            return NotRun(result.note)
        try:
            reply = client.reply(result, now=self._services.clock())
        except ProviderError as error:
            if 200 <= result.status < 300:
                # It was answered, and billed; what it says cannot be read.
                await settle_batch_failure(ledger, target, request, line.hold, line.step_key, error)
            else:
                await ledger.release(line.hold, str(error), outcome=error.error_class.value)
                error.add(charged_usd=Decimal(0))
            return error
        return await settle_batch_reply(ledger, target, request, line.hold, line.step_key, reply)

    async def _missing(
        self, line: OpenLine, target: Target, status: BatchStatus, found: Mapping[str, LineResult]
    ) -> Settled:
        """No result: free when the provider counts no more answers than it gave, else charged at the bound."""
        answered = sum(result.kind == "reply" and result.status < 300 for result in found.values())
        if status.state == "failed" or (status.succeeded is not None and answered >= status.succeeded):
            why = status.error or "no result"
            await self._services.ledger.release(line.hold, f"batch: {why}", outcome="not_run")
            if status.state != "failed":
                return NotRun(why)
            return _error(target, f"its batch was refused: {why}", LedgerAction.RELEASE, Decimal(0))
        why = "its result is missing from the batch; it may have been billed"
        await self._services.ledger.charge_at_bound(line.hold, why)
        return _error(target, why, LedgerAction.CHARGE_AT_BOUND, line.hold.bound)


async def _delete_file(client: BatchClient, name: str | None) -> None:
    """Delete the requests at the provider. One that is gone already, or cannot be deleted, stops nothing."""
    try:
        await client.delete_file(name)
    except ProviderError as error:
        if error.status != _GONE:
            _LOG.warning("the uploaded requests %s are not deleted: %s", name, error)


def _error(target: Target, why: str, action: LedgerAction, charged: Decimal) -> ProviderError:
    refused = action is LedgerAction.RELEASE
    return ProviderError(
        f"{target.name}: {why}",
        provider=target.provider,
        model=target.name,
        error_class=ErrorClass.INVALID_REQUEST if refused else ErrorClass.TRANSPORT,
        ledger_action=action,
        charged_usd=charged,
        retryable=False,
    )


def _may_be(status: BatchStatus, batch: Batch) -> bool:
    old = status.created_at is not None and status.created_at < batch.submitted_at - 600
    return not old and status.total in (None, batch.lines)


def _by_id(
    results: Sequence[LineResult], lines: Mapping[str, OpenLine], batch: Batch
) -> dict[str, LineResult]:
    """The first result of each of our lines; others are reported, and change nothing."""
    found: dict[str, LineResult] = {}
    unknown = repeated = 0
    for result in results:
        if result.id not in lines:
            unknown += 1
        elif result.id in found:
            repeated += 1
        else:
            found[result.id] = result
    # Lines that an earlier look has settled are not open any more: only more results than requests are odd.
    if repeated or len(results) > batch.lines:
        _LOG.warning("batch %s: %d repeated and %d unknown results are ignored", batch.id, repeated, unknown)
    return found


def encode_request(request: ChatRequest) -> bytes:
    """A request as the ledger keeps it until its result is settled."""
    document = {name: getattr(request, name) for name in _REQUEST}
    document["messages"] = [[message.role, message.content] for message in request.messages]
    return json.dumps(document, separators=(",", ":"), default=dict).encode("utf-8", "surrogatepass")


_REQUEST = tuple(f.name for f in fields(ChatRequest))


def decode_request(body: bytes) -> ChatRequest:
    """The reverse of `encode_request`."""
    document: dict[str, Any] = json.loads(body.decode("utf-8", "surrogatepass"))
    messages = tuple(Message(role, content) for role, content in document.pop("messages"))
    document["stop"] = tuple(document["stop"])
    return ChatRequest(messages, **document)


def encode_price(target: Target) -> str:
    """The target's batch price, kept with the batch: prices change, a submitted batch keeps its own."""
    price = at_batch_price(target).price
    return json.dumps({} if price is None else asdict(price), default=str)


def decode_price(text: str) -> Price | None:
    """The reverse of `encode_price`."""
    found: dict[str, Any] = json.loads(text)
    amounts = {
        name: Decimal(v) for name, v in found.items() if name.endswith("_usd_per_mtok") and v is not None
    }
    return Price(**{**found, **amounts}) if found else None


def new_batch(name: str, target: Target, key: Any) -> NewBatch:
    """The record of a batch that is about to be submitted."""
    return NewBatch(
        id=name,
        provider=target.provider,
        model=target.name,
        model_key=target.key,
        key_id=key_id(key),
        price=encode_price(target),
    )
