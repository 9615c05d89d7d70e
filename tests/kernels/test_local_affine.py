"""Local affine colour maps: fitted in windows, bounded, applied band by band."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kt_batch.kernels.descriptors import LUMA
from kt_batch.kernels.local_affine import (
    DARK,
    MOST_DEVIATION,
    MOST_GAIN,
    apply_local_affine,
    between,
    bounded_slopes,
    fit_local_affine,
)


def picture(seed: int, height: int = 13, width: int = 17) -> Tensor:
    return 0.2 + 0.6 * torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def window(place: int, size: int, radius: int) -> slice:
    return slice(max(0, place - radius), min(size, place + radius + 1))


def slow_fit(source: np.ndarray, target: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Return unbounded maps `(3, 4, h, w)` from the normal equations of each window, one after the other."""
    _, height, width = source.shape
    single = np.zeros((3, 4, height, width))
    for row, col in np.ndindex(height, width):
        part = np.s_[:, window(row, height, radius), window(col, width, radius)]
        x, y = source[part].reshape(3, -1), target[part].reshape(3, -1)
        mean_x, mean_y = x.mean(1), y.mean(1)
        gain = np.clip((LUMA @ mean_y + DARK) / (LUMA @ mean_x + DARK), 1 / MOST_GAIN, MOST_GAIN)
        centred = x - mean_x[:, None]
        variance = centred @ centred.T / x.shape[1] + epsilon * np.eye(3)
        covariance = (y - mean_y[:, None]) @ centred.T / x.shape[1] + epsilon * gain * np.eye(3)
        slopes = covariance @ np.linalg.inv(variance)
        single[:, :3, row, col], single[:, 3, row, col] = slopes, mean_y - slopes @ mean_x
    averaged = np.zeros_like(single)
    for row, col in np.ndindex(height, width):
        around = single[:, :, window(row, height, radius), window(col, width, radius)]
        averaged[:, :, row, col] = around.mean((2, 3))
    return averaged


def slow_apply(pixels: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Return the mapped pixels of a whole picture: bilinear maps, one pixel after the other."""
    height, width, _ = pixels.shape
    mapped = np.zeros(pixels.shape)
    for row, col in np.ndindex(height, width):
        places = []
        for place, size, small in ((row, height, maps.shape[2]), (col, width, maps.shape[3])):
            exact = min(max((place + 0.5) / size * small - 0.5, 0), small - 1)
            low = int(exact)
            places.append(((low, 1 - exact + low), (min(low + 1, small - 1), exact - low)))
        here = sum(maps[:, :, r, c] * a * b for r, a in places[0] for c, b in places[1])
        mapped[row, col] = here[:, :3] @ pixels[row, col] + here[:, 3]
    return mapped


# ---- fit -------------------------------------------------------------------------------------------------------------


def test_maps_are_the_normal_equations_of_each_window_averaged_over_windows() -> None:
    source = picture(1)
    target = 0.1 + 0.8 * source + 0.02 * picture(2)  # near enough to a gain that no bound acts
    found = fit_local_affine(source, target, radius=2, epsilon=0.01)
    assert found.shape == (3, 4, 13, 17)
    assert found.numpy() == pytest.approx(slow_fit(source.numpy(), target.numpy(), 2, 0.01), abs=1e-5)


def test_equal_pictures_give_the_identity_everywhere() -> None:
    found = fit_local_affine(picture(1), picture(1), radius=3, epsilon=0.003)
    identity = torch.cat([torch.eye(3), torch.zeros(3, 1)], dim=1)
    torch.testing.assert_close(found, identity[:, :, None, None].expand_as(found), atol=1e-6, rtol=0)


def test_a_flat_picture_that_becomes_brighter_gets_a_pure_gain() -> None:
    source = torch.full((3, 9, 9), 0.3)
    found = fit_local_affine(source, torch.full((3, 9, 9), 0.46), radius=2, epsilon=0.003)
    assert torch.isfinite(found).all()
    gain = (0.46 + DARK) / (0.3 + DARK)  # 1.5
    expected = torch.cat([gain * torch.eye(3), torch.full((3, 1), 0.46 - gain * 0.3)], dim=1)
    torch.testing.assert_close(found, expected[:, :, None, None].expand_as(found), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("source", "target"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_black_and_white_give_finite_maps_that_map_one_to_the_other(source: float, target: float) -> None:
    found = fit_local_affine(torch.full((3, 5, 5), source), torch.full((3, 5, 5), target), radius=1, epsilon=0.003)
    assert torch.isfinite(found).all()
    mapped = apply_local_affine(np.full((5, 5, 3), source, np.float32), found.numpy(), 0, 5)
    assert mapped == pytest.approx(np.full((5, 5, 3), target), abs=1e-6)


def test_an_inverted_picture_is_not_followed() -> None:
    found = fit_local_affine(picture(1), 1 - picture(1), radius=3, epsilon=0.003)
    ramp = np.linspace(0, 1, 11, dtype=np.float32)[None, :, None].repeat(3, axis=2)
    for row, col in ((0, 0), (6, 8), (12, 16)):
        mapped = apply_local_affine(ramp, found[:, :, row : row + 1, col : col + 1].numpy(), 0, 1)
        assert (np.diff(mapped[0] @ LUMA) > 0).all()


def test_slopes_keep_to_their_bounds() -> None:
    found = fit_local_affine(picture(1), picture(2), radius=1, epsilon=1e-6)
    slopes = found[:, :3].permute(2, 3, 0, 1).double()
    contrasts = torch.linalg.eigvalsh((slopes + slopes.mT) / 2)  # along any direction of colour
    assert contrasts.min() >= (1 - MOST_DEVIATION) / MOST_GAIN - 1e-6
    assert contrasts.max() <= (1 + MOST_DEVIATION) * MOST_GAIN + 1e-6


def test_a_bound_keeps_the_direction_of_a_deviation() -> None:
    within = torch.tensor([[1.2, 0.1, 0.0], [0.0, 0.8, 0.0], [0.0, -0.1, 1.0]])
    torch.testing.assert_close(bounded_slopes(within), within)
    far = torch.eye(3) + 10 * (within - torch.eye(3))
    bounded = bounded_slopes(far) - torch.eye(3)
    assert float(bounded.norm()) == pytest.approx(MOST_DEVIATION)
    torch.testing.assert_close(bounded / bounded.norm(), (within - torch.eye(3)) / (within - torch.eye(3)).norm())


# ---- application -----------------------------------------------------------------------------------------------------


def a_map(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (3, 4, height, width)).astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (20, 9), (33, 50), (1, 1), (2, 64)])
def test_maps_are_interpolated_between_the_centres_of_their_cells(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).random((height, width, 3), np.float32)
    maps = a_map(1, 5, 7)
    assert apply_local_affine(pixels, maps, 0, height) == pytest.approx(slow_apply(pixels, maps), abs=1e-5)


def test_between_two_cells_the_share_grows_evenly() -> None:
    first, second, share = between(np.arange(8), 8, 2)
    # Eight pixels over two cells, whose centres lie at 2 and 6: pixels 2 to 5 (centres 2.5 to 5.5) lie between.
    assert (first.tolist(), second.tolist()) == ([0] * 6 + [1, 1], [1] * 6 + [1, 1])
    assert share == pytest.approx([0, 0, 0.125, 0.375, 0.625, 0.875, 0, 0])


@pytest.mark.parametrize("step", [1, 7, 40])
def test_bands_of_any_height_give_the_same_bytes(step: int) -> None:
    pixels = np.random.default_rng(0).random((40, 31, 3), np.float32)
    maps = a_map(1, 9, 8)
    whole = apply_local_affine(pixels, maps, 0, 40)
    bands = [apply_local_affine(pixels[top : top + step], maps, top, 40) for top in range(0, 40, step)]
    assert np.concatenate(bands).tobytes() == whole.tobytes()


def test_a_picture_may_cover_a_part_of_the_maps() -> None:
    first, second, share = between(np.arange(6), 6, 1.5)
    # Six pixels over one and a half cells, whose centres lie at pixels 2 and 6: from 2 on, the second takes over.
    assert (first.tolist(), second.tolist()) == ([0] * 6, [1] * 6)
    assert share == pytest.approx([0, 0, 0.125, 0.375, 0.625, 0.875])
    pixels = np.random.default_rng(0).random((12, 10, 3), np.float32)
    maps = a_map(1, 9, 8)
    found = apply_local_affine(pixels, maps, 0, 12, (5, 7))
    assert found.tobytes() == apply_local_affine(pixels, np.ascontiguousarray(maps[:, :, :5, :7]), 0, 12).tobytes()
