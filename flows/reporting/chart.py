"""The month's spending against its budget as one small SVG: readable on light and dark. Pure."""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from decimal import Decimal
from html import escape

_W, _H = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 20, 28


def spend_chart(
    month: str, days: Mapping[str, Decimal], limit: Decimal | None, *, until: str | None = None
) -> str:
    """Draw the cumulative spending of a month with its limit.

    Colours come from CSS variables of the page (`--accent`, `--limit`, `--muted`, `--line`), with fallbacks that
    suit both schemes where the picture stands alone.

    Args:
        days: `YYYY-MM-DD` -> USD charged that day.
        limit: USD, None for no limit.
        until: The last day to draw (`YYYY-MM-DD`); default: the whole month.

    Returns:
        One `<svg>` element.
    """
    year, number = int(month[:4]), int(month[5:])
    count = calendar.monthrange(year, number)[1]
    last = min(count, int(until[8:])) if until is not None and until[:7] == month else count
    total, sums = Decimal(0), []
    for day in range(1, last + 1):
        total += days.get(f"{month}-{day:02d}", Decimal(0))
        sums.append(total)
    top = float(max(total, limit or Decimal(0))) * 1.08 or 1.0

    def x(day: float) -> float:
        return _LEFT + day / count * (_W - _LEFT - _RIGHT)

    def y(amount: float) -> float:
        return _H - _BOTTOM - amount / top * (_H - _TOP - _BOTTOM)

    floor = y(0)
    points = [(x(0), floor)]
    for day, amount in enumerate(sums, start=1):
        points.append((x(day), y(float(amount))))
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_W} {_H}" role="img" '
        f'aria-label="{escape(_words(month, total, limit))}" font-family="system-ui, sans-serif" font-size="12">',
        *_grid(top, y),
        *(
            f'<text x="{x(day - 0.5):.1f}" y="{_H - 8}" text-anchor="middle" '
            f'fill="var(--muted, #7a8699)">{day}</text>'
            for day in (1, *range(5, count + 1, 5))
        ),
        f'<polygon points="{line} {points[-1][0]:.1f},{floor:.1f}" fill="var(--accent, #2f7fe0)" '
        'fill-opacity="0.16"/>',
        f'<polyline points="{line}" fill="none" stroke="var(--accent, #2f7fe0)" stroke-width="2.5" '
        'stroke-linejoin="round"/>',
        f'<circle cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="4" fill="var(--accent, #2f7fe0)"/>',
    ]
    if limit is not None:
        at = y(float(limit))
        parts.append(
            f'<line x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" '
            'stroke="var(--limit, #d9534f)" stroke-width="1.5" stroke-dasharray="6 4"/>'
            f'<text x="{_W - _RIGHT}" y="{at - 6:.1f}" text-anchor="end" fill="var(--limit, #d9534f)">'
            f"budget ${limit:,.2f}</text>"
        )
    return "".join([*parts, "</svg>"])


def _words(month: str, total: Decimal, limit: Decimal | None) -> str:
    return f"{month}: ${total:f} spent" + ("" if limit is None else f" of ${limit:f}")


def _grid(top: float, y: object) -> list[str]:
    assert callable(y)
    step = _step(top)
    lines, amount = [], 0.0
    while amount <= top:
        at = y(amount)
        lines.append(
            f'<line x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" '
            'stroke="var(--line, #8a94a640)" stroke-width="1"/>'
            f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end" fill="var(--muted, #7a8699)">'
            f"{_short(amount, step)}</text>"
        )
        amount += step
    return lines


def _step(top: float) -> float:
    """A round distance that gives three to six lines."""
    size = 10.0 ** len(str(int(top))) if top >= 1 else 1.0
    while True:
        for part in (1.0, 0.5, 0.25, 0.2):
            if 3 <= top / (size * part) <= 6.5:
                return size * part
        size /= 10


def _short(amount: float, step: float) -> str:
    places = 0 if step >= 1 and step == int(step) else 2
    while places and places < 8 and round(step, places) != step and step < 10.0**-places * 10:
        places += 1
    return f"${amount:,.{places}f}"
