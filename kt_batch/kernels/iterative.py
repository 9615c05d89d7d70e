"""Iterative feature transformation (Chiu & Gurari 2020): features descend a loss of content and second moments.

The loss of features F `(C, n)` beside those before, F', and styles with second moments S_k `(C, C)` and weights l_k is

    |F - F'|^2 + sum_k l_k |F F^T / n - S_k|^2      (eq. 1 of the supplement; several styles as in eq. 29)

and its gradient 2 (F - F') + sum_k (4 l_k / n) (F F^T / n - S_k) F (eq. 2). No network is differentiated.

In a region, whose cells have the weights M = diag(m), F F^T / n becomes F M F^T / sum m, and the last factor F M.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Goal:
    """The styles of a region. styles: `(C, C)` each. weights: One for each style. mask: Weights `(n,)` of the cells, in
    [0, 1]; None: all cells.
    """

    styles: Sequence[Tensor]
    weights: Sequence[float]
    mask: Tensor | None = None

    def value(self, moment: Tensor) -> Tensor:
        """Return the loss of features with a second moment `(C, C)` beside the styles."""
        pairs = zip(self.styles, self.weights, strict=True)
        return torch.stack([weight * (moment - style).square().sum() for style, weight in pairs]).sum()

    def gradient(self, features: Tensor, moment: Tensor) -> Tensor:
        """Return the gradient of this loss `(C, n)` at features `(C, n)` with their second moment `(C, C)`."""
        away = torch.stack([w * (moment - s) for s, w in zip(self.styles, self.weights, strict=True)]).sum(0)
        return (4 / self._count(features)) * (away @ self._weighted(features))

    def turn(self, features: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Return B and D `(C, C)`: t steps along a direction `(C, n)` add t B + t^2 D to their second moment."""
        mixed = self._weighted(features) @ direction.T / self._count(features)
        return mixed + mixed.T, second_moment(direction, self.mask)

    def line(self, moment: Tensor, turn: tuple[Tensor, Tensor]) -> FloatArray:
        """Return the coefficients of this loss along a direction, `(5,)`, the constant first.

        Args:
            moment: The second moment of the features, `(C, C)`.
            turn: What `turn` returns for them and the direction.
        """
        found = np.zeros(5)
        b, d = (each.double() for each in turn)
        for style, weight in zip(self.styles, self.weights, strict=True):
            e = (moment - style).double()
            parts = (e * e, 2 * e * b, b * b + 2 * e * d, 2 * b * d, d * d)
            found += weight * np.array([float(part.sum()) for part in parts])
        return found

    def _weighted(self, features: Tensor) -> Tensor:
        return features if self.mask is None else features * self.mask

    def _count(self, features: Tensor) -> float:
        return features.shape[1] if self.mask is None else float(self.mask.sum())


@dataclass(frozen=True)
class Objective:
    """A loss of features `(C, n)`. before: F', `(C, n)`. goals: One for each region."""

    before: Tensor
    goals: Sequence[Goal]

    def moments(self, features: Tensor) -> list[Tensor]:
        """Return the second moment of features `(C, n)` in each region, `(C, C)` each."""
        return [second_moment(features, goal.mask) for goal in self.goals]

    def value(self, features: Tensor) -> float:
        """Return the loss of features `(C, n)`."""
        total = (features - self.before).square().sum()
        for goal, moment in zip(self.goals, self.moments(features), strict=True):
            total = total + goal.value(moment)
        return float(total)

    def gradient(self, features: Tensor, moments: Sequence[Tensor] | None = None) -> Tensor:
        """Return the gradient of the loss `(C, n)` at features `(C, n)`; `moments` are theirs, where they are known."""
        total = 2 * (features - self.before)
        for goal, moment in zip(self.goals, moments or self.moments(features), strict=True):
            total = total + goal.gradient(features, moment)
        return total


def second_moment(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return F F^T / n `(C, C)` of features `(C, n)`; a mask `(n,)` weighs the cells."""
    if mask is None:
        return features @ features.T / features.shape[1]
    return (features * mask) @ features.T / mask.sum()


def descended(objective: Objective, steps: int) -> Tensor:
    """Return the features `(C, n)` after some steps of descent from `before`, none of which raises the loss.

    Differs from the paper, which descends along the gradient and gives no rate: directions are conjugate (Polak and
    Ribiere 1969), and each step ends where the loss, a polynomial of degree four along it, is least.
    """
    features, moments = objective.before, objective.moments(objective.before)
    gradient = objective.gradient(features, moments)
    direction = -gradient
    for _ in range(steps):
        turns = [goal.turn(features, direction) for goal in objective.goals]
        line = _content_line(features - objective.before, direction)
        for goal, moment, turn in zip(objective.goals, moments, turns, strict=True):
            line += goal.line(moment, turn)
        length = least_of_quartic(line)
        features = features + length * direction
        moments = [moment + length * b + length**2 * d for moment, (b, d) in zip(moments, turns, strict=True)]
        last, gradient = gradient, objective.gradient(features, moments)
        direction = _conjugate(direction, last, gradient)
    return features


def least_of_quartic(coefficients: FloatArray) -> float:
    """Return where at or above 0 a polynomial of at most degree four is least; of several places the first.

    Args:
        coefficients: `(5,)`, the constant first; the polynomial has a least value.
    """
    polynomial = np.polynomial.Polynomial(coefficients)
    turning = np.roots(polynomial.deriv().coef[::-1])
    places = [0.0, *sorted(float(root.real) for root in turning if root.real > 0)]
    return min(places, key=polynomial)


def _content_line(away: Tensor, direction: Tensor) -> FloatArray:
    """Return the coefficients of |F - F'|^2 along a direction, `(5,)`; away: F - F'."""
    a, d = away.flatten(), direction.flatten()
    return np.array([float(torch.dot(a, a)), 2 * float(torch.dot(a, d)), float(torch.dot(d, d)), 0.0, 0.0])


def _conjugate(direction: Tensor, last: Tensor, gradient: Tensor) -> Tensor:
    """Return the direction of the next step, from those of the last step: its direction and gradient."""
    old, new = last.flatten(), gradient.flatten()
    square = float(torch.dot(old, old))
    share = max(0.0, float(torch.dot(new, new) - torch.dot(new, old)) / square) if square > 0 else 0.0
    turned = share * direction - gradient
    return turned if float(torch.dot(turned.flatten(), new)) < 0 else -gradient
