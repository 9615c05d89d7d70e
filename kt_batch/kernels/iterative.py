"""Iterative feature transformation (An et al. 2020): features descend a loss of content and second moments.

The loss of features F `(C, n)` beside those before, F', and styles with second moments S_k `(C, C)` and weights l_k is

    |F - F'|^2 + sum_k l_k |F F^T / n - S_k|^2      (eq. 1 of the supplement; several styles as in eq. 29)

and its gradient 2 (F - F') + sum_k (4 l_k / n) (F F^T / n - S_k) F (eq. 2). No network is differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """A loss of features `(C, n)`. before: F', `(C, n)`. styles: `(C, C)` each. weights: one for each style."""

    before: Tensor
    styles: Sequence[Tensor]
    weights: Sequence[float]

    def value(self, features: Tensor) -> float:
        """Return the loss of features `(C, n)`."""
        moment = second_moment(features)
        total = (features - self.before).square().sum()
        for style, weight in zip(self.styles, self.weights, strict=True):
            total = total + weight * (moment - style).square().sum()
        return float(total)

    def gradient(self, features: Tensor) -> Tensor:
        """Return the gradient of the loss `(C, n)` at features `(C, n)`."""
        away = self._away(second_moment(features))
        return 2 * (features - self.before) + (4 / features.shape[1]) * (away @ features)

    def first_step(self, features: Tensor) -> float:
        """Return a step along the gradient that cannot be too long: the inverse of a bound of the curvature."""
        moment = second_moment(features)
        bound = torch.linalg.matrix_norm(self._away(moment)) + 2 * sum(self.weights) * torch.linalg.matrix_norm(moment)
        return 1 / (2 + 4 / features.shape[1] * float(bound))

    def _away(self, moment: Tensor) -> Tensor:
        """Return the weighted sum of the differences of a second moment and those of the styles, `(C, C)`."""
        return torch.stack([w * (moment - s) for s, w in zip(self.styles, self.weights, strict=True)]).sum(0)


def second_moment(features: Tensor) -> Tensor:
    """Return F F^T / n `(C, C)` of features `(C, n)`."""
    return features @ features.T / features.shape[1]


def descended(objective: Objective, steps: int) -> Tensor:
    """Return the features `(C, n)` of the least loss seen in some steps of gradient descent from `before`.

    The length of a step follows from the last two gradients (Barzilai & Borwein 1988, the long step), since the paper
    gives no rate; where the loss is not convex between them, it is the first one's. Not every step lowers the loss.
    """
    features, least = objective.before, objective.before
    lowest = objective.value(features)
    gradient, length = objective.gradient(features), objective.first_step(features)
    for _ in range(steps):
        moved = features - length * gradient
        turned = objective.gradient(moved)
        step, change = moved - features, turned - gradient
        curvature = float((step * change).sum())
        features, gradient = moved, turned
        value = objective.value(features)
        if value < lowest:
            least, lowest = features, value
        length = float(step.square().sum()) / curvature if curvature > 0 else objective.first_step(features)
    return least
