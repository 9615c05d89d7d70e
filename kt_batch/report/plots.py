"""Draw plots as SVG from figures alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kt_batch.kernels.quadratic import reference_map
from kt_batch.report.rendering import new_environment

COLOURS = (
    "#aab7b8", "#85929e", "#5d6d7e", "#283747", "#935116", "#c0392b", "#e67e22", "#b7950b", "#2471a3", "#148f77",
    "#5dade2", "#7d3c98", "#d2529a", "#1b4f72", "#6e2c00", "#17202a",
)  # fmt: skip
WIDTH, HEIGHT, MARGIN = 720, 460, 64
RECALL_PLOT_START = (  # with which every plot of `recall_plot` begins
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
).encode()
DAY = 86400.0
CLOCK_STEPS = (30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 21600.0, 43200.0, DAY)
STRIP_WIDTH, STRIP_HEIGHT = 1000, 220  # of a plot inside a page
CURVE_START, CURVE_SIDE, CURVE_STEPS = 10, 200, 64  # of a tone curve: first coordinate, length of both axes, steps
LETTER = 13  # units from one line's letter to the next, at least
CHANNELS = (("R", "red", "#cf3a2c"), ("G", "green", "#2f8f46"), ("B", "blue", "#2f6fc4"))


def recall_plot(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Plot recall (x) against queries per second (y, logarithmic) as SVG.

    Each searcher has a line.

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
    return _render(
        "recall.svg.j2",
        title=title, lines=lines, x_ticks=x_ticks, y_ticks=y_ticks, width=WIDTH, height=HEIGHT, margin=MARGIN,
    )  # fmt: skip


def trade_off_plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Plot style distance (x) against structure (y) as SVG; the upper left corner is best.

    Each row is a point. Rows of one curve are joined in the order of their style distance.

    rows: mappings with name, curve, style_distance, structure.
    """
    xs, ys = ([row[key] for row in rows] for key in ("style_distance", "structure"))
    left, right = math.floor(min(xs) * 10) / 10, math.ceil(max(xs) * 10) / 10
    low, high = math.floor(min(ys) * 10) / 10, math.ceil(max(ys) * 10) / 10
    across, down = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(MARGIN + (x - left) / max(1e-9, right - left) * across, 1),
            round(HEIGHT - MARGIN - (y - low) / max(1e-9, high - low) * down, 1),
        )

    lines = []
    for number, curve in enumerate(dict.fromkeys(row["curve"] for row in rows)):
        own = sorted((row for row in rows if row["curve"] == curve), key=lambda row: row["style_distance"])
        points = [(place(row["style_distance"], row["structure"]), row["name"]) for row in own]
        lines.append({"colour": COLOURS[(number + 3) % len(COLOURS)], "points": points})
    x_ticks = [(place(value, low)[0], f"{value:.1f}") for value in _tenths(left, right)]
    y_ticks = [(place(left, value)[1], f"{value:.1f}") for value in _tenths(low, high)]
    return _render(
        "trade_off.svg.j2",
        lines=lines, x_ticks=x_ticks, y_ticks=y_ticks, width=WIDTH, height=HEIGHT, margin=MARGIN,
    )  # fmt: skip


def _tenths(low: float, high: float) -> list[float]:
    return [number / 10 for number in range(round(low * 10), round(high * 10) + 1)]


def throughput_plot(
    rates: Sequence[float], seconds: float, marks: Sequence[tuple[float, str]], label: Callable[[float], str]
) -> str:
    """Plot images per second (y) over working time (x) as a step function, in SVG.

    The page that holds it defines the colours `--accent`, `--edge` and `--soft`.

    Args:
        rates: images per second in equal steps of time.
        seconds: the whole working time.
        marks: (second, text) of broken vertical lines.
        label: formats a number of seconds.
    """
    highest = max(*rates, 1e-9)
    unit = 10 ** math.floor(math.log10(highest))
    top = next(unit * factor for factor in (1, 2, 4, 5, 8, 10, 20) if unit * factor >= highest)
    left, right, floor, ceiling = 52, STRIP_WIDTH - 12, STRIP_HEIGHT - 28, 16
    xs = [left + number / len(rates) * (right - left) for number in range(len(rates) + 1)]
    ys = [floor - rate / top * (floor - ceiling) for rate in rates]
    points = [f"{x:.1f},{y:.1f}" for number, y in enumerate(ys) for x in (xs[number], xs[number + 1])]
    return _render(
        "throughput.svg.j2",
        points=points,
        x_ticks=[(left + at / seconds * (right - left), label(at)) for at in round_times(seconds)],
        y_ticks=[(floor - share / 4 * (floor - ceiling), f"{top * share / 4:.4g}") for share in range(5)],
        marks=[(left + at / seconds * (right - left), text) for at, text in marks],
        left=left, right=right, floor=floor, ceiling=ceiling, width=STRIP_WIDTH, height=STRIP_HEIGHT,
    )  # fmt: skip


def tone_curve(coefficients: NDArray[np.float64]) -> str:
    """Plot what a colour map makes of greys as SVG: one line for each channel, and a broken one for no edit.

    The page that holds it defines the colours `--edge` and `--soft`.

    coefficients: `(10, 3)`, as for `reference_map`.
    """
    greys = np.linspace(0.0, 1.0, CURVE_STEPS + 1)
    with np.errstate(over="ignore", invalid="ignore"):  # a file of strangers may hold any finite numbers
        mapped = np.nan_to_num(reference_map(np.stack([greys] * 3, axis=1), coefficients))
    low, side = CURVE_START, CURVE_SIDE

    def place(grey: float, value: float) -> str:
        return f"{low + grey * side:.1f},{low + (1 - value) * side:.1f}"

    ends = [low + (1 - value) * side for value in mapped[-1]]
    lines = [
        {
            "letter": letter, "name": name, "colour": colour, "at": at,
            "points": [place(*pair) for pair in zip(greys, values, strict=True)],
        }
        for (letter, name, colour), values, at in zip(CHANNELS, mapped.T, _apart(ends, low + side), strict=True)
    ]  # fmt: skip
    return _render("tone_curve.svg.j2", lines=lines, low=low, high=low + side)


def _apart(places: Sequence[float], last: float) -> list[float]:
    """Move letters apart, downwards in the order of their places, none of them below `last`."""
    order = sorted(range(len(places)), key=lambda number: places[number])
    moved, free = list(places), -math.inf
    for number in order:
        moved[number] = max(places[number], free)
        free = moved[number] + LETTER
    for number in reversed(order):
        moved[number] = min(moved[number], last)
        last = moved[number] - LETTER
    return moved


def round_times(seconds: float) -> list[float]:
    """Return two to five equidistant round times within (0, seconds]."""
    power = 10 ** math.floor(math.log10(max(seconds, 1e-6)))
    steps = [power * factor for factor in (0.2, 0.5, 1, 2)] if seconds < 120 else CLOCK_STEPS
    step = next((step for step in steps if seconds <= 5.5 * step), math.ceil(seconds / 5 / DAY) * DAY)
    return [step * number for number in range(1, int(seconds / step * (1 + 1e-9)) + 1)]


def _render(template: str, **values: Any) -> str:
    return new_environment().get_template(template).render(**values)
