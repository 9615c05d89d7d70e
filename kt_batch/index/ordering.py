"""Orders of integers and floats on any device: by numpy on a processor, where it is several times as fast as torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def sorted_values(values: Tensor) -> Tensor:
    """Return `values` `(m,)`, ascending."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy()))
    return values.sort().values


def ascending_order(values: Tensor) -> Tensor:
    """Return the order `(m,)` int64 in which `values` `(m,)` ascend; that of equal ones is not defined."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.argsort(values.numpy()))
    return values.sort(stable=True).indices


def stable_order(values: Tensor, below: int) -> Tensor:
    """Return the order `(m,)` int64 in which `values` `(m,)` ascend, all in [0, below); equal ones keep theirs."""
    if values.device.type == "cpu":
        return torch.from_numpy(
            np.argsort(values.numpy().astype(np.int16 if below < 1 << 15 else np.int64), kind="stable")
        )
    return values.sort(stable=True).indices


def order_by(*keys: Tensor) -> Tensor:
    """Return the order `(m,)` int64 by the first of `keys` `(m,)`, of equal ones by the next; all equal keep theirs."""
    if keys[0].device.type == "cpu":
        return torch.from_numpy(np.lexsort([key.numpy() for key in reversed(keys)]))
    order = keys[-1].sort(stable=True).indices
    for key in reversed(keys[:-1]):
        order = order[key[order].sort(stable=True).indices]
    return order


def largest_columns(values: Tensor, count: int) -> Tensor:
    """Return the columns `(n, count)` int64 of the largest values of each row of `(n, c)`, in any order."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.argpartition(values.numpy(), -count, axis=1)[:, -count:].copy())
    return values.topk(count, dim=1, sorted=False).indices


def largest_of_rank(values: Tensor, rank: int) -> Tensor:
    """Return the value `(n,)` that is number `rank` of each row of `(n, c)`, the largest being number 1."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.partition(values.numpy(), -rank, axis=1)[:, -rank].copy())
    return values.topk(rank, dim=1).values[:, -1]
