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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from tta_dev_primitives.blocks.ledger.database.protocol import Database, Tx
from tta_dev_primitives.blocks.ledger.database.schema import register_schema
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


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a slot, for `done_many`."""

    slot: Slot
    usage: Usage | None = None
    headers: Mapping[str, str] | None = None
    error: ProviderError | None = None


@dataclass(frozen=True, slots=True)
class _Ask:
    target: Target
    scope: str


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
        sleep: How `acquire` waits.
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
            key_id: `key_ids.key_id` of the key in use.
            tokens: The most the request may count against TPM and TPD (see `tokens_of`).
            priority: Bulk work leaves headroom for interactive work.
            max_wait_s: Seconds; a longer wait is answered at once with `Wait`.

        Raises:
            LedgerError: The database cannot be used.
        """
        end = self._clock() + max_wait_s
        while True:
            got = (await self.acquire_many([(target, key_id)], [tokens], priority=priority))[0]
            if isinstance(got, Slot):
                return got
            now = self._clock()
            if got.seconds > end - now:
                return got
            # Short naps: somebody may give a slot back, or take the one that was to come free.
            await self._sleep(min(max(got.seconds, 0.05), _LONGEST_NAP_S))

    async def acquire_many(
        self, targets: Sequence[tuple[Target, str]], tokens: Sequence[int], *, priority: Priority = "bulk"
    ) -> list[Slot | Wait]:
        """Take a slot for each of many requests, in one transaction.

        Each request gets the first of `targets` that has quota for it now; when none has, the `Wait` of the
        one that is free soonest. One target alone keeps a request at that model.

        Args:
            targets: Models in order of preference, each with the id of its key; at least one.
            tokens: For each request, the most it may count.
            priority: As in `acquire`.

        Raises:
            LedgerError: The database cannot be used.
        """
        if not targets:
            raise ValueError("acquire_many needs at least one target")
        asks = [_Ask(target, scope_of(target, key_id)) for target, key_id in targets]
        free_of_limits = [await self._uncounted(ask) for ask in asks]
        if free_of_limits[0]:
            now = self._clock()
            return [Slot(asks[0].target, asks[0].scope, n, priority, now, counted=False) for n in tokens]

        async def work(tx: Tx) -> list[Slot | Wait]:
            now = self._clock()
            books = await _load(
                tx, [a.scope for a, open_ in zip(asks, free_of_limits, strict=True) if not open_]
            )
            for ask in asks:
                if ask.scope in books:
                    books[ask.scope].advance(now, ask.target.limits)
            answers = [_grant(asks, books, n, priority, now) for n in tokens]
            await _store(tx, books, now)
            return answers

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
            slot: From `acquire`.
            usage: What the reply reported; None leaves the estimate.
            headers: The reply's rate-limit headers, lower case.
            error: What the attempt ended with; a refusal used no tokens and may close a window.

        Raises:
            LedgerError: The database cannot be used.
        """
        await self.done_many([Done(slot, usage, headers, error)])

    async def done_many(self, results: Sequence[Done]) -> None:
        """`done` for many slots, in one transaction. Raises as `done` does."""
        now = self._clock()
        lessons = [(done, *_lessons(done, now)) for done in results]
        # A slot that was not counted and whose reply says nothing of limits needs no database.
        lessons = [lesson for lesson in lessons if lesson[0].slot.counted or lesson[1] or lesson[2]]
        if not lessons:
            return

        async def work(tx: Tx) -> None:
            books = await _load(tx, [done.slot.scope for done, _, _ in lessons])
            for done, seen, closed in lessons:
                slot, book = done.slot, books[done.slot.scope]
                book.advance(now, slot.target.limits)
                if not slot.counted and seen:
                    book.take(slot.tokens, slot.priority)
                for observation in seen:
                    book.observe(observation, slot.at)
                if slot.counted:
                    book.correct(slot.at, _actual(done) - slot.tokens, priority=slot.priority)
                if closed is not None:
                    book.close(*closed)
            await _store(tx, books, now)

        await self._db.transact(work, label="quota.done")
        for done, _, _ in lessons:
            self._counted[done.slot.scope] = (True, now)

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
        now = self._clock()
        states = await self._db.read(lambda tx: _read(tx, scopes))
        books = [Windows.from_json(states.get(scope)) for scope in scopes]
        for book, (target, _) in zip(books, targets, strict=True):
            book.advance(now, target.limits)
        return books

    async def _uncounted(self, ask: _Ask) -> bool:
        if limited(ask.target.limits):
            return False
        now = self._clock()
        counted, read_at = self._counted.get(ask.scope, (True, float("-inf")))
        if now - read_at > _READ_AGAIN_S:
            states = await self._db.read(lambda tx: _read(tx, [ask.scope]))
            book = Windows.from_json(states.get(ask.scope))
            book.advance(now, ask.target.limits)
            counted = bool(book.learned) or book.closed_until() > now
            self._counted[ask.scope] = (counted, now)
        return not counted


def _grant(
    asks: Sequence[_Ask], books: Mapping[str, Windows], tokens: int, priority: Priority, now: float
) -> Slot | Wait:
    soonest: Wait | None = None
    for ask in asks:
        book = books.get(ask.scope)
        if book is None:
            return Slot(ask.target, ask.scope, tokens, priority, now, counted=False)
        wait_s, kind = book.free_in(ask.target.limits, tokens, priority)
        if kind is None:
            book.take(tokens, priority)
            return Slot(ask.target, ask.scope, tokens, priority, now, counted=True)
        book.want(priority)
        if soonest is None or wait_s < soonest.seconds:
            soonest = Wait(wait_s, kind, ask.target)
    assert soonest is not None
    return soonest


def _lessons(done: Done, now: float) -> tuple[list[Observation], tuple[Kind, float] | None]:
    error, target = done.error, done.slot.target
    headers = done.headers if done.headers is not None else getattr(error, "rate_headers", None)
    period = period_of(error) if error is not None else None
    seen = learn(target.provider, headers or {}, now, period=period)
    if error is None:
        return seen, None
    return seen + learn_from_error(error, now), closed_by(error, target.limits, now)


def _actual(done: Done) -> int:
    usage = done.usage if done.usage is not None else getattr(done.error, "usage", None)
    if isinstance(usage, Usage) and usage.flag is None:
        return tokens_of(done.slot.target.limits, usage.total_input, usage.output_tokens)
    if done.error is not None and done.error.status in (400, 401, 403, 404, 413, 422, 429):
        return 0
    return done.slot.tokens


async def _read(tx: Tx, scopes: Sequence[str]) -> dict[str, str]:
    marks = ", ".join("?" for _ in scopes)
    rows = await tx.fetch(f"SELECT scope, state FROM quota_scope WHERE scope IN ({marks})", *scopes)  # noqa: S608
    return {row["scope"]: row["state"] for row in rows}


async def _load(tx: Tx, scopes: Sequence[str]) -> dict[str, Windows]:
    """Lock the rows, always in the same order so that no two processes wait for each other, and read them."""
    books: dict[str, Windows] = {}
    for scope in sorted(set(scopes)):
        lock = "UPDATE quota_scope SET touched_at = touched_at WHERE scope = ? RETURNING state"
        rows = await tx.fetch(lock, scope)
        if not rows:
            await tx.execute(
                "INSERT INTO quota_scope (scope, state, touched_at) VALUES (?, '', 0.0) "
                "ON CONFLICT (scope) DO NOTHING",
                scope,
            )
            rows = await tx.fetch(lock, scope)
        books[scope] = Windows.from_json(rows[0]["state"] or None)
    return books


async def _store(tx: Tx, books: Mapping[str, Windows], now: float) -> None:
    for scope, book in books.items():
        await tx.execute(
            "UPDATE quota_scope SET state = ?, touched_at = ? WHERE scope = ?", book.to_json(), now, scope
        )
