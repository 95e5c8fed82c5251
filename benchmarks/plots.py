"""Bar charts as SVG, drawn by hand: a median for each subject, whiskers from lowest to highest."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _LABEL, _VALUE = 760, 220, 90
_ROW, _BAR, _HEAD, _FOOT = 30, 18, 44, 12

# Readable on white and on black: the page that shows it tells which.
_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.unit { fill: #57606a }
.bar { fill: #b3bac2 }
.ours { fill: #1f6feb }
.whisker { stroke: #24292f; stroke-width: 1.2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .unit { fill: #9198a1 }
  .bar { fill: #4b545e }
  .whisker { stroke: #e6edf3 }
}"""


def bars(
    title: str,
    unit: str,
    measured: Mapping[str, Sequence[float]],
    *,
    ours: str = "",
    largest_first: bool = True,
) -> str:
    """Return a chart of *measured*; the bar of *ours* stands out."""
    rows = list(measured.items())
    if largest_first:
        rows.sort(key=lambda item: -statistics.median(item[1]))
    height = _HEAD + _ROW * len(rows) + _FOOT
    scale = (_WIDTH - _LABEL - _VALUE) / max(max(values) for _, values in rows)
    said = "; ".join(f"{name} {statistics.median(values):,.0f}" for name, values in rows)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            f'width="{_WIDTH}" height="{height}" role="img">'
        ),
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(f'{unit}: {said}')}</desc>",
        f"<style>{_STYLE}</style>",
        (
            f'<text class="title" x="0" y="18">{escape(title)}'
            f'<tspan class="unit" dx="8" font-weight="400">{escape(unit)}</tspan></text>'
        ),
    ]
    for number, (name, values) in enumerate(rows):
        top = _HEAD + number * _ROW
        middle = top + _BAR / 2
        length = max(1.0, statistics.median(values) * scale)
        median = statistics.median(values)
        low, high = _LABEL + min(values) * scale, _LABEL + max(values) * scale
        kind = "bar ours" if name == ours else "bar"
        parts += [
            f'<text x="{_LABEL - 8}" y="{middle + 5:.0f}" text-anchor="end">{escape(name)}</text>',
            (
                f'<rect class="{kind}" x="{_LABEL}" y="{top}" width="{length:.1f}" '
                f'height="{_BAR}" rx="2"/>'
            ),
        ]
        if high > low:
            parts.append(
                f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}'
                f'M{low:.1f} {middle - 4}V{middle + 4}M{high:.1f} {middle - 4}V{middle + 4}"/>'
            )
        end = max(high, _LABEL + length)
        parts.append(f'<text x="{end + 8:.1f}" y="{middle + 5:.0f}">{median:,.0f}</text>')
    return "\n".join([*parts, "</svg>", ""])
