"""The optimizer of training: orthogonalised momentum (Muon, Jordan et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, as published
ITERATIONS = 5


def orthogonal(matrix: Tensor) -> Tensor:
    """Return about U V^T of the singular value decomposition of `(m, n)`: all singular values become about 1."""
    a, b, c = COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-12)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x if wide else x.T
    return result


class Muon(torch.optim.Optimizer):
    """Move every weight `(N, ...)`, a matrix of N rows, by `lr` along its orthogonalised momentum.

    A step changes the output of a layer by about as much in every direction, so that small but useful directions of its
    input are learned as soon as large ones. A bias counts as a matrix of one row.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group["lr"])

    def _move(self, parameter: Tensor, gradient: Tensor, rate: float) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].mul_(MOMENTUM).add_(gradient)
        ahead = gradient.add(momentum, alpha=MOMENTUM)
        matrix = ahead.flatten(1) if ahead.ndim > 1 else ahead[None]
        stretch = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        parameter.add_(orthogonal(matrix).view_as(parameter), alpha=-rate * stretch)
