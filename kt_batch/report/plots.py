"""Plots as SVG, drawn from figures alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

COLOURS = (
    "#aab7b8", "#85929e", "#5d6d7e", "#283747", "#935116", "#c0392b", "#e67e22", "#b7950b", "#2471a3", "#148f77",
    "#239b56", "#7d3c98", "#d2529a",
)  # fmt: skip
WIDTH, HEIGHT, MARGIN = 720, 460, 64


def recall_plot(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Recall (x) against queries a second (y, logarithmic) of every searcher with more than no setting, as an SVG.

    rows: mappings with searcher, setting, recall, queries_per_second.
    """
    names = list(dict.fromkeys(row["searcher"] for row in rows))
    speeds = [math.log10(row["queries_per_second"]) for row in rows]
    low, high = math.floor(min(speeds)), math.ceil(max(speeds))
    least = math.floor(min(row["recall"] for row in rows) * 10) / 10

    def place(row: Mapping[str, Any]) -> tuple[float, float]:
        x = MARGIN + (row["recall"] - least) / max(1e-9, 1 - least) * (WIDTH - 2.6 * MARGIN)
        share = (math.log10(row["queries_per_second"]) - low) / max(1, high - low)
        return round(x, 1), round(HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN), 1)

    lines = []
    for number, name in enumerate(names):
        points = sorted((place(row), row["setting"]) for row in rows if row["searcher"] == name)
        lines.append({"name": name, "colour": COLOURS[number % len(COLOURS)], "points": points})
    steps = 5
    shares = [i / steps for i in range(steps + 1)]
    x_ticks = [(MARGIN + share * (WIDTH - 2.6 * MARGIN), f"{least + share * (1 - least):.2f}") for share in shares]
    y_ticks = [
        (HEIGHT - MARGIN - i / max(1, high - low) * (HEIGHT - 2 * MARGIN), f"{10 ** (low + i):,}")
        for i in range(high - low + 1)
    ]
    templates = Environment(loader=PackageLoader("kt_batch.report"), autoescape=True, undefined=StrictUndefined)
    return templates.get_template("recall.svg.j2").render(
        title=title, lines=lines, x_ticks=x_ticks, y_ticks=y_ticks, width=WIDTH, height=HEIGHT, margin=MARGIN
    )
