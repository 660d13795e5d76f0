"""How waits and resets are read, in all the forms that providers write them."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_samples import NOW

from tta_dev_primitives.blocks.wire.retry_after import (
    NONSENSE,
    go_duration,
    header_wait,
    next_midnight,
    next_month,
    parse_instant,
    try_again_in,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2m59.56s", 179.56),
        ("7.66s", 7.66),
        ("1s", 1.0),
        ("120ms", 0.12),
        ("1h2m3s", 3723.0),
        ("26s", 26.0),
        ("7m12.5s", 432.5),
        ("1h 5m", 3900.0),
        ("0s", 0.0),
        ("99999999h", NONSENSE),
        ("", None),
        ("12", None),
        ("s", None),
        ("-3s", None),
        ("1s!", None),
        (None, None),
        (26, None),
    ],
)
def test_go_durations_are_read(text: object, seconds: float | None) -> None:
    """Groq's resets and Google's delays."""
    got = go_duration(text)
    assert got == seconds if seconds in (None, NONSENSE) else got == pytest.approx(seconds)


def test_waits_in_words_are_found() -> None:
    """The sentence may end right after the duration."""
    assert try_again_in("Limit 6000. Please try again in 5.289s. Visit us.") == pytest.approx(5.289)
    assert try_again_in("Please retry in 26.4s") == pytest.approx(26.4)
    assert try_again_in("try again in 1m30s.") == pytest.approx(90)
    assert try_again_in("try again later") is None


def test_a_wait_may_be_a_duration() -> None:
    """Some gateways write `Retry-After` as Go does."""
    assert header_wait({"retry-after": "7.66s"}, NOW) == pytest.approx(7.66)
    assert header_wait({"retry-after": "2m59.56s"}, NOW) == pytest.approx(179.56)


def test_a_date_is_measured_by_the_servers_own_clock() -> None:
    """A local clock that is hours off must not turn ten seconds into hours."""
    headers = {"retry-after": "Sun, 22 Nov 2026 04:00:10 GMT", "date": "Sun, 22 Nov 2026 04:00:00 GMT"}
    assert header_wait(headers, NOW) == pytest.approx(10)


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_no_header_text_breaks_the_reader(after: str, millis: str, date: str) -> None:
    """Any text: a wait of 0 or more, `NONSENSE`, or none."""
    wait = header_wait({"retry-after": after, "retry-after-ms": millis, "date": date}, NOW)
    assert wait is None or wait >= 0


def test_instants_are_read_in_both_spellings() -> None:
    """HTTP dates and RFC 3339; a time without a zone is UTC."""
    assert parse_instant("Sun, 22 Nov 2026 10:00:00 GMT") == NOW
    assert parse_instant("2026-11-22T10:00:00Z") == NOW
    assert parse_instant("2026-11-22T11:00:00+01:00") == NOW
    assert parse_instant("2026-11-22T10:00:00") == NOW
    assert parse_instant("tomorrow") is None


@given(st.integers(min_value=int(NOW), max_value=int(NOW) + 3 * 366 * 86_400))
def test_a_day_of_a_zone_ends_at_its_next_midnight(now: int) -> None:
    """Also across changes of daylight saving: 23 to 25 hours, and 00:00 on the clock there."""
    zone = "America/Los_Angeles"
    reset = next_midnight(zone, now)
    there = datetime.fromtimestamp(reset, ZoneInfo(zone))
    assert (there.hour, there.minute, there.second) == (0, 0, 0)
    assert 0 < reset - now <= 25 * 3600


@given(st.integers(min_value=int(NOW), max_value=int(NOW) + 3 * 366 * 86_400))
def test_a_month_ends_at_the_first_of_the_next(now: int) -> None:
    """In UTC, over the turn of the year too."""
    reset = datetime.fromtimestamp(next_month(now), UTC)
    assert (reset.day, reset.hour, reset.minute) == (1, 0, 0)
    assert 0 < reset.timestamp() - now <= 31 * 86_400
