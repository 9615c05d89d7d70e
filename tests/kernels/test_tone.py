"""A painted picture that can be read."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from kt_batch.kernels.colour import luminance
from kt_batch.kernels.tone import CONTRAST, readable


def drawn(seed: int, low: float, high: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(3, 12, 16, generator=generator)


def grey(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows).expand(3, -1, -1).contiguous()


def test_a_picture_as_bright_and_contrasty_as_its_photograph_stays_as_it_is() -> None:
    photograph = drawn(0, 0, 1)
    assert readable(photograph, photograph) is photograph


def test_a_dark_picture_is_lifted_by_a_power_of_its_light() -> None:
    # The photograph's mean is .55, so the picture's becomes .25: (x ** 2 + x) / 2 = .25 with x = .25 ** p = .366.
    x = ((1 + 8 * 0.25) ** 0.5 - 1) / 2
    lifted = readable(grey([0.0625, 0.25]), grey([0.5, 0.6]))
    torch.testing.assert_close(lifted, grey([x**2, x]), atol=1e-4, rtol=0)


def test_a_black_picture_is_lifted_by_no_more_than_the_power_of_seven_tenths() -> None:
    torch.testing.assert_close(readable(grey([0.01, 0.02]), grey([0.9, 0.9])), grey([0.01**0.7, 0.02**0.7]))


def test_a_foggy_picture_is_stretched_around_its_mean() -> None:
    # The photograph's deviation is .5, so the picture gets .42 * .5 = .21; it has .15.
    torch.testing.assert_close(readable(grey([0.65, 0.95]), grey([0.0, 1.0])), grey([0.59, 1.0]), atol=1e-5, rtol=0)


def test_no_contrast_is_enlarged_more_than_twice() -> None:
    torch.testing.assert_close(readable(grey([0.69, 0.71]), grey([0.0, 1.0])), grey([0.68, 0.72]), atol=1e-5, rtol=0)


def test_a_bright_picture_is_not_darkened() -> None:
    picture = grey([0.5, 1.0, 1.0, 1.0])
    assert readable(picture, grey([0.0, 0.1, 0.2, 0.3])) is picture


def test_one_flat_black_stays_finite() -> None:
    black = torch.zeros(3, 4, 4)
    assert readable(black, torch.ones(3, 4, 4)).isfinite().all()


@given(seed=st.integers(0, 999), top=st.floats(0.05, 1), base=st.floats(0, 0.9), width=st.floats(0.01, 1))
def test_whatever_the_picture_it_gets_no_darker_and_its_order_of_light_stays(
    seed: int, top: float, base: float, width: float
) -> None:
    picture, photograph = drawn(seed, 0, top), drawn(seed + 1, base, min(base + width, 1))
    found = readable(picture, photograph)
    assert found.min() >= 0
    assert found.max() <= 1
    assert luminance(found).mean() >= luminance(picture).mean() - 0.02  # clipping takes a little
    light, new = luminance(picture).flatten(), luminance(found).flatten()
    assert torch.corrcoef(torch.stack([light, new]))[0, 1] > 0.8
    assert new.std() >= min(light.std(), CONTRAST * luminance(photograph).std() * 0.5)
