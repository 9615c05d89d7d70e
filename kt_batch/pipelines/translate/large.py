"""Pictures larger than the sources of a method: made at the size of the sources, then enlarged by the method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.config import EncoderConfig, MethodConfig
from kt_batch.kernels.sizes import fit
from kt_batch.kernels.staging import staged
from kt_batch.methods.base import PROCESSOR, Enlarger, Method, Result, SourceProvenance
from kt_batch.methods.features import to_tensor
from kt_batch.methods.styles import SharesAreas, TakesRegions, region_choices
from kt_batch.pipelines.translate.masks import Regions
from kt_batch.store.images.files import WorkingImage, pad_to, resized
from kt_batch.store.images.labels import labels_at


def larger_size(method: type[Method], encoder: EncoderConfig, size: int | None) -> dict[str, object]:
    """Return the field of a configuration that holds a size above the encoder's, for a method that enlarges; or none.

    Args:
        method: The method.
        encoder: The encoder at the size of the sources.
        size: Long side of the pictures that are wanted, in pixels; None for that of the sources.
    """
    larger = issubclass(method, Enlarger) and size is not None and size > encoder.size
    return {"size": size} if larger else {}


def translate_image(
    method: Method,
    working: WorkingImage,
    config: MethodConfig,
    device: torch.device = PROCESSOR,
    regions: Regions | None = None,
) -> Result:
    """Translate a working image: as it is, or where it is larger than the encoder's size, reduced to that first.

    What is reduced is the working image and not its file, so that the size at which the method worked follows from
    that of the output. The method computes on `device`. `regions` are those of a mask.
    """
    pixels = working_pixels(method, working, config)
    image = staged(to_tensor(pad_to(pixels, method.stride)), device)
    if isinstance(method, TakesRegions) and region_choices(config):
        height, width = pixels.shape[:2]
        numbers = _numbers(method, image, config, regions, (height, width))
        result = method.translate(image, numbers)
        if isinstance(method, SharesAreas):  # a method works on padding too, which is no part of the picture
            shares = method.mixes.shares_in(numbers[:height, :width])
            result = replace(result, provenance=SourceProvenance(shares))
    else:
        result = method.translate(image)
    if isinstance(method, Enlarger) and pixels is not working.pixels:
        large = np.require(working.pixels, requirements="W")  # a copy, where torch would not take them
        return method.enlarge(result, staged(to_tensor(pixels), device), staged(to_tensor(large), device))
    return result


def _numbers(
    method: TakesRegions, image: Tensor, config: MethodConfig, regions: Regions | None, size: tuple[int, int]
) -> Tensor:
    """Return the number of the style of each pixel of a padded image, `(H, W)` int64: of a mask, or of like regions.

    size: Height and width of the image without its padding, to which a mask is reduced.
    """
    if regions is None:
        return method.like_regions(image, config.regions or 1) % region_choices(config)
    labels = regions if regions.shape == size else labels_at(regions.astype(np.uint16), size[1], size[0])
    padded = pad_to(labels[..., None].astype(np.float32), method.stride)[..., 0]  # numbers of styles are exact
    return staged(torch.from_numpy(padded.astype(np.int64)), image.device)


def working_pixels(method: Method, working: WorkingImage, config: MethodConfig) -> NDArray[np.float32]:
    """Return the pixels `(H, W, 3)` at which a method works: those of the working image, or that reduced."""
    pixels = working.pixels
    if config.encoder and isinstance(method, Enlarger) and max(pixels.shape[:2]) > config.encoder.size:
        pixels = resized(pixels, *fit(working.width, working.height, config.encoder.size))
    return pixels
