"""Paint the demo's canvases by a seeded script: brush strokes along a flow field.

A scene gives the colour and the direction of paint at every point. Strokes, from broad to fine, follow the direction;
each has bristles a little lighter and darker than its paint.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIDE = 512  # pixels
Colour = tuple[float, float, float]  # RGB in [0, 255]
Scene = Callable[[float, float], tuple[Colour, float]]  # a point of the unit square -> paint and direction (radians)


@dataclass(frozen=True)
class Brush:
    """One pass over the canvas: number of strokes, width and length in pixels, deviation of the colour (0 to 255)."""

    strokes: int
    width: float
    length: float
    stray: float


def paint(scene: Scene, ground: Colour, brushes: tuple[Brush, ...], seed: int) -> Image.Image:
    """Paint a canvas of SIDE x SIDE pixels."""
    random = np.random.default_rng(seed)
    canvas = Image.new("RGB", (SIDE * 2, SIDE * 2), _byte(ground))
    draw = ImageDraw.Draw(canvas)
    for brush in brushes:
        for x, y in random.uniform(-0.02, 1.02, (brush.strokes, 2)):
            _stroke(draw, scene, brush, float(x), float(y), random)
    return canvas.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _stroke(
    draw: ImageDraw.ImageDraw, scene: Scene, brush: Brush, x: float, y: float, random: np.random.Generator
) -> None:
    colour, _ = scene(x, y)
    paint_colour = tuple(channel + random.normal(0, brush.stray) for channel in colour)
    path = _path(scene, x, y, brush.length * random.uniform(0.6, 1.4))
    width = brush.width * random.uniform(0.7, 1.3)
    draw.line(path, fill=_byte(paint_colour), width=max(1, round(2 * width)), joint="curve")
    for offset in np.linspace(-0.4, 0.4, max(2, round(width / 2))):
        shade = random.normal(0, 14)
        bristle = [(px + 2 * width * offset * 0.7, py + 2 * width * offset) for px, py in path]
        draw.line(bristle, fill=_byte(tuple(channel + shade for channel in paint_colour)), width=2)


def _path(scene: Scene, x: float, y: float, length: float) -> list[tuple[float, float]]:
    """Return a polyline of about `length` pixels along the flow field, in coordinates of a canvas of twice SIDE."""
    points = [(x, y)]
    for _ in range(4):
        _, angle = scene(x, y)
        x, y = x + length / 4 / SIDE * math.cos(angle), y + length / 4 / SIDE * math.sin(angle)
        points.append((x, y))
    return [(2 * SIDE * px, 2 * SIDE * py) for px, py in points]


def _byte(colour: tuple[float, ...]) -> tuple[int, int, int]:
    red, green, blue = (round(min(255.0, max(0.0, channel))) for channel in colour[:3])
    return red, green, blue


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    share = min(1.0, max(0.0, share))
    return tuple(a + (b - a) * share for a, b in zip(one, other, strict=True))  # type: ignore[return-value]


def night(x: float, y: float) -> tuple[Colour, float]:
    """Scene: whirls of blue around yellow lights, above a dark village."""
    lights = ((0.22, 0.2, 0.09), (0.55, 0.32, 0.13), (0.84, 0.16, 0.1), (0.4, 0.08, 0.05))
    angle = 0.5 * math.sin(5 * x) + 0.4 * math.cos(7 * y)
    colour = _mix((24, 42, 110), (92, 142, 205), 0.5 + 0.5 * math.sin(13 * y + 5 * math.sin(6 * x)))
    for cx, cy, radius in lights:
        distance = math.hypot(x - cx, y - cy)
        if distance < 2.2 * radius:
            angle = math.atan2(y - cy, x - cx) + math.pi / 2
            colour = _mix((250, 214, 92), colour, distance / (2.2 * radius))
    ridge = 0.68 + 0.06 * math.sin(7 * x) + 0.03 * math.sin(19 * x)
    if y > ridge:
        window = math.sin(37 * x) > 0.86 and math.sin(61 * y) > 0.5
        colour = (246, 190, 70) if window else _mix((14, 34, 44), (40, 84, 70), (y - ridge) * 2.4)
        angle = 0.35 * math.sin(9 * x) + (math.pi / 2 if math.sin(23 * x) > 0.6 else 0)
    return colour, angle


def harvest(x: float, y: float) -> tuple[Colour, float]:
    """Scene: ochre fields in rows, a pale sky, dark trees with contours."""
    horizon = 0.38 + 0.04 * math.sin(4 * x)
    for cx, size in ((0.16, 0.13), (0.71, 0.17), (0.9, 0.1)):
        crown = math.hypot((x - cx) / size, (y - horizon) / (1.25 * size))
        if crown < 1:
            edge = (
                (30, 26, 22) if crown > 0.86 else _mix((150, 132, 40), (42, 74, 40), 0.5 + 0.5 * math.sin(40 * crown))
            )
            return edge, math.atan2(y - horizon, x - cx) + math.pi / 2
    if y < horizon:
        return _mix((226, 214, 178), (118, 168, 186), (horizon - y) * 2.6), 0.25 * math.sin(8 * x + 9 * y)
    row = math.sin(46 * (x - 0.5) / (0.25 + y - horizon) * 0.22)
    return _mix((232, 176, 52), (150, 74, 26), 0.5 + 0.5 * row), math.pi / 2 + 0.9 * (x - 0.5)


def poppies(x: float, y: float) -> tuple[Colour, float]:
    """Scene: touches of red and white on greens and violets, small marks in all directions."""
    wave = math.sin(17 * x + 3 * math.sin(11 * y)) * math.cos(15 * y + 2 * math.sin(9 * x))
    if wave > 0.72:
        return (206, 46, 40), 6 * wave
    if wave < -0.8:
        return (244, 236, 226), 3 * wave
    meadow = _mix((56, 104, 52), (140, 170, 84), 0.5 + 0.5 * math.sin(31 * x * y + 4 * x))
    return _mix(meadow, (128, 96, 168), 0.9 * (0.5 - y)), 9 * math.sin(3 * x + 5 * y)


def ink(x: float, y: float) -> tuple[Colour, float]:
    """Scene: grey washes and black contours on warm paper."""
    for depth in (0.3, 0.48, 0.66, 0.84):
        ridge = depth + 0.12 * math.sin(4.2 * x + 9 * depth) + 0.03 * math.sin(17 * x + 31 * depth)
        if 0 <= y - ridge < 0.016:
            return (22, 20, 20), math.atan(0.5 * math.cos(4.2 * x + 9 * depth))
        if 0 <= y - ridge < 0.14:
            return _mix((86, 84, 84), (232, 224, 206), (y - ridge) / 0.14), math.pi / 2 + 0.4 * math.sin(20 * x)
    return (236, 229, 212), 0.1


CANVASES: dict[str, tuple[Scene, Colour, tuple[Brush, ...]]] = {
    "night": (night, (20, 36, 90), (Brush(2600, 11, 46, 16), Brush(6000, 5, 30, 20))),
    "harvest": (harvest, (190, 140, 60), (Brush(2600, 10, 40, 14), Brush(6500, 4.5, 26, 18))),
    "poppies": (poppies, (90, 120, 70), (Brush(3000, 9, 18, 18), Brush(9000, 5, 9, 24))),
    "ink": (ink, (236, 229, 212), (Brush(2200, 9, 44, 6), Brush(5000, 3, 34, 9))),
}


def canvas(name: str) -> Image.Image:
    """Paint one of CANVASES; the pixels are the same every time."""
    scene, ground, brushes = CANVASES[name]
    return paint(scene, ground, brushes, seed=sorted(CANVASES).index(name))
