"""The Haar packet against PyWavelets."""

from __future__ import annotations

import numpy as np
import pywt
import torch

from kt_batch.kernels.haar import haar, mean_and_std


def patch(a: float, b: float, c: float, d: float) -> torch.Tensor:
    return torch.tensor([a, b, c, d]).view(1, 4, 1)


def test_the_bands_of_a_patch_match_a_hand_computed_example() -> None:
    # [[1, 2], [3, 6]]: LL = 12/2, LH = (1 - 2 + 3 - 6)/2, HL = (1 + 2 - 3 - 6)/2, HH = (1 - 2 - 3 + 6)/2
    assert haar(patch(1, 2, 3, 6)).flatten().tolist() == [6, -2, -3, 1]


def test_the_bands_agree_with_pywavelets(generator: torch.Generator) -> None:
    cells = torch.rand(50, 4, 3, generator=generator)
    image = cells.double().numpy().reshape(50, 2, 2, 3)
    approximation, (horizontal, vertical, diagonal) = pywt.dwt2(image, "haar", axes=(1, 2))
    ll, lh, hl, hh = haar(cells).numpy().transpose(1, 0, 2)
    np.testing.assert_allclose(ll, approximation[:, 0, 0], atol=1e-6)
    np.testing.assert_allclose(lh, vertical[:, 0, 0], atol=1e-6)
    np.testing.assert_allclose(hl, horizontal[:, 0, 0], atol=1e-6)
    np.testing.assert_allclose(hh, diagonal[:, 0, 0], atol=1e-6)


def test_lh_responds_to_a_vertical_edge_and_hl_to_a_horizontal_one() -> None:
    assert haar(patch(1, 0, 1, 0)).flatten().tolist() == [1, 1, 0, 0]
    assert haar(patch(1, 1, 0, 0)).flatten().tolist() == [1, 0, 1, 0]


def test_mean_and_deviation_of_a_patch_match_a_hand_computed_example() -> None:
    # 1, 3, 1, 3: mean 2, population deviation 1
    mean, std = mean_and_std(haar(patch(1, 3, 1, 3)))
    assert (mean.item(), std.item()) == (2, 1)


def test_mean_and_deviation_need_only_the_packet(generator: torch.Generator) -> None:
    cells = torch.rand(50, 4, 3, generator=generator)
    mean, std = mean_and_std(haar(cells))
    torch.testing.assert_close(mean, cells.mean(1))
    torch.testing.assert_close(std, cells.std(1, correction=0))


def test_a_flat_patch_has_zero_deviation() -> None:
    mean, std = mean_and_std(haar(patch(5, 5, 5, 5)))
    assert (mean.item(), std.item()) == (5, 0)
