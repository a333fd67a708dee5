"""Draw the success rates of a run, with their intervals, as an SVG: ``python docs/figures/results.py RUN OUT.svg``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

_LEFT, _WIDTH, _ROW, _TOP = 190, 480, 16, 44
_COLOURS = ("#7f8c99", "#c98a1b", "#8e5bc0", "#1f77d0", "#2a9d6f", "#c0392b", "#555555")
_STYLE = """<style>text { fill: #14202c } .grid { stroke: #d5dce3 } .note { fill: #50606f }
@media (prefers-color-scheme: dark) { text { fill: #eef3f8 } .grid { stroke: #38444f } .note { fill: #a8b6c4 } }
</style>"""


def draw(summary: dict[str, Any]) -> str:
    """Return the SVG of a `summary.json`: one group of rows per task, one row per condition."""
    conditions: dict[str, Any] = summary["conditions"]
    tasks = list(next(iter(conditions.values()))["tasks"])
    group = _ROW * len(conditions) + 14
    height = _TOP + group * (len(tasks) + 1) + 30
    body = [*_legend(list(conditions)), *_grid(height)]
    for i, task in enumerate([*tasks, "all tasks"]):
        top = _TOP + i * group
        body.append(f'<text x="{_LEFT - 12}" y="{top + group / 2}" text-anchor="end">{escape(task)}</text>')
        for j, condition in enumerate(conditions.values()):
            rate = condition if task == "all tasks" else condition["tasks"][task]
            body.extend(_row(rate, top + 10 + j * _ROW, _COLOURS[j % len(_COLOURS)]))
    size = f'viewBox="0 0 {_LEFT + _WIDTH + 70} {height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif" font-size="13">',
            _STYLE,
            *body,
            "</svg>\n",
        ]
    )


def _x(rate: float) -> float:
    return round(_LEFT + _WIDTH * rate, 1)


def _row(rate: dict[str, Any], y: float, colour: str) -> Iterator[str]:
    """A point with its interval, and its number beside it."""
    if rate["rate"] is None:
        return
    low, high = rate["interval"]
    yield f'<path d="M{_x(low)} {y}H{_x(high)}" stroke="{colour}" stroke-width="3" opacity=".45"/>'
    yield f'<circle cx="{_x(rate["rate"])}" cy="{y}" r="4.5" fill="{colour}"/>'
    text = f"{100 * rate['rate']:.1f} %"
    yield f'<text class="note" x="{_LEFT + _WIDTH + 12}" y="{y + 4}" font-size="11">{text}</text>'


def _legend(names: list[str]) -> Iterator[str]:
    x = float(_LEFT)
    for name, colour in zip(names, _COLOURS, strict=False):
        yield f'<circle cx="{x + 5}" cy="16" r="5" fill="{colour}"/><text x="{x + 15}" y="21">{escape(name)}</text>'
        x += 40 + 7.5 * len(name)


def _grid(height: int) -> Iterator[str]:
    for percent in range(0, 101, 20):
        x = _x(percent / 100)
        yield f'<path class="grid" d="M{x} {_TOP - 8}V{height - 26}"/>'
        yield f'<text class="note" x="{x}" y="{height - 10}" text-anchor="middle" font-size="11">{percent} %</text>'


if __name__ == "__main__":
    run, out = map(Path, sys.argv[1:])
    out.write_text(draw(json.loads((run / "summary.json").read_text(encoding="utf-8"))), encoding="utf-8")
