"""The inverse network of style-swap, in the format of its authors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from kt_batch.errors import WeightsError
from kt_batch.models.weights import load_style_swap

WIDTHS = (256, 128, 128, 128, 128, 64, 64, 64, 64, 3)


def published(seed: int = 0) -> dict[str, Tensor]:
    """Return seeded weights by the published names."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for number in range(1, 10):
        width, after = WIDTHS[number - 1], WIDTHS[number]
        state[f"tconv{number}.weight"] = torch.randn(width, after, 3, 3, generator=generator) / (9 * width) ** 0.5
        state[f"tconv{number}.bias"] = torch.randn(after, generator=generator)
        if number < 9:
            state[f"in{number}.weight"] = torch.rand(after, generator=generator) + 0.5
            state[f"in{number}.bias"] = torch.randn(after, generator=generator)
    return state


def test_the_inverse_is_nine_transposed_convolutions_with_instance_norms(tmp_path: Path) -> None:
    state = published()
    save_file(state, tmp_path / "inverse.safetensors")
    features = torch.randn(1, 256, 4, 6, generator=torch.Generator().manual_seed(1))
    x = features
    for number in range(1, 10):
        if number in (3, 7):
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = functional.conv_transpose2d(x, state[f"tconv{number}.weight"], state[f"tconv{number}.bias"], padding=1)
        if number < 9:
            mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
            scale, shift = (state[f"in{number}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
            x = ((x - mean) / (variance + 1e-3).sqrt() * scale + shift).relu()
    image = load_style_swap(str(tmp_path / "inverse.safetensors")).decode(features)
    assert image.shape == (1, 3, 16, 24)
    torch.testing.assert_close(image, torch.sigmoid(x), rtol=1e-4, atol=1e-5)


def test_another_network_is_refused(tmp_path: Path) -> None:
    state = published()
    del state["in8.bias"]
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(WeightsError, match="does not fit its network"):
        load_style_swap(str(tmp_path / "short.safetensors"))
