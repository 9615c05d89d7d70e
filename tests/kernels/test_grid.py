"""The grid of a decoder: what repeats from cell to cell goes, and edges stay."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.kernels.grid import grid, without_grid


def random_image(seed: int, height: int, width: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def slow_grid(image: Tensor, cell: int) -> Tensor:
    """Return what `grid` returns, pixel by pixel, from its description."""
    channels, height, width = image.shape
    shares = [0.5 / cell, *[1 / cell] * (cell - 1), 0.5 / cell]
    offsets = range(-(cell // 2), cell // 2 + 1)

    def mirrored(at: int, size: int) -> int:
        return -at if at < 0 else 2 * (size - 1) - at if at >= size else at

    def neighbours(at: int, size: int) -> list[int]:
        cells = [min(max(at // cell + step, 0), size // cell - 1) for step in range(-2, 3)]
        return [each * cell + at % cell for each in cells]

    found = torch.empty_like(image)
    for channel in range(channels):
        plane = image[channel].tolist()
        fine = [
            [
                plane[y][x]
                - sum(
                    shares[i] * shares[j] * plane[mirrored(y + dy, height)][mirrored(x + dx, width)]
                    for i, dy in enumerate(offsets)
                    for j, dx in enumerate(offsets)
                )
                for x in range(width)
            ]
            for y in range(height)
        ]
        columns = [
            [statistics.median(fine[row][x] for row in neighbours(y, height)) for x in range(width)]
            for y in range(height)
        ]
        for y in range(height):
            for x in range(width):
                found[channel, y, x] = statistics.median(columns[y][column] for column in neighbours(x, width))
    return found


@given(st.integers(0, 2**31), st.sampled_from([2, 4]), st.integers(1, 4), st.integers(1, 4))
def test_the_grid_is_that_of_its_description(seed: int, cell: int, rows: int, columns: int) -> None:
    image = random_image(seed, rows * cell, columns * cell)
    torch.testing.assert_close(grid(image, cell), slow_grid(image, cell), atol=1e-6, rtol=0)


@pytest.mark.parametrize("cell", [2, 4, 8])
def test_a_pattern_that_repeats_in_every_cell_goes_and_leaves_its_mean(cell: int) -> None:
    pattern = random_image(1, cell, cell)
    away_from_borders = without_grid(pattern.repeat(1, 9, 9), cell)[:, 3 * cell : -3 * cell, 3 * cell : -3 * cell]
    expected = pattern.mean(dim=(1, 2), keepdim=True).expand_as(away_from_borders)
    torch.testing.assert_close(away_from_borders, expected, atol=1e-6, rtol=0)


def test_an_edge_and_a_line_stay_as_they_are() -> None:
    image = torch.zeros(3, 72, 72)
    image[:, :, 35:] = 0.75  # an edge across one column of cells of eight pixels
    image[:, 20, :] = 0.5  # and a line across one row of them
    assert without_grid(image, 8).equal(image)


def test_a_gradient_has_no_grid_away_from_its_ends() -> None:
    ramp = torch.linspace(0.1, 0.9, 96).expand(3, 96, 96).contiguous()
    torch.testing.assert_close(without_grid(ramp, 8)[:, :, 24:-24], ramp[:, :, 24:-24], atol=1e-6, rtol=0)


def test_cells_of_one_pixel_have_no_grid() -> None:
    image = random_image(2, 5, 7)
    assert without_grid(image, 1) is image


def test_nan_stays_nan() -> None:
    image = random_image(3, 16, 16)
    image[1, 5, 5] = torch.nan
    assert without_grid(image, 4)[1, 5, 5].isnan()
