"""Which models and keys are out, until when and why: kept in the ledger's database, shared by all processes.

What is out, and until when, by class of error:

- rate_limit: the model, for the provider's wait; without one 5 s, doubled each time, at most 5 minutes.
- quota_exhausted: the model, the key, or the key's free models (`error.scope`), until `reset_at`; else for
  the wait; else until the end of the day that the error speaks of.
- quota_exhausted for lack of money (402, a month's spend limit): the key, for an hour and at most a day.
  Money may be added at any time, and asking again costs nothing.
- model_gone: the model, 24 hours; 10 minutes on a server of your own, where a model may be pulled any moment.
- auth: the key, for this run (15 minutes in a process that serves many runs); never written down.
- overloaded with a wait too long to sit out: the model, for that wait.

Other errors leave no memory, but a model that failed 20 times in a row is out for 30 s, doubled up to 10
minutes, in this process: a bulk job must not wait for a dead server a thousand times.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tta_dev_primitives.blocks.ledger.database.migrations import register_schema
from tta_dev_primitives.blocks.ledger.database.protocol import Database, Tx, writes
from tta_dev_primitives.blocks.quotas.learning import closed_by, period_of
from tta_dev_primitives.config.models.catalogue import load_catalogue
from tta_dev_primitives.config.models.targets import Target
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError

register_schema(
    "availability",
    1,
    [
        "CREATE TABLE IF NOT EXISTS model_unavailable (scope TEXT PRIMARY KEY, until REAL NOT NULL, "
        "since REAL NOT NULL, reason TEXT NOT NULL, error_class TEXT NOT NULL, "
        "strikes INTEGER NOT NULL) STRICT"
    ],
)

RETIRED_S = 86_400.0
PULLED_S = 600.0
_FIXABLE = frozenset({"privacy_restricted", "constraint_filtered"})
"""OpenRouter: not served under the account's data policy, or not with what one request asked for."""
AUTH_S = 900.0
NO_MONEY_S = 3600.0
SPEND_LIMIT_S = 86_400.0
_FIRST_REST_S, _LONGEST_REST_S = 5.0, 300.0
_DEAD_AFTER, _DEAD_S, _LONGEST_DEAD_S = 20, 30.0, 600.0
_LONGEST_WAIT_S = 31 * 86_400.0
_FRESH_S = 300.0
_OUT_FOR_A_RUN = frozenset({ErrorClass.AUTH, ErrorClass.MODEL_GONE, ErrorClass.QUOTA})
_STEADY = frozenset(
    {
        ErrorClass.CONNECT,
        ErrorClass.TIMEOUT,
        ErrorClass.TRANSPORT,
        ErrorClass.TRANSIENT,
        ErrorClass.OVERLOADED,
        ErrorClass.MALFORMED,
    }
)


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a model cannot be tried now."""

    until: float
    """Epoch seconds."""
    reason: str
    """One line for people, without keys."""
    error_class: ErrorClass


class Availability:
    """The memory of one process: the lasting part in the database, the rest in this object."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self._clock = clock
        self._this_run: dict[str, Blocked] = {}
        self._in_a_row: dict[str, int] = {}
        self._reported: dict[str, tuple[float, Blocked]] = {}
        # Scopes with a row that a success would make wrong; most successes then cost no database work.
        self._doubtful: set[str] = set()

    async def blocked(self, targets: Sequence[tuple[Target, str]]) -> dict[str, Blocked]:
        """Return `Target.key` -> why it is out, for those of `targets` that are; one query.

        Args:
            targets: Each with the id of its key (`api_keys.key_id`). A model listed with several keys is out
                when all of them are, until the first comes back.
        """
        now = self._clock()
        scopes = [(target.key, _scopes(target, key_id)) for target, key_id in targets]
        every = sorted({scope for _, names in scopes for scope in names})
        rows = await self._read(every, now) if every else {}
        self._doubtful.update(rows)
        by_key: dict[str, list[Blocked | None]] = {}
        for key, names in scopes:
            found = [rows[n] for n in names if n in rows]
            found += [b for n in names if (b := self._this_run.get(n)) is not None and b.until > now]
            by_key.setdefault(key, []).append(max(found, key=lambda b: b.until, default=None))
        out: dict[str, Blocked] = {}
        for key, verdicts in by_key.items():
            blocks = [b for b in verdicts if b is not None]
            if len(blocks) == len(verdicts):
                out[key] = min(blocks, key=lambda b: b.until)
        return out

    def known(self, target: Target, key_id: str) -> Blocked | None:
        """Why a model was found out in the last minutes by this very object; asks no database.

        A run chooses its models once: this gives its later calls what its earlier ones have learned.
        """
        now = self._clock()
        known = [self._reported[name] for name in _scopes(target, key_id) if name in self._reported]
        return next((block for fresh, block in known if now < min(fresh, block.until)), None)

    def hear(self, target: Target, key_id: str, error: ProviderError) -> None:
        """Let `known` tell at once that a model is gone or a key refused, before anything is written down."""
        if error.error_class in (ErrorClass.AUTH, ErrorClass.MODEL_GONE):
            now = self._clock()
            out = _judge(target, key_id, error, now)
            assert out is not None
            self._reported[out[0]] = (now + _FRESH_S, out[1])

    async def record_failure(self, target: Target, key_id: str, error: ProviderError) -> Blocked | None:
        """Remember what a failed attempt says about the model or the key; None when it says nothing lasting."""
        if getattr(error, "own_quota", False):
            # Our own scheduler said no, for this priority; it remembers why better than this does.
            return None
        now = self._clock()
        out = _judge(target, key_id, error, now)
        if out is None:
            return self._count_failure(target, key_id, error, now)
        scope, blocked = out
        if error.error_class is ErrorClass.AUTH:
            self._this_run[scope] = blocked
        else:
            blocked = await self._write(scope, blocked, now)
            self._doubtful.add(scope)
        if error.error_class in _OUT_FOR_A_RUN:
            self._reported[scope] = (now + _FRESH_S, blocked)
        return blocked

    async def record_success(self, target: Target, key_id: str, *, sent_at: float) -> None:
        """A model answered a request of this moment: forget that it failed before, if there is anything to forget.

        What went wrong later stays: calls that were on their way when a quota ended do answer.
        """
        names = _scopes(target, key_id)
        for name in names:
            self._in_a_row.pop(name, None)
            self._this_run.pop(name, None)
            self._reported.pop(name, None)
        stale = [name for name in names if name in self._doubtful]
        if stale:
            await self._forget(stale, sent_at)
            self._doubtful.difference_update(stale)

    def _count_failure(self, target: Target, key_id: str, error: ProviderError, now: float) -> Blocked | None:
        if error.error_class not in _STEADY:
            return None
        scope = _scope(target, key_id, target.api_model)
        count = self._in_a_row[scope] = self._in_a_row.get(scope, 0) + 1
        if count < _DEAD_AFTER:
            return None
        rest = min(_DEAD_S * 2 ** min(count - _DEAD_AFTER, 10), _LONGEST_DEAD_S)
        reason = f"{target.name}: failed {count} times in a row, last {error.error_class}"
        self._this_run[scope] = Blocked(now + rest, reason, error.error_class)
        return self._this_run[scope]

    @writes("availability.failure", idempotent=True)
    async def _write(self, tx: Tx, scope: str, out: Blocked, now: float) -> Blocked:
        rows = await tx.fetch("SELECT until, strikes FROM model_unavailable WHERE scope = ?", scope)
        again = bool(rows) and now - rows[0]["until"] < _LONGEST_REST_S
        strikes = int(rows[0]["strikes"]) + 1 if again else 1
        until = out.until or now + min(_FIRST_REST_S * 2 ** min(strikes - 1, 10), _LONGEST_REST_S)
        reason = f"{out.reason}: out until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M:%S} UTC"
        await tx.execute(
            "INSERT INTO model_unavailable (scope, until, since, reason, error_class, strikes) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (scope) DO UPDATE SET until = excluded.until, "
            "since = excluded.since, reason = excluded.reason, error_class = excluded.error_class, "
            "strikes = excluded.strikes WHERE excluded.until >= model_unavailable.until "
            "OR model_unavailable.until <= excluded.since",
            *(scope, until, now, reason, out.error_class.value, strikes),
        )
        await tx.execute("DELETE FROM model_unavailable WHERE until < ?", now - RETIRED_S)
        return Blocked(until, reason, out.error_class)

    async def _read(self, scopes: Sequence[str], now: float) -> Mapping[str, Blocked]:
        marks = ", ".join("?" for _ in scopes)
        rows = await self.database.fetch(
            f"SELECT scope, until, reason, error_class FROM model_unavailable "  # noqa: S608
            f"WHERE until > ? AND scope IN ({marks})",
            now,
            *scopes,
        )
        return {r["scope"]: Blocked(r["until"], r["reason"], ErrorClass(r["error_class"])) for r in rows}

    @writes("availability.success", idempotent=True)
    async def _forget(self, tx: Tx, scopes: Sequence[str], before: float) -> None:
        for scope in scopes:
            await tx.execute("DELETE FROM model_unavailable WHERE scope = ? AND since < ?", scope, before)


_ALL, _FREE = "*", "*free"


def _scope(target: Target, key_id: str, what: str) -> str:
    return f"{target.provider}|{target.base_url or ''}|{key_id}|{what}"


def _retired_s(target: Target, error: ProviderError) -> float:
    """How long a model that is gone is not asked: a day, or less where the user can bring it back at once."""
    fixable = load_catalogue().is_compatible(target.provider) or error.code in _FIXABLE
    return PULLED_S if fixable else RETIRED_S


def _scopes(target: Target, key_id: str) -> list[str]:
    shared = (_ALL, target.api_model, *((_FREE,) if target.billing == "free" else ()))
    return [_scope(target, key_id, what) for what in shared]


def _judge(target: Target, key_id: str, error: ProviderError, now: float) -> tuple[str, Blocked] | None:
    """Decide what is out, why and until when; `until` 0 leaves it to the strikes. Pure."""
    model, whole_key = _scope(target, key_id, target.api_model), _scope(target, key_id, _ALL)
    match error.error_class:
        case ErrorClass.AUTH:
            scope, until = whole_key, now + AUTH_S
            what = f"{target.provider} refused the key in {target.api_key_env or 'api_key_env'}"
        case ErrorClass.MODEL_GONE:
            scope, until = model, now + _retired_s(target, error)
            what = f"{target.provider} no longer serves {target.api_model}"
        case ErrorClass.QUOTA if error.status == 402 or period_of(error) == "month":
            longest = NO_MONEY_S if error.status == 402 else SPEND_LIMIT_S
            back = error.reset_at if error.reset_at is not None and error.reset_at > now else math.inf
            scope, until = whole_key, min(back, now + longest)
            what = f"credit or spend limit of the key at {target.provider} is used up"
        case ErrorClass.QUOTA | ErrorClass.RATE_LIMIT:
            wide = {"provider": whole_key, "provider_free": _scope(target, key_id, _FREE)}
            closed = closed_by(error, target.limits, now)
            scope, until = wide.get(error.scope, model), closed[1] if closed else 0.0
            what = f"quota of {target.name} at {target.provider} is used up"
            if error.error_class is ErrorClass.RATE_LIMIT:
                what = f"{target.provider} asks {target.name} to wait"
        case ErrorClass.OVERLOADED if (
            error.reset_at is not None and now < error.reset_at < now + _LONGEST_WAIT_S
        ):
            scope, until, what = model, error.reset_at, f"{target.name} is overloaded"
        case _:
            return None
    return scope, Blocked(until, what, error.error_class)
