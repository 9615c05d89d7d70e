"""A pair is one picture before and after an edit of its tones."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kt_batch.kernels.alignment import align, phase_shift, structure

Pixels = NDArray[np.float32]
SIZE = (240, 160)


def scene(seed: int = 3) -> Image.Image:
    """Return a picture with detail of every scale, 240 x 160."""
    random = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(random.random((SIZE[1] // step, SIZE[0] // step, 3), np.float32)[..., 0]).resize(SIZE)
        )
        for step in (2, 5, 16, 40)
    ]
    values = sum(layers) / len(layers)
    return Image.fromarray((np.stack([values, values**1.2, values**0.8], -1) * 255).astype(np.uint8))


def pixels(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB").resize(SIZE), np.float32) / np.float32(255)


def edited(image: Image.Image) -> Image.Image:
    """Brighten, raise the contrast and warm a picture: what an edit does."""
    values = np.asarray(image, np.float64) / 255
    warmer = np.clip(values**0.6 * np.array([1.1, 1.0, 0.85]), 0, 1)
    return Image.fromarray((warmer * 255).astype(np.uint8))


def test_an_edit_of_tones_leaves_a_picture_aligned() -> None:
    found = align(pixels(scene()), pixels(edited(scene())))
    assert (found.one_picture, found.aligned, found.blocks) == (True, True, 9)
    assert set(found.shifts) == {0}
    assert found.likeness > 0.9


def test_a_black_and_white_edit_is_of_the_same_picture() -> None:
    found = align(pixels(scene()), pixels(scene().convert("L")))
    assert found.one_picture
    assert found.aligned


@pytest.mark.parametrize("shift", [-7, 3, 5])
def test_a_shift_is_found_in_every_block_and_refused_above_two_pixels(shift: int) -> None:
    moved = edited(scene()).transform(SIZE, Image.Transform.AFFINE, (1, 0, shift, 0, 1, 0))
    found = align(pixels(scene()), pixels(moved))
    assert found.one_picture
    assert not found.aligned
    assert found.shifts.count(abs(shift)) >= 6


def test_a_shift_of_one_pixel_is_allowed() -> None:
    moved = edited(scene()).transform(SIZE, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0))
    assert align(pixels(scene()), pixels(moved)).aligned


def test_a_cropped_picture_is_refused() -> None:
    found = align(pixels(scene()), pixels(edited(scene()).crop((12, 8, 228, 152))))
    assert not (found.one_picture and found.aligned)


def test_a_picture_turned_by_two_degrees_is_refused() -> None:
    found = align(pixels(scene()), pixels(edited(scene()).rotate(2, Image.Resampling.BICUBIC)))
    assert not (found.one_picture and found.aligned)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(scene(4), id="another picture"),
        pytest.param(scene().transpose(Image.Transpose.FLIP_LEFT_RIGHT), id="mirrored"),
        pytest.param(scene().rotate(180), id="upside down"),
        pytest.param(Image.fromarray(255 - np.asarray(scene())), id="negative"),
    ],
)
def test_what_is_not_the_same_picture_is_told_apart(other: Image.Image) -> None:
    assert not align(pixels(scene()), pixels(other)).one_picture


def test_pictures_without_detail_cannot_be_told_apart() -> None:
    grey = np.full((60, 90, 3), 0.5, np.float32)
    found = align(grey, grey * np.float32(0.5))
    assert (found.likeness, found.blocks, found.one_picture, found.aligned) == (1.0, 0, True, True)


def test_pictures_of_one_or_two_pixels_are_compared_without_an_error() -> None:
    for shape in ((1, 1, 3), (1, 300, 3), (2, 2, 3)):
        one = np.random.default_rng(0).random(shape).astype(np.float32)
        assert align(one, one).one_picture


def test_the_phase_shift_of_a_moved_dot_is_how_far_it_moved() -> None:
    one, other = np.zeros((32, 48)), np.zeros((32, 48))
    one[14:17, 20:23], other[11:14, 25:28] = 1.0, 1.0
    assert phase_shift(one, other) == (-3, 5)


def test_structure_does_not_depend_on_brightness_and_contrast() -> None:
    picture = pixels(scene())
    strong = structure(picture)
    assert np.corrcoef(strong.ravel(), structure(picture * np.float32(0.5) + np.float32(0.2)).ravel())[0, 1] > 0.98
