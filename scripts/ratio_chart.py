"""A bar chart of ratios as SVG, readable on light and dark pages, with no library."""

from html import escape

WIDTH, LABELS, BAR, GAP, TOP, BOTTOM = 860, 330, 16, 6, 58, 52

STYLE = """
  .page { fill: #ffffff } .text { fill: #1f2328; font: 13px sans-serif } .title { font-size: 15px; font-weight: 600 }
  .quiet { fill: #59636e } .grid { stroke: #d1d9e0 } .one { stroke: #1f2328; stroke-width: 1.5 }
  .bar { fill: #0a6ebd } .void { fill: #8c959f } .spread { stroke: #1f2328; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .text { fill: #e6edf3 } .quiet { fill: #9198a1 } .grid { stroke: #30363d }
    .one { stroke: #e6edf3 } .bar { fill: #58a6ff } .void { fill: #6e7681 } .spread { stroke: #e6edf3 }
  }
"""


def steps(most: float) -> list[float]:
    """Round numbers from 0 to just beyond the largest."""
    step = next(s for s in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100) if most / s <= 8 or s == 100)
    n = int(most / step) + 1
    return [step * i for i in range(n + 1)]


def chart(title: str, bars: list[dict]) -> str:
    """bars: label, ratio, low, high, counts (False: drawn grey)."""
    ticks = steps(max(1.0, *(bar["high"] for bar in bars)))
    height = TOP + len(bars) * (BAR + GAP) + BOTTOM
    right = 60  # for the number behind the longest bar

    def x(ratio: float) -> float:
        return LABELS + ratio / ticks[-1] * (WIDTH - LABELS - right)

    floor = height - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}"/>',
        f'<text class="text title" x="16" y="26">{escape(title)}</text>',
    ]
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP - 8}" y2="{floor}"/>')
        parts.append(f'<text class="text quiet" x="{x(tick):.1f}" y="{floor + 18}" text-anchor="middle">{tick:g}</text>')
    for i, bar in enumerate(bars):
        y = TOP + i * (BAR + GAP)
        middle = y + BAR / 2
        kind = "bar" if bar["counts"] else "void"
        parts += [
            f'<text class="text" x="{LABELS - 10}" y="{middle + 4.5:.1f}" text-anchor="end">{escape(bar["label"])}</text>',
            f'<rect class="{kind}" x="{x(0):.1f}" y="{y}" width="{x(bar["ratio"]) - x(0):.1f}" height="{BAR}" rx="2"/>',
            f'<line class="spread" x1="{x(bar["low"]):.1f}" x2="{x(bar["high"]):.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>',
            f'<text class="text" x="{x(bar["high"]) + 8:.1f}" y="{middle + 4.5:.1f}">{bar["ratio"]:.2f}</text>',
        ]
    parts.append(f'<line class="one" x1="{x(1):.1f}" x2="{x(1):.1f}" y1="{TOP - 8}" y2="{floor}"/>')
    legend = "speed of lowbit over llama.cpp's; 1 = equal; thin line: range of the pairs"
    if not all(bar["counts"] for bar in bars):
        legend += "; grey: does not count"
    parts.append(f'<text class="text quiet" x="{(LABELS + WIDTH - right) / 2:.0f}" y="{floor + 40}" text-anchor="middle">{legend}</text>')
    return "\n".join([*parts, "</svg>", ""])
