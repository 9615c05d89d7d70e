"""Pictures enlarged: hand-worked values of each filter, and rows that do not know of the block they are made in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kt_batch.kernels.enlarge import MOST_SLOPE, calm, crisp, crisp_rows, cubic_rows, fit_slopes, linear_rows, sloped


def noise(channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed))


def test_one_bright_pixel_spreads_by_the_filter_of_mitchell_and_netravali() -> None:
    line = torch.tensor([0.0, 0, 1, 0, 0]).view(1, 1, 5)
    # Twice as wide, places lie 1/4, 3/4, 5/4 and 7/4 of a pixel away. By hand, for B = C = 1/3:
    values = [-0.014757, -0.023438, 0.256076, 0.782118]
    found = cubic_rows(line, (1, 10), 0, 1)[0, 0]
    assert found.tolist() == pytest.approx([0, *values, *values[::-1], 0], abs=1e-6)


def test_colours_and_even_ramps_stay_what_they_are() -> None:
    plain = torch.full((3, 5, 7), 0.3)
    assert torch.allclose(cubic_rows(plain, (13, 17), 0, 13), torch.full((3, 13, 17), 0.3))
    ramp = torch.arange(8.0).view(1, 1, 8)
    inside = cubic_rows(ramp, (1, 16), 0, 1)[0, 0, 4:12]
    assert inside.tolist() == pytest.approx([1.75 + step / 2 for step in range(8)])


def test_maps_are_interpolated_linearly_and_kept_beyond_the_outer_centres() -> None:
    maps = torch.tensor([0.0, 1.0]).view(1, 1, 2)
    assert linear_rows(maps, (1, 4), 0, 1).flatten().tolist() == [0, 0.25, 0.75, 1]


@pytest.mark.parametrize("size", [(37, 53), (40, 22), (31, 11)])
@pytest.mark.parametrize("rows", [1, 2, 7, 30])
def test_rows_are_the_same_to_the_last_bit_in_any_block(size: tuple[int, int], rows: int) -> None:
    picture = noise(3, 16, 11)
    makers: dict[str, Callable[[int, int], Tensor]] = {
        "cubic": lambda top, count: cubic_rows(picture, size, top, count),
        "linear": lambda top, count: linear_rows(picture, size, top, count),
        "crisp": lambda top, count: crisp_rows(picture, size, top, count, 3.0),
    }
    for name, make in makers.items():
        blocks = [make(top, min(rows, size[0] - top)) for top in range(0, size[0], rows)]
        assert torch.equal(torch.cat(blocks, dim=1), make(0, size[0])), name


def test_a_soft_edge_gets_steeper_and_no_halo() -> None:
    edge = torch.tensor([0.2, 0.2, 0.2, 0.3, 0.5, 0.7, 0.8, 0.8, 0.8]).expand(1, 9, 9)
    sharp = crisp(edge, 3.0)[0, 4]
    assert sharp[5] - sharp[3] > 1.4 * (edge[0, 4, 5] - edge[0, 4, 3])
    assert (sharp.min(), sharp.max()) == (edge.min(), edge.max())


def test_sharpening_leaves_no_pixel_outside_the_range_of_its_neighbours() -> None:
    picture = noise(3, 12, 15)
    around = torch.stack(
        [torch.roll(picture, (down, right), (1, 2)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    )  # wrong at the border only, which is left out
    sharp = crisp(picture, 5.0)
    inside = (slice(None), slice(1, -1), slice(1, -1))
    assert (sharp[inside] >= around.amin(0)[inside]).all()
    assert (sharp[inside] <= around.amax(0)[inside]).all()


def test_a_lattice_of_two_pixels_is_taken_away() -> None:
    lattice = 0.5 + 0.1 * torch.tensor([1.0, -1.0]).repeat(6).expand(3, 12, 12)
    assert torch.allclose(calm(lattice)[:, :, 1:-1], torch.full((3, 12, 10), 0.5))


def test_slopes_are_those_of_the_map_between_two_pictures() -> None:
    matrix = torch.tensor([[0.5, 0.2, 0.0], [-0.3, 0.8, 0.1], [0.0, 0.4, 0.6]])
    photograph = noise(3, 24, 20)
    painted = torch.einsum("ij,jhw->ihw", matrix, photograph) + 0.1
    slopes = fit_slopes(photograph, painted, 3, 1e-6)
    assert torch.allclose(slopes, matrix.flatten()[:, None, None].expand(9, 24, 20), atol=1e-3)
    difference = noise(3, 24, 20, seed=1)
    assert torch.allclose(sloped(slopes, difference), torch.einsum("ij,jhw->ihw", matrix, difference), atol=1e-2)


def test_pictures_with_nothing_in_common_have_no_slope() -> None:
    assert fit_slopes(noise(3, 24, 20), torch.full((3, 24, 20), 0.4), 3, 1e-3).abs().max() < 1e-6
    assert fit_slopes(torch.full((3, 24, 20), 0.4), noise(3, 24, 20), 3, 1e-3).abs().max() < 1e-6


def test_slopes_are_bounded() -> None:
    faint = 0.5 + 0.01 * noise(3, 24, 20)
    slopes = fit_slopes(faint, 50 * (faint - 0.5), 3, 1e-9)
    lengths = slopes.square().sum(0).sqrt()
    assert lengths.max() <= MOST_SLOPE * 1.0001
