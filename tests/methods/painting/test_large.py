"""Paintings larger than the painter works at: no seams, strokes in proportion, edges of the photograph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils._python_dispatch import TorchDispatchMode

from kt_batch.kernels.colour import luminance
from kt_batch.methods.base import Enlarger, LevelProvenance
from kt_batch.methods.painting.large import blocks, enlarged, sizes
from tests.methods.painting.test_painting import LIBRARY, PHOTOGRAPH, RED, painter


def shapes(height: int, width: int, seed: int = 0) -> Tensor:
    """Return a picture `(3, height, width)` of soft shapes, the same ones at any size."""
    coarse = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    return interpolate(coarse, size=(height, width), mode="bilinear")[0]


def test_sizes_double_until_the_end() -> None:
    assert sizes((344, 512), (344, 512)) == [(344, 512)]
    assert sizes((341, 512), (683, 1024)) == [(342, 512), (683, 1024)]
    assert sizes((384, 512), (1536, 2048)) == [(768, 1024), (1536, 2048)]
    assert sizes((384, 512), (3072, 4096)) == [(768, 1024), (1536, 2048), (3072, 4096)]
    assert sizes((384, 512), (450, 600)) == [(450, 600)]


def test_blocks_cover_every_row_once() -> None:
    assert list(blocks((7, 100), 250)) == [(0, 2), (2, 2), (4, 2), (6, 1)]
    assert list(blocks((3, 100), 10)) == [(0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize(("height", "width"), [(131, 97), (64, 257), (200, 33), (49, 65)])
@pytest.mark.parametrize("block", [1, 300, 1000, 4096])
def test_a_picture_in_blocks_is_the_picture_in_one_piece_to_the_last_bit(height: int, width: int, block: int) -> None:
    painted, photograph, large = shapes(33, 31, 1), shapes(33, 31, 2), torch.rand(3, height, width)
    whole = enlarged(painted, photograph, large, block=height * width)
    assert torch.equal(enlarged(painted, photograph, large, block=block), whole)


class Largest(TorchDispatchMode):
    """Notes the values of the largest tensor that is made, those of some shapes left out."""

    def __init__(self, besides: set[tuple[int, ...]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values, self._besides = 0, besides

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and tuple(made.shape) not in self._besides:
            self.values = max(self.values, made.numel())
        return made


@pytest.mark.parametrize("side", [256, 1024])
def test_memory_is_that_of_a_block_beside_the_pictures_themselves(side: int) -> None:
    block, channels = 32768, 9  # of the slopes
    pictures: set[tuple[int, ...]] = {(3, side, side)} | {(6, each, each) for each in (64, 128, 256, 512)}
    with Largest(pictures) as largest:
        enlarged(shapes(32, 32, 1), shapes(32, 32, 2), torch.rand(3, side, side), block)
    assert largest.values <= channels * block


def test_strokes_grow_with_the_picture() -> None:
    painted, photograph = shapes(48, 64, 1), shapes(48, 64, 2)
    large = enlarged(painted, photograph, shapes(192, 256, 2))
    small = interpolate(large[None], size=(48, 64), mode="area")[0]
    assert (small - painted).abs().mean() < 0.02
    assert (large - interpolate(painted[None], size=(192, 256), mode="bilinear")[0]).abs().mean() < 0.03


def edge(height: int, width: int, dark: tuple[float, float, float], light: tuple[float, float, float]) -> Tensor:
    """Return two colours that meet in the middle of a picture `(3, height, width)`."""
    right = (torch.arange(width) >= width // 2).float()
    start, end = (torch.tensor(colour)[:, None, None] for colour in (dark, light))
    return (start + right * (end - start)).expand(3, height, width)


def test_a_common_edge_is_as_sharp_as_the_photographs_own_and_in_painted_colours() -> None:
    blue, yellow = (0.1, 0.2, 0.6), (0.9, 0.8, 0.2)
    painted, photograph = edge(32, 32, blue, yellow), edge(32, 32, (0.2, 0.2, 0.2), (0.7, 0.7, 0.7))
    large = enlarged(painted, photograph, edge(128, 128, (0.2, 0.2, 0.2), (0.7, 0.7, 0.7)))
    assert torch.allclose(large[:, 64, 62], torch.tensor(blue), atol=0.06)
    assert torch.allclose(large[:, 64, 65], torch.tensor(yellow), atol=0.06)
    smooth = interpolate(painted[None], size=(128, 128), mode="bicubic")[0]
    step, softer = large[0, 64, 64] - large[0, 64, 63], smooth[0, 64, 64] - smooth[0, 64, 63]
    assert step > 1.5 * softer


def test_a_photographs_detail_does_not_show_where_the_painting_is_plain() -> None:
    plain = torch.full((3, 32, 32), 0.4)
    large = enlarged(plain, shapes(32, 32, 2), torch.rand(3, 128, 128))
    assert torch.allclose(large, torch.full((3, 128, 128), 0.4), atol=1e-4)


LARGE = interpolate(PHOTOGRAPH[None], scale_factor=3.0, mode="bilinear")[0]


def test_a_larger_painting_has_the_sources_of_the_smaller_one() -> None:
    ready = painter(LIBRARY)
    assert isinstance(ready, Enlarger)
    small = ready.translate(PHOTOGRAPH)
    result = ready.enlarge(small, PHOTOGRAPH, LARGE)
    assert isinstance(result.output, Tensor)
    assert isinstance(result.provenance, LevelProvenance)
    assert result.output.shape == (3, 192, 192)
    assert result.provenance is small.provenance


def test_a_larger_painting_keeps_the_photographs_colours_where_that_is_asked_for() -> None:
    ready = painter({RED: LIBRARY[RED]}, preserve_colour=True)
    output = ready.enlarge(ready.translate(PHOTOGRAPH), PHOTOGRAPH, LARGE).output
    assert isinstance(output, Tensor)
    inside = (output > 0) & (output < 1)  # nothing was clipped
    chroma = (output - luminance(output)) - (LARGE - luminance(LARGE))
    assert chroma[:, inside.all(0)].abs().max() < 1e-4


def test_without_strength_the_large_photograph_stays_as_it_is() -> None:
    ready = painter(LIBRARY, strength=0.0)
    assert ready.enlarge(ready.translate(PHOTOGRAPH), PHOTOGRAPH, LARGE).output is LARGE


@pytest.mark.parametrize(("small", "large"), [((64, 1), (1001, 1)), ((1, 64), (2, 130)), ((2, 3), (64, 96))])
def test_lines_and_specks_are_enlarged_too(small: tuple[int, int], large: tuple[int, int]) -> None:
    photograph = torch.rand(3, *large)
    picture = enlarged(torch.rand(3, *small), torch.rand(3, *small), photograph)
    assert picture.shape == photograph.shape
    assert picture.isfinite().all()
    assert 0 <= float(picture.min()) <= float(picture.max()) <= 1
