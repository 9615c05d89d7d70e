"""Evened pictures: glows and blotches are taken off, strokes and tones stay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.kernels.evened import CELL, evened

SIDE = 160


def two_halves() -> Tensor:
    """A photograph, dark on the left and bright on the right."""
    columns = torch.where(torch.arange(SIDE) < SIDE // 2, 0.3, 0.7)
    return columns.expand(3, SIDE, SIDE).clone()


def test_a_glow_along_an_edge_is_taken_off() -> None:
    """A glow of .1 on the 12 pixels that lie to the right of the edge; there the photograph is one grey."""
    photograph = two_halves()
    glowing = photograph.clone()
    right = slice(SIDE // 2, SIDE // 2 + 12)
    glowing[:, :, right] += 0.1
    mended = evened(glowing, photograph)
    middle = slice(SIDE // 2 + 4, SIDE // 2 + 8)
    assert float(mended[:, 40:120, middle].mean()) < 0.75
    assert float(mended[:, 40:120, :40].mean()) == pytest.approx(0.3, abs=0.01)


def test_a_blotch_on_flat_ground_is_taken_off() -> None:
    photograph = torch.full((3, SIDE, SIDE), 0.5)
    blotchy = photograph.clone()
    blotchy[0, 70:90, 70:90] += 0.2
    mended = evened(blotchy, photograph)
    assert float(mended[0, 76:84, 76:84].mean()) < 0.6


def test_strokes_finer_than_a_cell_stay() -> None:
    photograph = torch.full((3, SIDE, SIDE), 0.5)
    stripes = photograph + 0.1 * (-1.0) ** torch.arange(SIDE)
    torch.testing.assert_close(evened(stripes, photograph), stripes, atol=1e-5, rtol=0)


def test_a_change_of_tone_over_the_whole_picture_stays() -> None:
    photograph = torch.full((3, SIDE, SIDE), 0.5)
    ramp = torch.linspace(0.3, 0.7, SIDE).expand(3, SIDE, SIDE)
    inner = slice(48, SIDE - 48)
    torch.testing.assert_close(evened(ramp, photograph)[:, inner, inner], ramp[:, inner, inner], atol=0.02, rtol=0)


@pytest.mark.parametrize(("length", "kept"), [(8, 0.94), (20, 0.76), (28, 0.5), (100, 0.05), (220, 0.5)])
def test_of_a_wave_on_flat_ground_a_share_stays_that_depends_on_its_length(length: int, kept: float) -> None:
    photograph = torch.full((3, 64, 512), 0.5)
    wave = 0.1 * torch.sin(2 * torch.pi * torch.arange(512) / length + 0.3)
    left = evened(photograph + wave, photograph)[0, 32] - 0.5
    middle = slice(128, 384)
    share = float(left[middle] @ wave[middle] / wave[middle].square().sum())
    assert share == pytest.approx(kept, abs=0.08)


@given(st.floats(0.3, 1.5), st.floats(-0.1, 0.1), st.integers(0, 100))
def test_a_picture_in_other_colours_is_explained_by_its_photograph(gain: float, shift: float, seed: int) -> None:
    cells = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(seed)) * 0.4 + 0.2
    photograph = cells.repeat_interleave(8, 1).repeat_interleave(8, 2)
    recoloured = photograph.flip(0) * gain + shift
    mended = evened(recoloured.clamp(0, 1), photograph)
    assert float((mended - recoloured.clamp(0, 1)).abs().mean()) < 0.02


def test_a_picture_smaller_than_a_cell_stays_as_it_is() -> None:
    small = torch.rand(3, CELL - 1, 9, generator=torch.Generator().manual_seed(0))
    assert evened(small, small.flip(0)).equal(small)


@pytest.mark.parametrize("side", [160, 161, 162, 163])
def test_what_is_taken_off_lies_where_the_blotch_is_at_any_size(side: int) -> None:
    photograph = torch.full((3, side, side), 0.5)
    blotchy = photograph.clone()
    blotchy[:, 132:144, 132:144] += 0.2
    taken = (blotchy - evened(blotchy, photograph))[0].clamp(min=0).sum(1)
    middle = float((taken * torch.arange(side)).sum() / taken.sum())
    assert middle == pytest.approx(137.5, abs=0.2)


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (8, 4096), (9, 7), (64, 67)])
@pytest.mark.parametrize("level", [0.0, 1e-45, 1 - 2**-24, 1.0])
def test_results_are_finite_and_in_range_at_any_size(size: tuple[int, int], level: float) -> None:
    generator = torch.Generator().manual_seed(0)
    flat, noise = torch.full((3, *size), level), (torch.rand(3, *size, generator=generator) > 0.5).float()
    for picture, photograph in ((flat, noise), (noise, flat), (flat, flat), (noise, noise)):
        result = evened(picture, photograph)
        assert result.shape == picture.shape
        assert bool(((result >= 0) & (result <= 1)).all())  # false for NaN, too
