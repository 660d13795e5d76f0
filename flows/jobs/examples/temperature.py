"""Temperatures in two scales, and how warm a week was."""

from __future__ import annotations

from collections.abc import Sequence

ABSOLUTE_ZERO_C = -273.15


def celsius(fahrenheit: float) -> float:
    """Degrees Celsius of `fahrenheit`.

    Raises:
        ValueError: Below absolute zero.
    """
    degrees = (fahrenheit - 32) * 5 / 9
    if degrees < ABSOLUTE_ZERO_C:
        raise ValueError(f"{fahrenheit} °F is below absolute zero")
    return degrees


def warmest(readings: Sequence[float]) -> float:
    """The highest of the readings.

    Raises:
        ValueError: There is none.
    """
    if not readings:
        raise ValueError("no readings")
    return max(readings)
