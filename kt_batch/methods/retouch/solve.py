"""The normal equations of a fit, and their solution as a sum over groups of pairs.

With P the features `[1, psi]` of a pair, and G and B its moments, the coefficients c minimise

    sum_j w_j |P_j phi c - y_j|^2 + constant ridge |c_0 - identity|^2 + ridge sum_{d > 0} |c_d|^2.

So (A + R) (c - identity) = sum_j w_j P_j (x) (B_j - G_j identity), with A = sum_j w_j P_j P_j^T (x) G_j. The right-hand
side is a sum over pairs, hence c - identity is one too.

Large products are torch's, whose number of threads is set by whoever calls; all others are numpy's own loops.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from kt_batch.kernels.quadratic import IDENTITY, SIZE

CONSTANT_RIDGE = 1e-4  # of what all photographs share, towards the identity
CHUNK = 256  # pairs whose products are in memory at a time
_ROWS, _COLUMNS = np.triu_indices(SIZE)


@dataclass(frozen=True)
class System:
    """Normal equations without their ridge.

    gram: A, `(d, 10, d, 10)`.
    sides: the right-hand side, group by group, `(L, d, 10, 3)`.
    change: the basis of the coefficients, `(10, 10)`: those of phi are `change @ c`.
    """

    gram: np.ndarray
    sides: np.ndarray
    change: np.ndarray


def system(
    weights: np.ndarray, grams: np.ndarray, crosses: np.ndarray, groups: np.ndarray, change: np.ndarray
) -> System:
    """Return the normal equations of all pairs, added in their order.

    Args:
        weights: P of every pair, `(N, d)`.
        grams: `(N, 10, 10)`.
        crosses: `(N, 10, 3)`.
        groups: Number of the group of every pair, `(N,)`; every group has a pair.
        change: The basis of the coefficients, `(10, 10)`.
    """
    count, width = weights.shape
    total = torch.zeros(width * width, len(_ROWS), dtype=torch.float64, device="cpu")
    for start in range(0, count, CHUNK):
        part = weights[start : start + CHUNK]
        products = (part[:, :, None] * part[:, None, :]).reshape(len(part), -1)
        theirs = torch.tensor(grams[start : start + CHUNK, _ROWS, _COLUMNS], device="cpu")
        total += torch.tensor(products, device="cpu").T @ theirs
    gram = np.empty((width, width, SIZE, SIZE))
    gram[:, :, _ROWS, _COLUMNS] = gram[:, :, _COLUMNS, _ROWS] = total.numpy().reshape(width, width, -1) / count
    errors = change.T @ (crosses - grams @ IDENTITY) / count
    sides = np.stack([_side(weights[groups == group], errors[groups == group]) for group in range(groups.max() + 1)])
    changed = np.moveaxis(change.T @ gram @ change, 1, 2)
    return System(changed, sides, change)


def _side(weights: np.ndarray, errors: np.ndarray) -> np.ndarray:
    side: np.ndarray = np.einsum("jd,jkc->dkc", weights, errors)
    return side


def solve(equations: System, ridge: float) -> np.ndarray:
    """Return what each group adds to the coefficients, `(L, d, 10, 3)`; their sum is c - identity."""
    groups, width = equations.sides.shape[:2]
    matrix = equations.gram.reshape(width * SIZE, width * SIZE).copy()
    matrix[np.diag_indices(len(matrix))] += np.repeat([CONSTANT_RIDGE, *[ridge] * (width - 1)], SIZE)
    columns = np.moveaxis(equations.sides.reshape(groups, -1, 3), 0, 1).reshape(-1, groups * 3)
    left, right = (torch.tensor(side, device="cpu") for side in (matrix, columns))
    solved = torch.linalg.solve(left, right).numpy().reshape(width, SIZE, groups, 3)
    found: np.ndarray = equations.change @ np.moveaxis(solved, 2, 0)
    return found
