"""The seeded script that paints the canvases of the demo."""

from __future__ import annotations

import numpy as np
import pytest

from kt_batch.demo import canvases as demo_canvases
from kt_batch.demo.canvases import CANVASES, Brush, paint

FEW = (Brush(60, 8, 30, 12),)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_canvases, "SIDE", 64)


@pytest.mark.parametrize("name", sorted(CANVASES))
@pytest.mark.usefixtures("small")
def test_equal_seeds_paint_equal_pixels_and_different_seeds_differ(name: str) -> None:
    scene, ground, _ = CANVASES[name]
    first = np.asarray(paint(scene, ground, FEW, seed=1))
    assert first.shape == (64, 64, 3)
    assert np.array_equal(first, np.asarray(paint(scene, ground, FEW, seed=1)))
    assert not np.array_equal(first, np.asarray(paint(scene, ground, FEW, seed=2)))


@pytest.mark.usefixtures("small")
def test_a_canvas_without_strokes_shows_its_ground() -> None:
    scene, _, _ = CANVASES["ink"]
    assert np.unique(np.asarray(paint(scene, (10, 200, 30), (), seed=0)).reshape(-1, 3), axis=0).tolist() == [
        [10, 200, 30]
    ]
