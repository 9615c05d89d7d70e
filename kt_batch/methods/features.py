"""Between pixels, tensors and features: one image at a time, so that its bytes depend on it alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.errors import WeightsError
from kt_batch.kernels.grid import without_grid
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder


def encode(encoder: Encoder, image: Tensor, layer: str) -> Tensor:
    """Encode one image `(3, H, W)` to float32 features `(C, h, w)`.

    Raises:
        WeightsError: The features are not finite. Pixels are, so the weights are at fault.
    """
    return encode_layers(encoder, image, (layer,))[layer]


def encode_layers(encoder: Encoder, image: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor]:
    """Encode one image `(3, H, W)` once, to float32 features `(C, h, w)` of each layer.

    Raises:
        WeightsError: The features are not finite. Pixels are, so the weights are at fault.
    """
    batch = image[None].contiguous(memory_format=torch.channels_last)
    found = encoder.forward(batch, layers)
    return {layer: check_finite(batched[0].contiguous(), layer) for layer, batched in found.items()}


def check_finite(features: Tensor, layer: str) -> Tensor:
    """Return the features at `layer` as they are. Raises WeightsError when they are not finite."""
    if not torch.stack(torch.aminmax(features)).isfinite().all():  # NaN is the least and the most of all
        raise WeightsError(f"With these weights the encoder's {layer} holds NaN or infinity; take other weights.")
    return features


def decode(decoder: Decoder, features: Tensor, own: Tensor | None = None, detail_weight: float = 1.0) -> Tensor:
    """Decode one feature map `(C, h, w)` to an image `(3, H, W)` in [0, 1].

    Args:
        decoder: The network.
        features: The feature map.
        own: The feature map whose fine details the image gets, as in `Decoder.forward`.
        detail_weight: How much of these details, in [0, 1].
    """
    maps = [None if m is None else m[None].contiguous(memory_format=torch.channels_last) for m in (features, own)]
    return decoder.decode(cast("Tensor", maps[0]), maps[1], detail_weight)[0].contiguous()


def decode_styled(decoder: Decoder, features: Tensor, own: Tensor, own_weight: float, fine_weight: float) -> Tensor:
    """Decode features that no image has to an image `(3, H, W)` in [0, 1], without the grid that they leave.

    Args:
        decoder: The network.
        features: A feature map with a style, `(C, h, w)`.
        own: That of the photograph, whose details the image gets, `(C, h, w)`.
        own_weight: How much of these details, in [0, 1]. At 1 the features are the photograph's own: no style has left
            a grid in them, and what repeats in the picture is the photograph's.
        fine_weight: How much of those that are no colour: with a mean of zero in each cell. At least `own_weight`.
    """
    image = decode(decoder, features, own, own_weight)
    if own_weight >= 1:
        return image
    if fine_weight > own_weight:
        fine = decoder.missing_details(own[None].contiguous(memory_format=torch.channels_last))[0]
        image = (image + (fine_weight - own_weight) * fine).clamp_(0, 1)
    return without_grid(image.contiguous(), decoder.scale)


def to_tensor(pixels: NDArray[np.float32]) -> Tensor:
    """Return pixels `(H, W, 3)` as `(3, H, W)`, sharing memory."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def to_pixels(image: Tensor) -> NDArray[np.float32]:
    """Return an image `(3, H, W)` on any device as pixels `(H, W, 3)`."""
    return image.permute(1, 2, 0).contiguous().cpu().numpy()


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds that the block takes. A GPU that this process uses has done the block's work by then."""
    started = time.perf_counter()
    yield
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - started
