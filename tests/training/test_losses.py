"""The loss terms against values computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kt_batch.training.losses import lattice_error, swap_features, unexplained_variance


def features(generator: torch.Generator, images: int = 2, channels: int = 3) -> Tensor:
    return torch.rand(images, channels, 4, 4, generator=generator)


def test_unexplained_variance_is_one_less_the_share_of_variance_explained(generator: torch.Generator) -> None:
    target = features(generator)
    mean = target.mean(dim=(0, 2, 3), keepdim=True).expand_as(target)
    assert unexplained_variance(target, target).item() == 0
    assert unexplained_variance(mean, target).item() == pytest.approx(1)
    assert unexplained_variance((target + mean) / 2, target).item() == pytest.approx(0.25)


def test_unexplained_variance_counts_all_channels_together() -> None:
    # 0 and 2 in one channel, 0 and 4 in the other: 2 + 8 of variance. The second is missed by 1 twice.
    target = torch.tensor([[0.0, 2.0], [0.0, 4.0]]).view(1, 2, 1, 2)
    predicted = torch.tensor([[0.0, 2.0], [1.0, 3.0]]).view(1, 2, 1, 2)
    assert unexplained_variance(predicted, target).item() == pytest.approx(2 / 10)


def test_swapping_an_image_with_itself_changes_nothing(generator: torch.Generator) -> None:
    one = features(generator, images=1)
    twice = one.expand(2, -1, -1, -1)
    torch.testing.assert_close(swap_features(twice), twice, atol=1e-6, rtol=0)


def test_every_image_takes_the_patches_of_the_next_one(generator: torch.Generator) -> None:
    # Each of three images has one colour; the last takes from the first.
    images = torch.eye(3).view(3, 3, 1, 1) + torch.zeros(3, 3, 4, 5)
    assert swap_features(images).equal(images.roll(-1, 0))
    assert swap_features(features(generator)).shape == (2, 3, 4, 4)


def test_the_nearest_patch_has_the_same_direction_and_not_the_highest_brightness() -> None:
    # The query has a bright first cell; the next image has it faint at the left, and other, bright cells at the right.
    asks = torch.tensor([[1.0, 0, 0], [0, 0, 0]])
    has = torch.tensor([[0.1, 0, 9], [0, 0, 9]])
    (first, _) = swap_features(torch.stack([asks, has])[:, None])
    assert first[0, 0, 0].item() == pytest.approx(0.1)


def test_no_gradient_flows_through_a_swap(generator: torch.Generator) -> None:
    assert not swap_features(features(generator).requires_grad_()).requires_grad


def test_the_lattice_of_a_checkerboard_is_its_amplitude_and_of_a_flat_error_zero() -> None:
    # Cells of 2 x 2 whose places are +.1, -.1, -.1, +.1: their mean is 0, and they repeat.
    board = torch.tensor([[0.1, -0.1], [-0.1, 0.1]]).repeat(1, 3, 8, 8)
    assert lattice_error(board, 2).item() == pytest.approx(0.1)
    assert lattice_error(board + 0.3, 2).item() == pytest.approx(0.1)
    assert lattice_error(torch.full((1, 3, 16, 16), 0.3), 2).item() == pytest.approx(0, abs=1e-7)


def test_the_lattice_of_noise_falls_with_the_root_of_the_number_of_cells(
    generator: torch.Generator,
) -> None:
    noise = torch.randn(4, 3, 64, 64, generator=generator)
    one, many = lattice_error(noise, 2, cells=1).item(), lattice_error(noise, 2, cells=4).item()
    assert many == pytest.approx(one / 4, rel=0.05)
