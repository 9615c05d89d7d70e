"""Plots are SVG drawn from numbers."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree as ET

from kt_batch.report.plots import HEIGHT, MARGIN, recall_plot


def row(searcher: str, recall: float, speed: float) -> dict[str, Any]:
    return {"searcher": searcher, "setting": 1, "recall": recall, "queries_per_second": speed}


def test_speed_increases_upwards_and_recall_to_the_right() -> None:
    svg = recall_plot("title", [row("tree", 0.5, 1000), row("tree", 1.0, 10)])
    (x1, y1), (x2, y2) = [tuple(map(float, found)) for found in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert x1 < x2
    assert y1 < y2  # SVG counts downwards
    assert y2 == HEIGHT - MARGIN  # the slowest is on the axis


def test_a_name_cannot_break_the_plot() -> None:
    svg = recall_plot("<script>", [row('"><script>', 0.9, 100), row("tree", 0.8, 100)])
    assert ET.fromstring(svg).tag.endswith("svg")
    assert "<script>" not in svg


def test_a_single_point_is_drawn() -> None:
    assert recall_plot("title", [row("exact", 1.0, 355)]).count("<circle") == 1
