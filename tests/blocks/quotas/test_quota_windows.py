"""The windows alone: however they are asked, no limit of any shape is passed, and days end on time."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provider_model import Minute

from tta_dev_primitives.blocks.quotas.windows import Observation, Windows, day_bounds
from tta_dev_primitives.config.models.targets import Limits

PACIFIC = "America/Los_Angeles"
START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()

steps = st.lists(
    st.tuples(
        st.floats(0, 45), st.integers(1, 8), st.integers(1, 400), st.sampled_from(["bulk", "interactive"])
    ),
    min_size=1,
    max_size=60,
)
"""(seconds since the step before, requests asked at once, tokens of each, who asks)."""


def grants(limits: Limits, asked: list[tuple[float, int, int, str]], start: float) -> list[tuple[float, int]]:
    """Play the steps; the (moment, tokens) of what was granted."""
    windows, now, out = Windows(), start, []
    for pause, count, tokens, who in asked:
        now += pause
        windows = Windows.from_json(windows.to_json())
        windows.advance(now, limits)
        for _ in range(count):
            if windows.free_in(limits, tokens, who).kind is None:  # type: ignore[arg-type]
                windows.take(tokens, who)  # type: ignore[arg-type]
                out.append((now, tokens))
    return out


@settings(deadline=None, max_examples=150)
@given(steps, st.sampled_from(["fixed", "sliding", "bucket"]), st.floats(0, 60), st.lists(st.floats(0, 0.7)))
def test_no_shape_of_minute_limit_is_ever_passed(
    asked: list[tuple[float, int, int, str]], shape: str, offset: float, delays: list[float]
) -> None:
    """Fixed minutes at any offset, a sliding minute, a bucket: with uneven travel times, never over."""
    granted = grants(Limits(rpm=7, tpm=900), asked, START)
    travel = [*delays, *([0.0] * len(granted))]
    arrivals = sorted((at + delay, tokens) for (at, tokens), delay in zip(granted, travel, strict=False))
    requests, spent = (Minute(limit, shape, offset) for limit in (7, 900))  # type: ignore[arg-type]
    for at, tokens in arrivals:
        requests.take(at, 1)
        spent.take(at, tokens)
        assert requests.used(at) <= 7 + 1e-6
        assert spent.used(at) <= 900 + 1e-6


@settings(deadline=None, max_examples=100)
@given(
    steps.map(lambda s: [(pause * 60, count, tokens, who) for pause, count, tokens, who in s]),
    st.sampled_from(["UTC", PACIFIC]),
    st.sampled_from(["2026-03-08", "2026-11-01", "2026-11-22"]),
    st.floats(-4, 4),
)
def test_no_day_limit_is_ever_passed_even_where_clocks_change_or_differ(
    asked: list[tuple[float, int, int, str]], zone: str, date: str, skew: float
) -> None:
    """Days of 23, 24 and 25 hours, the provider's clock up to 4 s away from ours: never over."""
    start = datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp() - 3600
    limits = Limits(rpd=9, tpd=2000, reset_zone=zone)
    count: dict[str, list[int]] = {}
    for at, tokens in grants(limits, asked, start):
        day = datetime.fromtimestamp(at + skew, ZoneInfo(zone)).date().isoformat()
        used = count.setdefault(day, [0, 0])
        used[0] += 1
        used[1] += tokens
    assert all(requests <= 9 and tokens <= 2000 for requests, tokens in count.values())


@settings(deadline=None, max_examples=100)
@given(steps, st.integers(1, 300))
def test_the_wait_that_is_named_is_enough_and_not_a_window_too_long(
    asked: list[tuple[float, int, int, str]], tokens: int
) -> None:
    """After exactly the wait the request goes out, if nobody else took the place."""
    limits, windows, now = Limits(rpm=5, tpm=600, rpd=40), Windows(), START
    for pause, count, size, _ in asked:
        now += pause
        windows.advance(now, limits)
        for _ in range(count):
            if windows.free_in(limits, size, "bulk").kind is None:
                windows.take(size, "bulk")
    wait, kind = windows.free_in(limits, tokens, "bulk")
    windows.advance(now + wait, limits)
    assert windows.free_in(limits, tokens, "bulk").wait_s == 0
    assert wait <= (62 if kind in ("rpm", "tpm", None) else 86_400)


@pytest.mark.parametrize(
    ("moment", "hours"),
    [("2026-03-08T12:00", 23), ("2026-11-01T12:00", 25), ("2026-11-22T12:00", 24), ("2026-11-01T09:30", 25)],
)
def test_a_pacific_day_is_as_long_as_it_is(moment: str, hours: int) -> None:
    """Midnight to midnight in US Pacific, through both changes of the clock."""
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()
    begin, end = day_bounds(now, PACIFIC)
    assert begin <= now < end
    assert end - begin == hours * 3600
    assert datetime.fromtimestamp(begin, ZoneInfo(PACIFIC)).hour == 0


def test_bulk_leaves_headroom_and_more_of_it_while_people_are_about() -> None:
    """With 30 a minute bulk takes 29; once a person asked, it stops at 24 and people have the rest."""
    limits, windows = Limits(rpm=30), Windows()

    def take_all(who: str) -> int:
        taken = 0
        while windows.free_in(limits, 1, who).kind is None:  # type: ignore[arg-type]
            windows.take(1, who)  # type: ignore[arg-type]
            taken += 1
        return taken

    windows.advance(START, limits)
    assert (take_all("bulk"), take_all("interactive")) == (29, 1)
    windows.advance(START + 62, limits)
    assert (take_all("bulk"), take_all("interactive")) == (24, 6)


def test_the_share_kept_for_people_goes_to_bulk_before_the_day_ends() -> None:
    """Of 300 a day bulk gets 290, and the last 10 in the hour before the reset."""
    limits, windows = Limits(rpd=300), Windows()
    windows.advance(START, limits)
    for _ in range(290):
        assert windows.free_in(limits, 1, "bulk").kind is None
        windows.take(1, "bulk")
    wait = windows.free_in(limits, 1, "bulk").wait_s
    assert wait == pytest.approx(11 * 3600, abs=10)
    windows.advance(START + wait, limits)
    assert windows.free_in(limits, 1, "bulk").kind is None


def test_what_can_never_fit_waits_for_ever() -> None:
    """A request of more tokens than the minute's limit names that limit, with an infinite wait."""
    windows, limits = Windows(), Limits(tpm=8000)
    windows.advance(START, limits)
    assert windows.free_in(limits, 9000, "interactive") == (float("inf"), "tpm")


def test_an_overestimate_is_given_back_and_an_underestimate_is_added() -> None:
    """1,000 asked and 300 used leaves 700 for others; 1,000 asked and 1,500 used takes 500 more."""
    windows, limits = Windows(), Limits(tpm=2000, tpd=10_000)
    windows.advance(START, limits)
    windows.take(1000, "interactive")
    windows.correct(START, 300 - 1000, priority="interactive")
    assert (windows.left("tpm", limits), windows.left("tpd", limits)) == (1700 - 400, 10_000 - 300 - 1700)
    windows.correct(START, 1500 - 300, priority="interactive")
    assert windows.left("tpm", limits) == 100


def test_others_on_the_same_key_are_noticed_by_what_the_provider_says_is_left() -> None:
    """We sent 1, the provider has 600 of 1,000 left: 400 are gone, not 1."""
    windows, limits = Windows(), Limits(rpd=1000, source="catalogue")
    windows.advance(START, limits)
    windows.take(10, "bulk")
    windows.observe(Observation("rpd", 1000, 600), START)
    assert windows.left("rpd", limits) == 600 - 1000 // 30


def test_requests_that_the_provider_did_not_count_come_back() -> None:
    """We counted 500 of the day, the provider 3: its figure and what left since then hold."""
    windows, limits = Windows(), Limits(rpd=1000, source="catalogue")
    windows.advance(START, limits)
    for _ in range(500):
        windows.take(1, "bulk")
    later = START + 100
    windows.advance(later, limits)
    windows.take(1, "bulk")
    windows.observe(Observation("rpd", 1000, 997), later)
    assert windows.left("rpd", limits) == 1000 - 4 - 1000 // 30


def test_the_users_own_limit_holds_when_the_provider_allows_more() -> None:
    """A limit in the configuration is the user's word; one of the catalogue is only what we last read."""
    for source, expected in (("config", 100), ("catalogue", 1000)):
        windows, limits = Windows(), Limits(rpd=100, source=source)  # type: ignore[arg-type]
        windows.advance(START, limits)
        windows.observe(Observation("rpd", 1000), START)
        assert windows.cap("rpd", limits) == expected


@pytest.mark.parametrize("skew", [-4.0, 0.0, 4.0])
def test_requests_around_midnight_count_for_both_days(skew: float) -> None:
    """Nine of nine sent three seconds before the reset may be the next day's, by the provider's clock."""
    midnight = START + 12 * 3600
    around = [
        (midnight - 3 - START, 9, 1, "interactive"),
        (2.5, 9, 1, "interactive"),
        (7, 9, 1, "interactive"),
    ]
    granted = grants(Limits(rpd=9), around, START)
    days = [int((at + skew) // 86_400) for at, _ in granted]
    assert all(days.count(day) <= 9 for day in days)
    assert len(granted) == 9


def test_a_clock_that_jumps_gives_no_quota_away() -> None:
    """Set back an hour or a day, what was counted stays counted for the day."""
    windows, limits = Windows(), Limits(rpd=10)
    windows.advance(START, limits)
    for _ in range(10):
        windows.take(1, "interactive")
    for jump in (-3600, -86_400):
        windows.advance(START + jump, limits)
        assert windows.free_in(limits, 1, "interactive").kind == "rpd"
