"""The size of strokes: paintings in another size, and matches told in their own."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kt_batch.index.ids import unpack_ids
from kt_batch.kernels.neighbour_field import Field
from kt_batch.methods.base import LevelProvenance
from kt_batch.methods.painting.gallery import Sources
from kt_batch.methods.painting.levels import LAST, encode_photograph
from kt_batch.methods.painting.method import PaintingConfig
from kt_batch.methods.painting.strokes import relocated, resized
from tests.methods.painting.test_painting import (
    ENCODER,
    LIBRARY,
    LOADED,
    PHOTOGRAPH,
    RED,
    SIZE,
    painter,
)


def lined(width: int) -> Tensor:
    """Return a picture `(3, SIZE, SIZE)` of black and white lines of a width."""
    light = (torch.arange(SIZE) // width % 2).float()
    return light.expand(3, SIZE, SIZE).contiguous()


def field(source: list[int], row: list[int], col: list[int]) -> Field:
    return Field(*(torch.tensor([values]) for values in (source, row, col)))


@pytest.mark.parametrize(
    ("size", "stroke", "expected"),
    [
        ((64, 96), 2.0, (128, 192)),
        ((512, 384), 0.5, (256, 192)),
        ((512, 384), 4.0, (1024, 768)),  # no longer than 1024
        ((96, 64), 0.25, (64, 40)),  # no shorter than 64: 64 * 2/3 is 42.7, and 5 steps of 8 are nearest
        ((1200, 800), 2.0, (1200, 800)),  # longer already
        ((48, 40), 0.25, (48, 40)),  # shorter already
        ((512, 32), 0.25, (128, 16)),  # two cells of the coarsest level hold one patch
    ],
)
def test_a_painting_is_looked_at_in_a_bounded_size(
    size: tuple[int, int], stroke: float, expected: tuple[int, int]
) -> None:
    assert tuple(resized(torch.zeros(3, *size), stroke).shape[1:]) == expected


def test_a_painting_in_its_own_size_is_left_as_it_is() -> None:
    assert resized(LIBRARY[RED], 1.0) is LIBRARY[RED]


def test_matches_keep_their_places_in_a_painting_of_twice_the_size() -> None:
    """The patch at cell 2 has its middle at 3 of 8 cells, so at 6 of 16: it begins at cell 5."""
    twice = relocated(field([0, 1, -1], [2, 6, 0], [0, 3, 0]), [(8, 8), (8, 6)], [(16, 16), (16, 12)])
    assert (twice.row.tolist(), twice.col.tolist()) == ([[5, 13, 0]], [[1, 7, 0]])
    back = relocated(twice, [(16, 16), (16, 12)], [(8, 8), (8, 6)])
    assert (back.row.tolist(), back.col.tolist()) == ([[2, 6, 0]], [[0, 3, 0]])


def test_matches_stay_inside_a_smaller_painting() -> None:
    half = relocated(field([0, 0], [0, 14], [0, 14]), [(16, 16)], [(2, 2)])
    assert (half.row.tolist(), half.col.tolist()) == ([[0, 0]], [[0, 0]])


@pytest.mark.parametrize("stroke", [0.25, 0.5, 2.0, 4.0])
def test_every_level_names_patches_of_the_painting_in_its_own_size(stroke: float) -> None:
    images = {RED: torch.cat([LIBRARY[RED], LIBRARY[RED]], 2)}  # 64 x 128
    provenance = painter(images, stroke=stroke).translate(PHOTOGRAPH).provenance
    assert isinstance(provenance, LevelProvenance)
    for layer, patches in provenance.levels.items():
        stride = LOADED.network.geometry(layer).stride
        _, rows, cols = unpack_ids(patches.patch_ids[:, 0].numpy())
        assert rows.max() <= SIZE // stride - 2
        assert cols.max() <= 2 * SIZE // stride - 2


def test_larger_strokes_have_fewer_edges() -> None:
    """A stroke of 2 makes lines of about 8 pixels of a painting's lines of 4."""
    own, twice = (painter({RED: lined(4)}, stroke=stroke).translate(PHOTOGRAPH).output for stroke in (1.0, 2.0))
    assert isinstance(own, Tensor)
    assert isinstance(twice, Tensor)
    assert float(twice.diff(dim=2).abs().mean()) < 0.95 * float(own.diff(dim=2).abs().mean())


def test_the_finest_moments_are_those_of_the_painting_in_its_own_size() -> None:
    plain, large = (Sources(LOADED.network, LIBRARY, stroke)[RED] for stroke in (1.0, 2.0))
    assert plain.bands[LAST].whole.covariance.equal(large.bands[LAST].whole.covariance)
    assert plain.size == large.size == (SIZE, SIZE)
    for layer, cells in plain.cells.items():
        assert large.cells[layer].shape[:2] == (2 * cells.shape[0], 2 * cells.shape[1])


@pytest.mark.parametrize("stroke", [0.2, 4.1, float("nan"), "thick"])
def test_other_sizes_are_refused(stroke: object) -> None:
    with pytest.raises(ValidationError, match="stroke"):
        PaintingConfig.model_validate({"encoder": ENCODER, "stroke": stroke})


@pytest.mark.parametrize("stroke", [0.25, 0.5, 2.0])
def test_a_match_is_certified_only_at_the_place_that_the_index_found(stroke: float) -> None:
    """In a painting of a quarter of its size, many places become one, which is told as another one than was proved."""
    method = painter({RED: LIBRARY[RED].repeat(1, 3, 3)}, stroke=stroke)
    _, features = encode_photograph(LOADED.network, PHOTOGRAPH)
    _, found, proved = method._choose(features, dict.fromkeys(method.stages, 0.0))
    provenance = method.translate(PHOTOGRAPH).provenance
    assert isinstance(provenance, LevelProvenance)
    coarse = provenance.levels["relu4_1"]
    _, rows, cols = unpack_ids(coarse.patch_ids[:, 0].numpy())
    same = torch.from_numpy((rows == found.row.flatten().numpy()) & (cols == found.col.flatten().numpy()))
    assert coarse.certified.equal(proved & same)
