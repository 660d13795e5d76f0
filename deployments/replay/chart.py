"""The cost-quality chart of a replay as one SVG: our operating points, RouteLLM's, the random line and the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from tta_dev_primitives.deployments.replay.router_axes import Axes, Curve
from tta_dev_primitives.deployments.replay.run import Outcome

_WIDTH, _HEIGHT, _LEFT, _TOP, _PLOT_W, _PLOT_H = 920, 540, 70, 76, 560, 400
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 } .dim { fill: #656d76; font-size: 12px }
  .axis { stroke: #8c959f } .grid { stroke: #d8dee4 } .back { fill: #ffffff }
  .ours { fill: #0969da } .curve { stroke: #0969da; fill: none; stroke-width: 2 }
  .oracle { stroke: #1a7f37; fill: none; stroke-dasharray: 6 4 } .random { stroke: #8c959f; stroke-dasharray: 3 4 }
  .theirs { fill: #cf222e } .oracle-mark { fill: #1a7f37 } .random-mark { fill: #8c959f }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .dim { fill: #8d96a0 } .back { fill: #0d1117 } .grid { stroke: #30363d }
    .ours { fill: #4493f8 } .curve { stroke: #4493f8 } .oracle { stroke: #3fb950 } .theirs { fill: #f85149 }
  }
"""


def chart(outcomes: Sequence[Outcome], axes: Axes | None) -> str:
    """One SVG text.

    Args:
        outcomes: Operating points: x is the share of the paid model's cost, y the recovered accuracy.
        axes: The curves on RouteLLM's axes, if the records hold those models.
    """
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<style>{_STYLE}</style>",
        f'<rect class="back" width="{_WIDTH}" height="{_HEIGHT}"/>',
        '<text x="70" y="26" style="font-size:17px;font-weight:600">Quality against cost, replayed</text>',
        '<text class="dim" x="70" y="44">numbered points: share of the cost of the paid model alone, and how much '
        "of its lead over the best free model is kept</text>",
        *_grid(),
        f'<line class="random" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>',
    ]
    if axes is not None:
        parts.append(
            '<text class="dim" x="70" y="62">lines and red points (RouteLLM\'s axes): share of the calls to GPT-4, and '
            "how much of its lead over Mixtral</text>"
        )
        parts.append(f'<polyline class="oracle" points="{_points(axes.oracle)}"/>')
        parts.append(f'<polyline class="curve" points="{_points(axes.ours)}"/>')
        for share, part in zip(axes.published or (), (0.5, 0.8), strict=False):
            parts.append(f'<circle class="theirs" cx="{_x(share)}" cy="{_y(part)}" r="5"/>')
    parts += _operating_points(outcomes)
    parts += _legend(outcomes, axes)
    return "\n".join([*parts, "</svg>", ""])


def _operating_points(outcomes: Sequence[Outcome]) -> list[str]:
    """A numbered point each; where two would cover one another their numbers stand side by side."""
    points: dict[tuple[float, float], list[str]] = {}
    for number, one in enumerate(outcomes, start=1):
        x, y = _x(max(0.0, min(1.0, 1 - one.saving))), _y(_recovered(one))
        near = next((p for p in points if abs(p[0] - x) < 12 and abs(p[1] - y) < 12), (x, y))
        points.setdefault(near, []).append(str(number))
    lines = []
    for (x, y), numbers in points.items():
        lines.append(f'<circle class="ours" cx="{x}" cy="{y}" r="6"/>')
        lines.append(f'<text x="{x + 9}" y="{y + 4}">{", ".join(numbers)}</text>')
    return lines


def _x(share: float) -> float:
    return round(_LEFT + share * _PLOT_W, 1)


def _y(part: float) -> float:
    """-0.2 to 1.4 of the gap, cut off beyond."""
    return round(_TOP + _PLOT_H * (1 - (max(-0.2, min(1.4, part)) + 0.2) / 1.6), 1)


def _recovered(one: Outcome) -> float:
    """The part of the gap between the best free model and the paid one; all or nothing where there is none."""
    gap = one.paid_accuracy - one.best_free_accuracy
    if gap <= 0:
        return float(one.accuracy >= one.paid_accuracy)
    return (one.accuracy - one.best_free_accuracy) / gap


def _points(curve: Curve) -> str:
    recovered = curve.pgr()
    last = len(recovered) - 1
    return " ".join(f"{_x(n / last)},{_y(value)}" for n, value in enumerate(recovered))


def _grid() -> list[str]:
    lines = []
    for n in range(6):
        x, bottom = _x(n / 5), _TOP + _PLOT_H
        lines.append(f'<line class="grid" x1="{x}" y1="{_TOP}" x2="{x}" y2="{bottom}"/>')
        lines.append(f'<text class="dim" x="{x}" y="{bottom + 18}" text-anchor="middle">{n / 5:.0%}</text>')
    for n in range(8):
        y = _y(n / 5)
        lines.append(f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{_LEFT + _PLOT_W}" y2="{y}"/>')
        lines.append(f'<text class="dim" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{n / 5:.0%}</text>')
    lines.append(f'<line class="axis" x1="{_LEFT}" y1="{_TOP}" x2="{_LEFT}" y2="{_TOP + _PLOT_H}"/>')
    lines.append(
        f'<line class="axis" x1="{_LEFT}" y1="{_TOP + _PLOT_H}" x2="{_LEFT + _PLOT_W}" y2="{_TOP + _PLOT_H}"/>'
    )
    return lines


def _legend(outcomes: Sequence[Outcome], axes: Axes | None) -> list[str]:
    x, y = _LEFT + _PLOT_W + 20, _TOP + 10
    rows: list[tuple[str, str]] = []
    for number, one in enumerate(outcomes, start=1):
        rows.append(("ours", f"{number}  {one.scenario}: saves {one.saving:.0%}"))
        rows.append(("", f"    at {one.relative:.1%} of paid accuracy"))
    if axes is not None:
        rows.append(("ours", f"line: by agreement, APGR {axes.ours.apgr:.3f}"))
        rows.append(("", f"    CPT 50 % {axes.ours.cpt(0.5):.0%}, 80 % {axes.ours.cpt(0.8):.0%}"))
        if axes.published is not None:
            rows.append(("theirs", f"RouteLLM's best: APGR {axes.published[2]:.3f}"))
            rows.append(("", f"    CPT 50 % {axes.published[0]:.0%}, 80 % {axes.published[1]:.0%}"))
        rows.append(("oracle-mark", f"dashed: the oracle, APGR {axes.oracle.apgr:.3f}"))
    rows.append(("random-mark", "dotted: random"))
    lines = []
    for n, (mark, text) in enumerate(rows):
        if mark:
            lines.append(f'<circle class="{mark}" cx="{x}" cy="{y + n * 20 - 4}" r="4"/>')
        lines.append(f'<text x="{x + 10}" y="{y + n * 20}">{escape(text)}</text>')
    return lines
