"""Filter banks on features (StyleBank, Chen et al. 2017): one bank, a mixture of banks, and banks by region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def filtered(features: Tensor, bank: Tensor) -> Tensor:
    """Convolve features with a filter bank (eq. 1); cells beyond the border repeat those at the border.

    Args:
        features: `(n, C, h, w)`.
        bank: `(D, C, k, k)`; k is odd.

    Returns:
        `(n, D, h, w)`.
    """
    reach = bank.shape[-1] // 2
    return F.conv2d(F.pad(features, (reach, reach, reach, reach), mode="replicate"), bank)


def identity_bank(channels: int, kernel: int = 3) -> Tensor:
    """Return the bank `(C, C, k, k)` float32 that leaves features as they are."""
    bank = torch.zeros(channels, channels, kernel, kernel, device="cpu")
    bank[range(channels), range(channels), kernel // 2, kernel // 2] = 1
    return bank


def mixture(banks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the sum of banks times their weights (eq. 5), in the order given.

    Args:
        banks: `(D, C, k, k)` each. The odd k may differ: a small filter is a large one whose rim is zero.
        weights: One for each bank.
    """
    kernel = max(bank.shape[-1] for bank in banks)
    total = torch.zeros(*banks[0].shape[:2], kernel, kernel, dtype=banks[0].dtype, device=banks[0].device)
    for bank, weight in zip(banks, weights, strict=True):
        rim = (kernel - bank.shape[-1]) // 2
        total += weight * F.pad(bank, (rim, rim, rim, rim))
    return total


def fused(features: Tensor, banks: Sequence[Tensor], weights_per_cell: Tensor) -> Tensor:
    """Convolve each region of features with its own bank, and return the sum (eq. 6).

    Weights may be fractions: where regions meet softly, banks are mixed. Weights that are the same in all cells give
    what `mixture` gives.

    Args:
        features: `(n, C, h, w)`.
        banks: `(D, C, k, k)` each, m of them; the odd k may differ.
        weights_per_cell: `(m, h, w)`, the weight of each bank in each cell; the m weights of a cell sum to 1.

    Returns:
        `(n, D, h, w)`.

    Raises:
        ValueError: The weights are not `(m, h, w)`.
    """
    wanted = (len(banks), *features.shape[2:])
    if tuple(weights_per_cell.shape) != wanted:
        raise ValueError(f"weights of shape {tuple(weights_per_cell.shape)}; allowed is {wanted}")
    parts = [filtered(features * weights, bank) for bank, weights in zip(banks, weights_per_cell, strict=True)]
    return torch.stack(parts).sum(0)
