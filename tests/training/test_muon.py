"""Muon makes steps of equal size in every direction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kt_batch.training.muon import Muon, orthogonal


def stepped(parameter: nn.Parameter, gradient: Tensor, rate: float) -> Tensor:
    """Return the change of the weight in one step."""
    before = parameter.detach().clone()
    parameter.grad = gradient
    Muon([{"params": [parameter], "lr": rate}]).step()
    return parameter.detach() - before


@pytest.mark.parametrize("shape", [(12, 12), (6, 24), (24, 6), (1, 8)])
def test_orthogonalised_matrices_have_singular_values_near_one(
    shape: tuple[int, int], generator: torch.Generator
) -> None:
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=generator) * 100))
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_orthogonalisation_keeps_the_singular_vectors(generator: torch.Generator) -> None:
    matrix = torch.randn(5, 9, generator=generator)
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.T @ orthogonal(matrix) @ vt.T
    torch.testing.assert_close(turned, turned.diagonal().diag(), atol=1e-4, rtol=0)


def test_orthogonalising_a_zero_matrix_gives_zero() -> None:
    assert orthogonal(torch.zeros(3, 4)).equal(torch.zeros(3, 4))


def test_a_quadratic_is_minimised(generator: torch.Generator) -> None:
    target = torch.randn(4, 3, 3, 3, generator=generator)
    weight, bias = nn.Parameter(torch.zeros(4, 3, 3, 3)), nn.Parameter(torch.ones(4))
    optimizer = Muon([{"params": [weight, bias]}])
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 200)
        optimizer.zero_grad()
        loss = (weight - target).square().sum() + bias.square().sum()
        loss.backward()
        optimizer.step()
    assert (weight - target).norm() < 0.02 * target.norm()
    assert bias.norm() < 0.05


def test_small_directions_move_as_far_as_large_ones() -> None:
    gradient = torch.diag(torch.tensor([1.0, 0.05]))
    moved = stepped(nn.Parameter(torch.zeros(2, 2)), gradient, 0.1).diagonal()
    assert ((moved < -0.06) & (moved > -0.125)).all()


def test_a_bias_moves_by_about_the_learning_rate_against_its_gradient() -> None:
    moved = stepped(nn.Parameter(torch.zeros(4)), torch.tensor([30.0, 0, 0, -40.0]), 0.1)
    assert 0.06 < moved.norm().item() < 0.125
    torch.testing.assert_close(moved / moved.norm(), torch.tensor([-0.6, 0, 0, 0.8]))


def test_a_tall_matrix_takes_a_larger_step(generator: torch.Generator) -> None:
    # 16 rows of 4: sqrt(16 / 4) = 2 times the rate
    moved = stepped(nn.Parameter(torch.zeros(16, 4, 1, 1)), torch.randn(16, 4, 1, 1, generator=generator), 0.1)
    values = torch.linalg.svdvals(moved.flatten(1))
    assert values.min() > 0.12
    assert values.max() < 0.25


def test_a_parameter_without_a_gradient_is_unchanged() -> None:
    moving, still = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Muon([{"params": [moving, still], "lr": 0.1}])
    moving.grad = torch.eye(2)
    optimizer.step()
    assert still.equal(torch.ones(2, 2))
    assert not moving.equal(torch.ones(2, 2))
    assert still not in optimizer.state


def test_every_parameter_group_has_its_own_rate() -> None:
    slow, fast = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    optimizer = Muon([{"params": [slow], "lr": 0.01}, {"params": [fast], "lr": 0.1}])
    slow.grad = fast.grad = torch.ones(3)
    optimizer.step()
    torch.testing.assert_close(10 * slow.detach(), fast.detach())


def test_momentum_continues_in_the_previous_direction() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = Muon([{"params": [parameter], "lr": 0.1}])
    parameter.grad = torch.tensor([1.0, 0.0])
    optimizer.step()
    before = parameter.detach().clone()
    parameter.grad = torch.tensor([0.0, 1.0])
    optimizer.step()
    # momentum 0.95 (1, 0) + (0, 1); ahead of it (0, 1) + 0.95 (0.95, 1) = (0.9025, 1.95)
    moved = parameter.detach() - before
    assert (moved[0] / moved[1]).item() == pytest.approx(0.9025 / 1.95, rel=1e-4)
