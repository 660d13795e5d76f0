"""What headers and errors teach about limits, by provider."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_dev_primitives.blocks.quotas.learning import closed_by, learn, learn_from_error, period_of
from tta_dev_primitives.blocks.quotas.windows import Observation
from tta_dev_primitives.config.models.targets import Limits
from tta_dev_primitives.config.provider_errors import ErrorClass, ProviderError

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()
MIDNIGHT = NOON + 12 * 3600
PACIFIC = Limits(reset_zone="America/Los_Angeles")


def error(message: str, error_class: ErrorClass, *, status: int = 429, **more: object) -> ProviderError:
    """A refusal with this text."""
    options: dict[str, object] = {"provider": "p", "model": "m", "status": status, **more}
    return ProviderError(message, error_class=error_class, **options)  # type: ignore[arg-type]


def test_groq_counts_requests_by_day_and_tokens_by_minute() -> None:
    """The same header names mean the minute at any other OpenAI-like server."""
    headers = {
        "x-ratelimit-limit-requests": "14400",
        "x-ratelimit-remaining-requests": "14370",
        "x-ratelimit-reset-requests": "2m59.56s",
        "x-ratelimit-limit-tokens": "18000",
        "x-ratelimit-remaining-tokens": "17997",
        "x-ratelimit-reset-tokens": "7.66s",
    }
    assert learn("groq", headers, NOON) == [
        Observation("rpd", 14400, 14370, NOON + 179.56),
        Observation("tpm", 18000, 17997, NOON + 7.66),
    ]
    assert [seen.kind for seen in learn("openai-compatible", headers, NOON)] == ["rpm", "tpm"]


def test_anthropic_names_its_resets_as_moments() -> None:
    """RFC 3339 times, requests and tokens of the minute."""
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2026-11-22T12:00:30Z",
    }
    assert learn("anthropic", headers, NOON) == [Observation("rpm", 50, 49, NOON + 30)]


@pytest.mark.parametrize(
    ("reset_s", "limit", "period", "kind"),
    [
        (40, 20, None, "rpm"),
        (12 * 3600, 1000, None, "rpd"),
        (90, 50, "day", "rpd"),
        (90, 20, "minute", "rpm"),
    ],
)
def test_openrouter_tells_day_from_minute_by_its_reset_or_its_words(
    reset_s: float, limit: int, period: str | None, kind: str
) -> None:
    """`X-RateLimit-Reset` is epoch milliseconds; in a day's last minutes the error's words decide."""
    headers = {
        "x-ratelimit-limit": str(limit),
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": str(int((NOON + reset_s) * 1000)),
    }
    seen = learn("openrouter", headers, NOON, period=period)  # type: ignore[arg-type]
    assert seen == [Observation(kind, limit, 0, NOON + reset_s)]  # type: ignore[arg-type]


@given(st.dictionaries(st.sampled_from(["limit", "remaining", "reset"]), st.text(max_size=40)))
def test_headers_that_cannot_be_read_teach_nothing_and_break_nothing(parts: dict[str, str]) -> None:
    """Any text in any rate header gives figures that are counts, or none."""
    headers = {f"x-ratelimit-{part}-requests": text for part, text in parts.items()}
    headers |= {f"x-ratelimit-{part}": text for part, text in parts.items()}
    headers |= {f"anthropic-ratelimit-tokens-{part}": text for part, text in parts.items()}
    for provider in ("groq", "openrouter", "anthropic"):
        assert all((seen.limit or 0) >= 0 for seen in learn(provider, headers, NOON))


def test_an_error_that_names_its_limit_teaches_it() -> None:
    """Groq's and Gemini's own sentences."""
    groq = error(
        "Rate limit reached for model m on tokens per day (TPD): Limit 200000, Used 199000, Requested 2000. "
        "Please try again in 7m12s.",
        ErrorClass.QUOTA,
    )
    gemini = error(
        "Quota exceeded for metric: generativelanguage.googleapis.com/generate_content_free_tier_requests, "
        "limit: 250, model: m",
        ErrorClass.QUOTA,
    )
    assert learn_from_error(groq, NOON) == [Observation("tpd", 200_000)]
    assert learn_from_error(gemini, NOON) == [Observation("rpd", 250)]
    assert learn_from_error(error("boom (TPD): Limit 5", ErrorClass.TRANSIENT, status=500), NOON) == []


@pytest.mark.parametrize(
    ("refusal", "limits", "expected"),
    [
        (error("slow down", ErrorClass.RATE_LIMIT, retry_after_s=7.0), Limits(), ("rpm", NOON + 7)),
        (
            error("tokens per minute (TPM)", ErrorClass.RATE_LIMIT, retry_after_s=2.0),
            Limits(),
            ("tpm", NOON + 2),
        ),
        (error("slow down", ErrorClass.RATE_LIMIT), Limits(), None),
        (error("requests per day", ErrorClass.QUOTA), Limits(), ("rpd", MIDNIGHT)),
        (error("requests per day", ErrorClass.QUOTA), PACIFIC, ("rpd", NOON + 20 * 3600)),
        (error("TPD: wait", ErrorClass.QUOTA, reset_at=NOON + 432), Limits(), ("tpd", NOON + 432)),
        (error("quota", ErrorClass.QUOTA, retry_after_s=float("inf")), Limits(), ("rpd", MIDNIGHT)),
        (error("bad key", ErrorClass.AUTH, status=401), Limits(), None),
    ],
)
def test_a_refusal_closes_the_window_that_it_speaks_of(
    refusal: ProviderError, limits: Limits, expected: tuple[str, float] | None
) -> None:
    """The provider's own moment first, then its wait, then the end of the day in the right zone."""
    assert closed_by(refusal, limits, NOON) == expected


def test_a_day_refused_in_its_first_minutes_is_a_matter_of_clocks() -> None:
    """Ten seconds after the reset the provider may still be in yesterday: ask again in a minute."""
    just_after = MIDNIGHT + 10
    refusal = error("requests per day", ErrorClass.QUOTA, reset_at=MIDNIGHT + 86_400)
    assert closed_by(refusal, Limits(), just_after) == ("rpd", just_after + 60)


def test_the_window_an_error_speaks_of_is_read_from_code_and_words() -> None:
    """Month before day before minute, since a spend limit's text may name several."""
    said = {
        "free-models-per-day-high-balance": "day",
        "free-models-per-min": "minute",
        "You have reached your specified API usage limits": "month",
        "limit on requests per minute (RPM)": "minute",
        "overloaded": None,
    }
    assert {text: period_of(error(text, ErrorClass.QUOTA)) for text in said} == said
    assert period_of(error("x", ErrorClass.QUOTA, code="enforced_spend_limit_reached")) == "month"
