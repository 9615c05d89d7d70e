"""Training batches: an endless stream of augmented crops from any folder or URI, in bounded memory."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kt_batch.errors import RejectError
from kt_batch.store.images.files import decode
from kt_batch.store.inputs import read_input

KEPT_SIZE = 768  # long side at which an image is cut up
CROPS_PER_IMAGE = 16
BUFFER = 1024  # crops that wait to be drawn, so that a batch mixes many images


def crops(uris: Sequence[str], batch: int, size: int, seed: int) -> Iterator[Tensor]:
    """Endless batches `(batch, 3, size, size)` float32 in [0, 1]: random scale, place, mirror, contrast, saturation.

    Every image is read once per epoch, in a random order, and cut into CROPS_PER_IMAGE crops that pass through a buffer
    of BUFFER crops. One that cannot be read is left out. Raises RejectError when none can, and UnreachableError when a
    store fails.
    """
    generator = random.Random(seed)  # noqa: S311 - for crops, not for secrets
    drawn = _shuffled(_cut(uris, size, generator), min(BUFFER, CROPS_PER_IMAGE * len(uris)), generator)
    while True:
        pixels = np.stack([next(drawn) for _ in range(batch)])
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        varied = torch.stack([_varied(crop, generator) for crop in image])
        yield varied.contiguous(memory_format=torch.channels_last)


def _cut(uris: Sequence[str], size: int, generator: random.Random) -> Iterator[np.ndarray]:
    while True:
        reject: RejectError | None = None
        found = False
        for uri in generator.sample(uris, len(uris)):
            try:
                pixels = decode(read_input(uri), KEPT_SIZE).pixels
            except RejectError as error:
                reject = error
                continue
            found = True
            image = Image.fromarray((pixels * 255).round().astype(np.uint8))
            for _ in range(CROPS_PER_IMAGE):
                yield _crop(image, size, generator)
        if reject is not None and not found:
            raise reject


def _shuffled(crops: Iterator[np.ndarray], length: int, generator: random.Random) -> Iterator[np.ndarray]:
    buffer = [next(crops) for _ in range(length)]
    for crop in crops:
        place = generator.randrange(length)
        buffer[place], drawn = crop, buffer[place]
        yield drawn


def _crop(image: Image.Image, size: int, generator: random.Random) -> np.ndarray:
    """`(size, size, 3)` uint8 from a random square whose side is size / scale pixels."""
    scale = generator.uniform(0.5, 1.2) * 512 / max(image.size)
    side = min(size / scale, *image.size)
    x, y = generator.uniform(0, image.width - side), generator.uniform(0, image.height - side)
    resampling = Image.Resampling.BICUBIC if side < size / 0.7 else Image.Resampling.BOX
    square = image.resize((size, size), resampling, box=(x, y, x + side, y + side))
    return np.asarray(square if generator.random() < 0.5 else square.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def _varied(crop: Tensor, generator: random.Random) -> Tensor:
    """Contrast, brightness, saturation and, sometimes, the order of the colours of `(3, size, size)` changed."""
    if generator.random() < 0.5:
        crop = (crop - 0.5) * generator.uniform(0.7, 1.3) + 0.5 + generator.uniform(-0.1, 0.1)
    if generator.random() < 0.3:
        grey = crop.mean(0, keepdim=True)
        crop = grey + (crop - grey) * generator.uniform(0, 1.6)
    if generator.random() < 0.1:
        crop = crop[generator.sample(range(3), 3)]
    return crop.clamp(0, 1)
