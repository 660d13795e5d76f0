"""Which models and keys are out, by class of error; shared and kept, except what holds for one run only."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from provider_model import VirtualClock, target_of

from tta_dev_primitives.blocks.ledger.database.protocol import Database, database_for
from tta_dev_primitives.blocks.quotas.availability import Availability, Blocked
from tta_dev_primitives.config.models.targets import Limits
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError
from tta_dev_primitives.config.reading.api_keys import NO_KEY, key_id

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()
GROQ = target_of("m", "groq", Limits())
GROQ_2 = target_of("n", "groq", Limits())
PAID = target_of("p", "groq", Limits(), billing="paid")
GEMINI = target_of("g", "google-ai-studio", Limits(reset_zone="America/Los_Angeles"))
ALL = [(t, "k") for t in (GROQ, GROQ_2, PAID, GEMINI)]


def error(
    error_class: ErrorClass, message: str = "no", *, status: int = 429, **more: object
) -> ProviderError:
    """A failed attempt."""
    options: dict[str, object] = {"provider": "groq", "model": "m", "status": status, **more}
    return ProviderError(message, error_class=error_class, **options)  # type: ignore[arg-type]


def names(blocked: dict[str, Blocked]) -> set[str]:
    """The models that are out, by name."""
    return {target.name for target, _ in ALL if target.key in blocked}


def everything_in(folder: Path) -> bytes:
    """The bytes of all files of the database."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOON)


@pytest.fixture
async def database(tmp_path: Path) -> Any:
    opened = database_for(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    await opened.aclose()


@pytest.mark.parametrize(
    ("failed", "out", "seconds"),
    [
        (error(ErrorClass.RATE_LIMIT, retry_after_s=12.0), {"m"}, 12),
        (error(ErrorClass.RATE_LIMIT), {"m"}, 5),
        (error(ErrorClass.QUOTA, "requests per day"), {"m"}, 12 * 3600),
        (error(ErrorClass.QUOTA, "per day", scope="provider_free", reset_at=NOON + 900), {"m", "n"}, 900),
        (error(ErrorClass.QUOTA, "insufficient credit", status=402, scope="provider"), {"m", "n", "p"}, 3600),
        (error(ErrorClass.QUOTA, code="enforced_spend_limit_reached"), {"m", "n", "p"}, 86_400),
        (error(ErrorClass.MODEL_GONE, status=404), {"m"}, 86_400),
        (error(ErrorClass.MODEL_GONE, status=404, code="privacy_restricted"), {"m"}, 600),
        (error(ErrorClass.AUTH, status=401), {"m", "n", "p"}, 900),
        (error(ErrorClass.OVERLOADED, status=503, reset_at=NOON + 300), {"m"}, 300),
        (error(ErrorClass.TRANSIENT, status=500), set(), 0),
        (error(ErrorClass.CONTENT, status=403), set(), 0),
    ],
    ids=lambda value: value.error_class if isinstance(value, ProviderError) else "",
)
async def test_each_class_of_error_puts_the_right_models_out_for_the_right_time(
    database: Database, clock: VirtualClock, failed: ProviderError, out: set[str], seconds: float
) -> None:
    """A model, a key, or a key's free models; another provider is never touched."""
    memory = Availability(database, clock=clock)
    recorded = await memory.record_failure(GROQ, "k", failed)
    blocked = await memory.blocked(ALL)
    assert names(blocked) == out
    assert all(b.until == NOON + seconds and b.error_class is failed.error_class for b in blocked.values())
    assert (recorded is not None) == bool(out)
    clock.now = NOON + seconds + 1
    assert await memory.blocked(ALL) == {}


async def test_a_gemini_day_ends_at_midnight_in_california(database: Database, clock: VirtualClock) -> None:
    """Noon UTC is four in the morning there: twenty hours are left of the day."""
    memory = Availability(database, clock=clock)
    blocked = await memory.record_failure(GEMINI, "k", error(ErrorClass.QUOTA, "PerDay"))
    assert blocked is not None
    assert blocked.until == NOON + 20 * 3600
    assert blocked.reason == "quota of g at google-ai-studio is used up: out until 2026-11-23 08:00:00 UTC"


async def test_other_processes_see_what_lasts_but_not_a_refused_key(
    database: Database, clock: VirtualClock
) -> None:
    """A quota is everybody's; a refused key is out for the run that saw it, since the user fixes it."""
    here, elsewhere = Availability(database, clock=clock), Availability(database, clock=clock)
    await here.record_failure(GROQ, "k", error(ErrorClass.QUOTA, "per day"))
    await here.record_failure(GEMINI, "k", error(ErrorClass.AUTH, status=401))
    assert names(await here.blocked(ALL)) >= {"m", "g"}
    assert names(await elsewhere.blocked(ALL)) == {"m"}
    assert await elsewhere.blocked([(GROQ, "another key")]) == {}


async def test_a_model_with_two_keys_is_out_only_when_both_are(
    database: Database, clock: VirtualClock
) -> None:
    """Then it comes back when the first key does."""
    memory, both = Availability(database, clock=clock), [(GROQ, "k1"), (GROQ, "k2")]
    await memory.record_failure(GROQ, "k1", error(ErrorClass.RATE_LIMIT, retry_after_s=60.0))
    assert await memory.blocked(both) == {}
    await memory.record_failure(GROQ, "k2", error(ErrorClass.RATE_LIMIT, retry_after_s=20.0))
    assert (await memory.blocked(both))[GROQ.key].until == NOON + 20


async def test_refusals_without_a_wait_double_their_rest_until_a_success(
    database: Database, clock: VirtualClock
) -> None:
    """5, 10, 20 seconds, then an answer, then 5 again."""
    memory = Availability(database, clock=clock)
    rests = []
    for _ in range(3):
        blocked = await memory.record_failure(GROQ, "k", error(ErrorClass.RATE_LIMIT))
        assert blocked is not None
        rests.append(blocked.until - clock.now)
        clock.now = blocked.until + 1
    await memory.record_success(GROQ, "k", sent_at=clock.now)
    again = await memory.record_failure(GROQ, "k", error(ErrorClass.RATE_LIMIT))
    assert again is not None
    assert [*rests, again.until - clock.now] == [5, 10, 20, 5]


async def test_an_answer_that_was_on_its_way_does_not_reopen_a_closed_quota(
    database: Database, clock: VirtualClock
) -> None:
    """Of fifty calls in flight one hits the limit: the forty-nine answers after it change nothing."""
    memory = Availability(database, clock=clock)
    await memory.record_failure(GROQ, "k", error(ErrorClass.QUOTA, "per day"))
    clock.now += 3
    await memory.record_success(GROQ, "k", sent_at=NOON - 2)
    assert names(await memory.blocked(ALL)) == {"m"}
    await memory.record_success(GROQ, "k", sent_at=NOON + 1)
    assert await memory.blocked(ALL) == {}


async def test_a_dead_server_is_left_alone_after_twenty_failures(
    database: Database, clock: VirtualClock
) -> None:
    """Nineteen failures in a row leave no memory; the twentieth rests the model for half a minute."""
    memory = Availability(database, clock=clock)
    dead = error(ErrorClass.CONNECT, status=503)
    assert [await memory.record_failure(GROQ, "k", dead) for _ in range(19)] == [None] * 19
    blocked = await memory.record_failure(GROQ, "k", dead)
    assert blocked is not None
    assert blocked.until == NOON + 30
    clock.now += 31
    await memory.record_success(GROQ, "k", sent_at=clock.now)
    assert await memory.record_failure(GROQ, "k", dead) is None


async def test_a_no_of_our_own_scheduler_puts_nothing_out(database: Database, clock: VirtualClock) -> None:
    """Bulk work that has to wait must not close the model to people, for whom a share is kept."""
    memory = Availability(database, clock=clock)
    own = error(ErrorClass.QUOTA, retry_after_s=3600.0, own_quota=True)
    assert await memory.record_failure(GROQ, "k", own) is None
    assert await memory.blocked(ALL) == {}


async def test_nothing_of_a_key_is_stored_but_a_short_hash(
    database: Database, clock: VirtualClock, tmp_path: Path
) -> None:
    """The same key has the same name everywhere, another key another, no key its own."""
    secret = "gsk_" + "0123456789abcdef" * 3
    name = key_id(secret)
    assert (len(name), name == key_id(secret), name == key_id(secret + "0")) == (12, True, False)
    assert key_id(None) == key_id("") == NO_KEY
    memory = Availability(database, clock=clock)
    await memory.record_failure(GROQ, name, error(ErrorClass.MODEL_GONE, status=404))
    await database.aclose()
    stored = everything_in(tmp_path)
    assert name.encode() in stored
    assert secret[4:20].encode() not in stored
