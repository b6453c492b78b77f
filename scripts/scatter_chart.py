"""Predicted against measured values as SVG: a small plot for each way of predicting, readable on light and dark pages."""

import math
from html import escape

SIDE, LEFT, TOP, BOTTOM, GAP = 200, 56, 64, 66, 40

STYLE = """
  .page { fill: #ffffff } .text { fill: #1f2328; font: 13px sans-serif } .title { font-size: 15px; font-weight: 600 }
  .quiet { fill: #59636e } .frame { stroke: #d1d9e0; fill: none } .dot { fill: #0a6ebd; fill-opacity: 0.75 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .text { fill: #e6edf3 } .quiet { fill: #9198a1 } .frame { stroke: #30363d } .dot { fill: #58a6ff }
  }
"""


def spread(values: list[float]) -> tuple[float, float]:
    """The logarithms that an axis spans, with a little room."""
    low, high = math.log(min(values)), math.log(max(values))
    room = 0.06 * (high - low) or 0.1
    return low - room, high + room


def chart(title: str, measured: list[float], plots: list[dict]) -> str:
    """plots: name, predicted (as many as measured), spearman, pearson. Both axes are logarithmic."""
    width = LEFT + len(plots) * (SIDE + GAP)
    height = TOP + SIDE + BOTTOM
    low_y, high_y = spread(measured)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
        f'<text class="text title" x="16" y="26">{escape(title)}</text>',
        f'<text class="text quiet" x="{LEFT - 8}" y="{TOP + 10}" text-anchor="end">{math.exp(high_y):.2g}</text>',
        f'<text class="text quiet" x="{LEFT - 8}" y="{TOP + SIDE}" text-anchor="end">{math.exp(low_y):.2g}</text>',
        f'<text class="text quiet" transform="translate(16 {TOP + SIDE / 2}) rotate(-90)" text-anchor="middle">measured KL divergence</text>',
    ]
    for i, plot in enumerate(plots):
        left = LEFT + i * (SIDE + GAP)
        low_x, high_x = spread(plot["predicted"])
        parts.append(f'<rect class="frame" x="{left}" y="{TOP}" width="{SIDE}" height="{SIDE}"/>')
        parts.append(f'<text class="text" x="{left + SIDE / 2}" y="{TOP - 10}" text-anchor="middle">{escape(plot["name"])}</text>')
        for x, y in zip(plot["predicted"], measured):
            at_x = left + (math.log(x) - low_x) / (high_x - low_x) * SIDE
            at_y = TOP + SIDE - (math.log(y) - low_y) / (high_y - low_y) * SIDE
            parts.append(f'<circle class="dot" cx="{at_x:.1f}" cy="{at_y:.1f}" r="4"/>')
        text = f'Spearman {plot["spearman"]:.2f}, Pearson {plot["pearson"]:.2f}'
        parts += [
            f'<text class="text quiet" x="{left}" y="{TOP + SIDE + 18}">{math.exp(low_x):.2g}</text>',
            f'<text class="text quiet" x="{left + SIDE}" y="{TOP + SIDE + 18}" text-anchor="end">{math.exp(high_x):.2g}</text>',
            f'<text class="text" x="{left + SIDE / 2}" y="{TOP + SIDE + 42}" text-anchor="middle">{text}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
