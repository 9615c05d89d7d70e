"""Style-swap, against a slow search and on patches that are known."""

from __future__ import annotations

import torch
from torch import Tensor

from kt_batch.kernels.style_swap import style_swap


def features(seed: int, height: int, width: int) -> Tensor:
    return torch.rand(4, height, width, generator=torch.Generator().manual_seed(seed))


def slow_swap(content: Tensor, style: Tensor) -> Tensor:
    """Look through all patches one by one, and average overlaps."""
    total, count = torch.zeros_like(content), torch.zeros_like(content)
    for top in range(content.shape[1] - 2):
        for left in range(content.shape[2] - 2):
            patch = content[:, top : top + 3, left : left + 3].flatten()
            known = [
                style[:, y : y + 3, x : x + 3] for y in range(style.shape[1] - 2) for x in range(style.shape[2] - 2)
            ]
            best = max(known, key=lambda each: float(each.flatten() @ patch / each.norm()))
            total[:, top : top + 3, left : left + 3] += best
            count[:, top : top + 3, left : left + 3] += 1
    return total / count


def test_the_swap_is_that_of_a_slow_search() -> None:
    content, style = features(0, 6, 7), features(1, 5, 8)
    torch.testing.assert_close(style_swap(content, style), slow_swap(content, style))


def test_a_style_replaces_itself() -> None:
    style = features(2, 7, 6)
    torch.testing.assert_close(style_swap(style, style), style)


def test_brightness_does_not_choose_the_patch() -> None:
    style = features(3, 6, 6)
    torch.testing.assert_close(style_swap(0.1 * style, style), style)
