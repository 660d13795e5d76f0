"""Free quotas shared by all processes: ask for a slot before a call, say afterwards what it used.

    quota = Quota(database_for(url))
    got = await quota.acquire(target, key_id, tokens=900, priority="bulk", max_wait_s=30)
    if isinstance(got, Wait):
        ...                                   # try the next model, or come back in got.seconds
    else:
        reply = ...                           # one attempt
        await quota.done(got, reply.usage, reply.headers)

Every attempt takes a slot of its own. The windows of a key and model are one row of the ledger's database, so
a grant in one process is seen by all. A target without any known limit costs no database work, until the
headers of a reply teach one. A slot whose process dies stays counted: quota is never used twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from tta_dev_primitives.blocks.ledger.database.migrations import register_schema
from tta_dev_primitives.blocks.ledger.database.protocol import Database, Tx
from tta_dev_primitives.blocks.quotas.learning import closed_by, learn, learn_from_error, period_of
from tta_dev_primitives.blocks.quotas.windows import Kind, Observation, Priority, Windows, limited
from tta_dev_primitives.config.models.targets import Limits, Target, Usage
from tta_dev_primitives.config.provider_errors import ProviderError

register_schema(
    "quota",
    1,
    [
        "CREATE TABLE IF NOT EXISTS quota_scope (scope TEXT PRIMARY KEY, state TEXT NOT NULL, "
        "touched_at REAL NOT NULL) STRICT /* hot */"
    ],
)

_READ_AGAIN_S = 60.0
_LONGEST_NAP_S = 5.0


@dataclass(frozen=True, slots=True)
class Slot:
    """Leave to send one request now."""

    target: Target
    scope: str
    tokens: int
    priority: Priority
    at: float
    """Epoch seconds of the grant."""
    counted: bool
    """False when no limit was known: then nothing was written."""


@dataclass(frozen=True, slots=True)
class Wait:
    """No leave now."""

    seconds: float
    """Until a request like this may go out; infinite when it can never fit (more tokens than the limit)."""
    limit: Kind
    """The limit that binds."""
    target: Target


def scope_of(target: Target, key_id: str) -> str:
    """Name what shares one quota: a key with a model, or with a pool of models."""
    shared = f"pool:{target.limits.pool}" if target.limits.pool else target.api_model
    return f"{target.provider}|{target.base_url or ''}|{key_id}|{shared}"


def tokens_of(limits: Limits, input_tokens: int, output_tokens: int) -> int:
    """Tokens of one request as its provider counts them against TPM and TPD."""
    return input_tokens if limits.tokens_counted == "input" else input_tokens + output_tokens


class Quota:
    """The scheduler of one process. Safe to share between tasks and event loops.

    Args:
        clock: Epoch seconds; all processes that share the database should agree to within seconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._db = database
        self._clock = clock
        self._sleep = sleep
        # scope -> (does it have to be counted, when that was read)
        self._counted: dict[str, tuple[bool, float]] = {}

    async def acquire(
        self,
        target: Target,
        key_id: str,
        tokens: int,
        *,
        priority: Priority = "interactive",
        max_wait_s: float = 0.0,
    ) -> Slot | Wait:
        """Take one slot, waiting up to `max_wait_s` for it.

        Args:
            tokens: The most the request may count against TPM and TPD (see `tokens_of`).
            priority: Bulk work leaves headroom for interactive work.
            max_wait_s: Seconds; a longer wait is answered at once with `Wait`.
        """
        end = self._clock() + max_wait_s
        while True:
            got = await self.acquire_first([(target, key_id)], tokens, priority=priority)
            if isinstance(got, Slot):
                return got
            now = self._clock()
            if got.seconds > end - now:
                return got
            # Short naps: somebody may give a slot back, or take the one that was to come free.
            await self._sleep(min(max(got.seconds, 0.05), _LONGEST_NAP_S))

    async def acquire_first(
        self, targets: Sequence[tuple[Target, str]], tokens: int, *, priority: Priority = "bulk"
    ) -> Slot | Wait:
        """Take one slot at the first of `targets` that has quota now; else the `Wait` of the one that is free soonest.

        Args:
            targets: Models in order of preference, each with the id of its key; at least one.
            tokens: As in `acquire`, of any of them at most.
        """
        asks = [(target, scope_of(target, key_id)) for target, key_id in targets]
        counted = {scope for target, scope in asks if not await self._uncounted(target, scope)}
        if asks[0][1] not in counted:
            return Slot(*asks[0], tokens, priority, self._clock(), counted=False)

        async def work(tx: Tx) -> Slot | Wait:
            now = self._clock()
            books = await _load(tx, counted)
            for target, scope in asks:
                if scope in books:
                    books[scope].advance(now, target.limits)
            answer = _grant(asks, books, tokens, priority, now)
            await _store(tx, books, now)
            return answer

        return await self._db.transact(work, label="quota.acquire")

    async def done(
        self,
        slot: Slot,
        usage: Usage | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        error: ProviderError | None = None,
    ) -> None:
        """Say what became of a slot: corrects the token estimate and learns limits and resets.

        Args:
            headers: The reply's rate-limit headers, lower case.
            error: What the attempt ended with; a refusal used no tokens and may close a window.
        """
        now = self._clock()
        seen, closed = _lessons(slot.target, headers, error, now)
        # A slot that was not counted and whose reply says nothing of limits needs no database.
        if not (slot.counted or seen or closed):
            return

        async def work(tx: Tx) -> None:
            books = await _load(tx, [slot.scope])
            book = books[slot.scope]
            book.advance(now, slot.target.limits)
            if not slot.counted and seen:
                book.take(slot.tokens, slot.priority)
            for observation in seen:
                book.observe(observation, slot.at)
            if slot.counted:
                book.correct(slot.at, _actual(slot, usage, error) - slot.tokens, priority=slot.priority)
            if closed is not None:
                book.close(*closed)
            await _store(tx, books, now)

        await self._db.transact(work, label="quota.done")
        self._counted[slot.scope] = (True, now)

    async def give_back(self, slot: Slot) -> None:
        """Return a slot whose request was never sent (the budget refused it, the run was cancelled)."""
        if not slot.counted:
            return

        async def work(tx: Tx) -> None:
            now = self._clock()
            books = await _load(tx, [slot.scope])
            books[slot.scope].advance(now, slot.target.limits)
            books[slot.scope].correct(slot.at, -slot.tokens, -1, priority=slot.priority, unsent=True)
            await _store(tx, books, now)

        await self._db.transact(work, label="quota.give_back")

    async def snapshot(self, targets: Sequence[tuple[Target, str]]) -> list[Windows]:
        """The windows of each target as they stand, in one read: for estimates and progress."""
        scopes = [scope_of(target, key_id) for target, key_id in targets]
        return await self._books([target for target, _ in targets], scopes)

    async def _uncounted(self, target: Target, scope: str) -> bool:
        if limited(target.limits):
            return False
        now = self._clock()
        counted, read_at = self._counted.get(scope, (True, float("-inf")))
        if now - read_at > _READ_AGAIN_S:
            (book,) = await self._books([target], [scope])
            counted = bool(book.learned) or book.closed_until() > now
            self._counted[scope] = (counted, now)
        return not counted

    async def _books(self, targets: Sequence[Target], scopes: Sequence[str]) -> list[Windows]:
        now, states = self._clock(), await self._db.read(lambda tx: _read(tx, scopes))
        books = [Windows.from_json(states.get(scope)) for scope in scopes]
        for book, target in zip(books, targets, strict=True):
            book.advance(now, target.limits)
        return books


def _grant(
    asks: Sequence[tuple[Target, str]],
    books: Mapping[str, Windows],
    tokens: int,
    priority: Priority,
    now: float,
) -> Slot | Wait:
    waits: list[Wait] = []
    for target, scope in asks:
        book = books.get(scope)
        if book is None:
            return Slot(target, scope, tokens, priority, now, counted=False)
        wait_s, kind = book.free_in(target.limits, tokens, priority)
        if kind is None:
            book.take(tokens, priority)
            return Slot(target, scope, tokens, priority, now, counted=True)
        book.want(priority)
        waits.append(Wait(wait_s, kind, target))
    return min(waits, key=lambda wait: wait.seconds)


def _lessons(
    target: Target, headers: Mapping[str, str] | None, error: ProviderError | None, now: float
) -> tuple[list[Observation], tuple[Kind, float] | None]:
    headers = headers if headers is not None else getattr(error, "rate_headers", None)
    period = period_of(error) if error is not None else None
    seen = learn(target.provider, headers or {}, now, period=period)
    if error is None:
        return seen, None
    return seen + learn_from_error(error, now), closed_by(error, target.limits, now)


def _actual(slot: Slot, usage: Usage | None, error: ProviderError | None) -> int:
    usage = usage if usage is not None else getattr(error, "usage", None)
    if isinstance(usage, Usage) and usage.flag is None:
        return tokens_of(slot.target.limits, usage.total_input, usage.output_tokens)
    if error is not None and error.status in (400, 401, 403, 404, 413, 422, 429):
        return 0
    return slot.tokens


async def _read(tx: Tx, scopes: Sequence[str]) -> dict[str, str]:
    marks = ", ".join("?" for _ in scopes)
    rows = await tx.fetch(f"SELECT scope, state FROM quota_scope WHERE scope IN ({marks})", *scopes)  # noqa: S608
    return {row["scope"]: row["state"] for row in rows}


async def _load(tx: Tx, scopes: Collection[str]) -> dict[str, Windows]:
    """Lock the rows, always in the same order so that no two processes wait for each other, and read them."""
    books: dict[str, Windows] = {}
    for scope in sorted(scopes):
        rows = await tx.fetch(
            "INSERT INTO quota_scope (scope, state, touched_at) VALUES (?, '', 0.0) "
            "ON CONFLICT (scope) DO UPDATE SET touched_at = quota_scope.touched_at RETURNING state",
            scope,
        )
        books[scope] = Windows.from_json(rows[0]["state"] or None)
    return books


async def _store(tx: Tx, books: Mapping[str, Windows], now: float) -> None:
    for scope, book in books.items():
        await tx.execute(
            "UPDATE quota_scope SET state = ?, touched_at = ? WHERE scope = ?", book.to_json(), now, scope
        )
