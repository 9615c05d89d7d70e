"""The terms of training, worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kt_batch.models.losses import affinity_loss, code_loss, swapped, unexplained


def features(generator: torch.Generator, images: int = 2, channels: int = 3) -> Tensor:
    return torch.rand(images, channels, 4, 4, generator=generator)


def turn(size: int, generator: torch.Generator) -> Tensor:
    """An orthonormal matrix as a projection `(size, size, 1, 1)`."""
    matrix: Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator)).Q
    return matrix[:, :, None, None]


def test_unexplained_is_one_less_the_share_of_variance_explained(generator: torch.Generator) -> None:
    target = features(generator)
    mean = target.mean(dim=(0, 2, 3), keepdim=True).expand_as(target)
    assert unexplained(target, target).item() == 0
    assert unexplained(mean, target).item() == pytest.approx(1)
    assert unexplained((target + mean) / 2, target).item() == pytest.approx(0.25)


def test_unexplained_counts_all_channels_together() -> None:
    # 0 and 2 in one channel, 0 and 4 in the other: 2 + 8 of variance. The second is missed by 1 twice.
    target = torch.tensor([[0.0, 2.0], [0.0, 4.0]]).view(1, 2, 1, 2)
    predicted = torch.tensor([[0.0, 2.0], [1.0, 3.0]]).view(1, 2, 1, 2)
    assert unexplained(predicted, target).item() == pytest.approx(2 / 10)


def test_a_code_that_only_turns_the_features_loses_nothing(generator: torch.Generator) -> None:
    target = features(generator, channels=5)
    projection = turn(5, generator)
    code = torch.nn.functional.conv2d(target, projection)
    assert code_loss(code, projection, target).item() == pytest.approx(0, abs=1e-10)


def test_a_code_loses_the_channels_that_it_drops() -> None:
    # Channel 0 varies by 1 about its mean, channel 1 by 3; the code keeps the second. What is left of the first is its
    # own square: 0 + 4 of the 2 + 18 of variance.
    target = torch.tensor([[0.0, 2.0], [0.0, 6.0]]).view(1, 2, 1, 2)
    projection = torch.tensor([[0.0, 1.0]]).view(1, 2, 1, 1)
    code = torch.nn.functional.conv2d(target, projection)
    assert code_loss(code, projection, target).item() == pytest.approx(4 / 20)


def test_affinity_compares_which_patches_are_alike_and_not_their_features(generator: torch.Generator) -> None:
    one = torch.rand(1, 3, 5, 5, generator=generator)
    index = torch.tensor([0, 3, 7, 12])
    turned = one.flip(1) * 2  # other channels and brightness, the same neighbours
    assert affinity_loss(one, one, index).item() == 0
    assert affinity_loss(turned, one, index).item() == pytest.approx(0, abs=1e-10)
    assert affinity_loss(torch.rand(1, 3, 5, 5, generator=generator), one, index).item() > 1e-4


def test_affinity_by_hand() -> None:
    # Two images of one patch each. The teacher's are at right angles, the student's alike: NCC 0 and 1 at both places
    # off the diagonal, which is 1 for both.
    teacher = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]]).view(2, 1, 2, 2)
    student = torch.ones(2, 1, 2, 2)
    assert affinity_loss(student, teacher, torch.tensor([0, 1])).item() == pytest.approx(2 / 4)


def test_an_image_swapped_with_itself_is_itself(generator: torch.Generator) -> None:
    one = features(generator, images=1)
    twice = one.expand(2, -1, -1, -1)
    torch.testing.assert_close(swapped(twice), twice, atol=1e-6, rtol=0)


def test_every_image_is_made_of_patches_of_the_next_one(generator: torch.Generator) -> None:
    # Each of three images has a colour of its own in every cell; the last takes from the first.
    images = torch.eye(3).view(3, 3, 1, 1) + torch.zeros(3, 3, 4, 5)
    assert swapped(images).equal(images.roll(-1, 0))
    assert swapped(features(generator)).shape == (2, 3, 4, 4)


def test_the_nearest_patch_is_that_of_the_same_direction_not_the_brightest() -> None:
    # One patch asks for its first cell; the next image has it faintly at the left and other, bright cells at the right.
    asks = torch.tensor([[1.0, 0, 0], [0, 0, 0]])
    has = torch.tensor([[0.1, 0, 9], [0, 0, 9]])
    (first, _) = swapped(torch.stack([asks, has])[:, None])
    assert first[0, 0, 0].item() == pytest.approx(0.1)


def test_no_gradient_flows_through_a_swap(generator: torch.Generator) -> None:
    assert not swapped(features(generator).requires_grad_()).requires_grad
