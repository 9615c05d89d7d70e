"""Patches: unfold and fold."""

from __future__ import annotations

import pytest
import torch

from kt_batch.kernels.patches import fold, pixel_shares, positions, unfold


def a_map() -> torch.Tensor:
    """Return one channel of 3 x 3 cells: 0 1 2 / 3 4 5 / 6 7 8."""
    return torch.arange(9.0).view(1, 3, 3)


def test_a_map_of_h_by_w_cells_has_a_patch_less_per_axis() -> None:
    rows, cols = positions(128, 128, stride=1, cover=False)
    assert len(rows) == 127 * 127 == 16129
    rows, cols = positions(3, 3, stride=1, cover=False)
    assert rows.tolist() == [0, 0, 1, 1]
    assert cols.tolist() == [0, 1, 0, 1]


def test_the_cells_of_a_patch_stand_in_reading_order() -> None:
    rows, cols = positions(3, 3, stride=1, cover=False)
    assert unfold(a_map(), rows, cols)[:, :, 0].tolist() == [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]


def test_a_vector_holds_all_channels_of_a_cell_together() -> None:
    features = torch.stack([a_map()[0], a_map()[0] + 100])
    rows, cols = torch.tensor([1]), torch.tensor([1])
    assert unfold(features, rows, cols).flatten().tolist() == [4, 104, 5, 105, 7, 107, 8, 108]


@pytest.mark.parametrize("height", [2, 3, 4, 7, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_with_cover_every_cell_lies_in_a_patch(height: int, stride: int) -> None:
    rows, cols = positions(height, 5, stride, cover=True)
    ones = torch.ones(len(rows), 4, 1)
    assert fold(ones, rows, cols, height, 5).eq(1).all()
    assert len(set(zip(rows.tolist(), cols.tolist(), strict=True))) == len(rows)


def test_without_cover_the_last_row_may_be_left_out() -> None:
    assert positions(5, 2, stride=2, cover=False)[0].tolist() == [0, 2]
    assert positions(4, 2, stride=2, cover=False)[0].tolist() == [0, 2]
    assert positions(5, 2, stride=2, cover=True)[0].tolist() == [0, 2, 3]


def test_overlapping_patches_are_averaged() -> None:
    # Two patches side by side, one of 1 and one of 3: they share the middle column.
    patches = torch.stack([torch.full((4, 1), 1.0), torch.full((4, 1), 3.0)])
    folded = fold(patches, torch.tensor([0, 0]), torch.tensor([0, 1]), 2, 3)
    assert folded.tolist() == [[[1, 2, 3], [1, 2, 3]]]


def test_a_cell_that_no_patch_covers_becomes_zero() -> None:
    folded = fold(torch.ones(1, 4, 1), torch.tensor([0]), torch.tensor([0]), 3, 3)
    assert folded.tolist() == [[[1, 1, 0], [1, 1, 0], [0, 0, 0]]]


def test_a_patch_stands_for_the_pixels_under_it_that_no_other_covers_and_half_of_the_rest() -> None:
    # 10 x 6 pixels have cells of 4, 4 and 2 columns; the second is under both patches, and padding is under the last.
    shares = pixel_shares(torch.tensor([0, 0]), torch.tensor([0, 1]), 4, (6, 10))
    assert shares.tolist() == pytest.approx([(4 + 4 / 2) / 10, (4 / 2 + 2) / 10], abs=1e-12)
    alone = pixel_shares(torch.tensor([0]), torch.tensor([0]), 8, (1, 3))
    assert alone.tolist() == [1.0]
