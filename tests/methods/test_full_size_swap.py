"""What a swap does to colours, as an edit of the photograph's own pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kt_batch.methods import full_size_swap
from kt_batch.methods.full_size_swap import colour_maps


def gradient(height: int, width: int) -> torch.Tensor:
    """Return a picture that is darker at the left and redder at the bottom, `(3, height, width)`."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return 0.2 + 0.3 * torch.stack([x + y, x, x]) / 2


@pytest.mark.parametrize(("fitted", "reduction"), [(512, 1), (32, 2), (13, 4)])
def test_maps_fitted_to_reduced_pictures_do_the_same(
    monkeypatch: pytest.MonkeyPatch, fitted: int, reduction: int
) -> None:
    # 63 x 45 pixels, padded to 64 x 48; blue grows to the right, by up to a fifth.
    monkeypatch.setattr(full_size_swap, "FITTED", fitted)
    assert max(1, 64 // fitted) == reduction
    plain = gradient(48, 64)
    swapped = plain.clone()
    swapped[2] += 0.2 * torch.linspace(0, 1, 64)
    edit = colour_maps(plain, swapped, 63)
    photograph = gradient(48, 64)[:, :45, :63].permute(1, 2, 0).numpy()
    wanted = swapped[:, :45, :63].permute(1, 2, 0).numpy()
    assert edit.apply(photograph.copy(), 0, 45) == pytest.approx(wanted, abs=0.02)


def test_a_colour_outside_of_srgb_keeps_what_it_lies_outside() -> None:
    plain = torch.full((3, 8, 8), 0.9)
    edit = colour_maps(plain, torch.full((3, 8, 8), 0.5), 8)
    green = np.array([[[-0.2, 1.1, 0.5]]], np.float32).repeat(8, axis=0).repeat(8, axis=1)
    inside = np.clip(green, 0, 1)
    assert edit.apply(green.copy(), 0, 8) - edit.apply(inside.copy(), 0, 8) == pytest.approx(green - inside, abs=1e-6)
