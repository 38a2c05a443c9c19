"""The ratios of time as a picture: a line from the least to the most of all rounds, a dot at the median."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from html import escape

from ratios import Compared, compared, number
from results import Section

WIDTH, LEFT, RIGHT, ROW, HEADING = 880, 360, 70, 18, 26
STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #1f2933; }
.run { font-weight: 600; } .case, .mark { fill: #52606d; } .grid { stroke: #d5dbe1; } .one { stroke: #1f2933; }
.less { stroke: #0b7285; fill: #0b7285; } .more { stroke: #b8560f; fill: #b8560f; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #14181d; } text { fill: #e4e7eb; } .case, .mark { fill: #9aa5b1; } .grid { stroke: #323f4b; }
  .one { stroke: #e4e7eb; } .less { stroke: #4cc3d9; fill: #4cc3d9; } .more { stroke: #f0a35e; fill: #f0a35e; }
}
@media (prefers-color-scheme: light) { .ground { fill: #ffffff; } }
"""


def picture(every: list[Section], titles: Mapping[str, str]) -> str:
    found = [each for section in every for each in compared(section, titles) if each.ratios["time"]]
    values = [value for each in found for value in each.ratios["time"]] or [1.0]
    low, high = math.floor(math.log2(min(*values, 0.5))), math.ceil(math.log2(max(*values, 2.0)))

    def x(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (math.log2(value) - low) / (high - low), 1)

    lines, y = list[str](), 44
    seen: tuple[str, str] = ("", "")
    for each in found:
        if each.section.title != seen[0]:
            y += HEADING
            lines.append(f'<text class="run" x="8" y="{y - 6}">{escape(each.section.title)}</text>')
        if (each.section.title, each.case) != seen:
            y += HEADING - 6
            lines.append(f'<text class="case" x="16" y="{y - 4}">{escape(titles[each.case])}</text>')
        seen = (each.section.title, each.case)
        lines += _row(each, y, x)
        y += ROW
    height = y + 12
    steps = range(low, high + 1, max(1, (high - low) // 10))
    grid = [_mark(2.0**step, x(2.0**step), height) for step in steps]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
            'role="img" aria-label="Seconds of each tool against those of Icecore">',
            f"<style>\n{STYLE}</style>",
            f'<rect class="ground" width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            '<text x="8" y="18">Seconds by Icecore’s: right of 1 Icecore is quicker, left of it the other</text>',
            *grid,
            *lines,
            "</svg>\n",
        ]
    )


def _row(each: Compared, y: int, x: Callable[[float], float]) -> list[str]:
    values = each.ratios["time"]
    middle = statistics.median(values)
    kind = "less" if middle >= 1 else "more"
    at = y + ROW // 2
    return [
        f'<text x="28" y="{at + 4}">{escape(each.tool)}</text>',
        f'<line class="{kind}" x1="{x(min(values))}" y1="{at}" x2="{x(max(values))}" y2="{at}" stroke-width="3"/>',
        f'<circle class="{kind}" cx="{x(middle)}" cy="{at}" r="4.5"/>',
        f'<text x="{WIDTH - 8}" y="{at + 4}" text-anchor="end">{number(middle)}</text>',
    ]


def _mark(value: float, x: float, height: int) -> str:
    kind, told = "one" if value == 1 else "grid", number(value) if value >= 1 else f"1/{1 / value:.0f}"
    line = f'<line class="{kind}" x1="{x}" y1="44" x2="{x}" y2="{height - 6}"/>'
    return f'{line}<text class="mark" x="{x}" y="38" text-anchor="middle">{told}</text>'
