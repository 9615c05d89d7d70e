"""Plots are SVG drawn from numbers."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from kt_batch.kernels.quadratic import IDENTITY
from kt_batch.report.plots import (
    CURVE_SIDE,
    CURVE_START,
    HEIGHT,
    LETTER,
    MARGIN,
    recall_plot,
    tone_curve,
    trade_off_plot,
)


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


# ---- style against structure ----


def result(name: str, curve: str, style_distance: float, structure: float) -> dict[str, Any]:
    return {"name": name, "curve": curve, "style_distance": style_distance, "structure": structure}


def test_less_style_distance_is_to_the_left_and_more_structure_upwards() -> None:
    svg = trade_off_plot([result("near", "a", 0.2, 0.7), result("far", "b", 0.9, 1.0)])
    (x1, y1), (x2, y2) = [tuple(map(float, found)) for found in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert x1 < x2
    assert y2 < y1  # SVG counts downwards
    assert x1 == MARGIN


def test_strengths_of_one_method_are_joined_in_their_order() -> None:
    rows = [result("all", "a", 0.3, 0.7), result("none", "a", 0.9, 1.0), result("half", "a", 0.5, 0.9)]
    (line,) = re.findall(r'<polyline [^>]*points="([^"]*)"', trade_off_plot([*rows, result("other", "b", 0.4, 0.4)]))
    xs = [float(point.split(",")[0]) for point in line.split()]
    assert len(xs) == 3
    assert xs == sorted(xs)


def test_a_name_of_a_method_cannot_break_the_plot() -> None:
    svg = trade_off_plot([result("<script>", "a", 0.5, 0.5)])
    assert ET.fromstring(svg).tag.endswith("svg")
    assert "<script>" not in svg


# ---- tone curves ----


def curves(svg: str) -> list[list[tuple[float, float]]]:
    """Return the points of the red, the green and the blue line, in [0, 1]."""
    lines = re.findall(r'<polyline points="([^"]+)"', svg)
    places = [[tuple(map(float, point.split(","))) for point in line.split()] for line in lines]
    return [[((x - CURVE_START) / CURVE_SIDE, 1 - (y - CURVE_START) / CURVE_SIDE) for x, y in line] for line in places]


def letters(svg: str) -> list[float]:
    """Return how far down the letters of the lines are, in their order in the plot."""
    return [float(y) for y in re.findall(r'<text x="[^"]+" y="([^"]+)"', svg)]


def test_no_edit_is_the_diagonal_in_every_channel() -> None:
    lines = curves(tone_curve(IDENTITY))
    assert len(lines) == 3
    assert all(abs(x - y) < 1e-3 for line in lines for x, y in line)


def test_each_channel_has_its_own_line() -> None:
    halved = IDENTITY.copy()
    halved[:, 0] /= 2  # red
    halved[0, 2] = 0.25  # blue begins at a quarter and is clipped at white
    red, green, blue = curves(tone_curve(halved))
    assert [round(line[-1][1], 3) for line in (red, green, blue)] == [0.5, 1.0, 1.0]
    assert [round(line[0][1], 3) for line in (red, green, blue)] == [0.0, 0.0, 0.25]


def test_letters_of_lines_that_end_together_do_not_overlap() -> None:
    for ends in (0.0, 1.0):
        places = sorted(letters(tone_curve(np.vstack([np.full((1, 3), ends), np.zeros((9, 3))]))))
        assert np.diff(places).min() >= LETTER
        assert places[-1] <= CURVE_START + CURVE_SIDE + LETTER / 2


def test_a_map_of_any_numbers_is_drawn_within_the_plot() -> None:
    for value in (1e300, -1e300):
        for line in curves(tone_curve(np.full((10, 3), value))):
            assert all(-1e-3 <= y <= 1 + 1e-3 for _, y in line)
