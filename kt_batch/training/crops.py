"""Training batches: an endless stream of augmented crops of any images, in bounded memory."""

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

READ_SIZE = 768  # long side at which an image is decoded
CROPS_PER_IMAGE = 16
BUFFER = 1024  # crops in the shuffle buffer, so that a batch mixes many images


def crops(uris: Sequence[str], batch: int, size: int, seed: int) -> Iterator[Tensor]:
    """Yield batches `(batch, 3, size, size)` float32 RGB in [0, 1] without end.

    Scale, place, mirroring, contrast and saturation are random. Every image is read once per epoch, in random order; it
    gives CROPS_PER_IMAGE crops, which pass through a shuffle buffer. Unreadable images are skipped.

    Raises:
        RejectError: If no image can be read.
        UnreachableError: If a store fails.
    """
    generator = random.Random(seed)  # noqa: S311 - crops need no cryptography
    drawn = _shuffle(_random_crops(uris, size, generator), min(BUFFER, CROPS_PER_IMAGE * len(uris)), generator)
    while True:
        pixels = np.stack([next(drawn) for _ in range(batch)])
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        augmented = torch.stack([_augment(crop, generator) for crop in image])
        yield augmented.contiguous(memory_format=torch.channels_last)


def _random_crops(uris: Sequence[str], size: int, generator: random.Random) -> Iterator[np.ndarray]:
    """Yield crops `(size, size, 3)` uint8, image after image, epoch after epoch."""
    while True:
        reject: RejectError | None = None
        any_read = False
        for uri in generator.sample(uris, len(uris)):
            try:
                pixels = decode(read_input(uri), READ_SIZE).pixels
            except RejectError as error:
                reject = error
                continue
            any_read = True
            image = Image.fromarray((pixels * 255).round().astype(np.uint8))
            for _ in range(CROPS_PER_IMAGE):
                yield random_crop(image, size, generator)
        if reject is not None and not any_read:
            raise reject


def _shuffle(crops: Iterator[np.ndarray], length: int, generator: random.Random) -> Iterator[np.ndarray]:
    """Yield the crops through a buffer of `length`, from which each is drawn at random."""
    buffer = [next(crops) for _ in range(length)]
    for crop in crops:
        place = generator.randrange(length)
        buffer[place], drawn = crop, buffer[place]
        yield drawn


def random_crop(image: Image.Image, size: int, generator: random.Random) -> np.ndarray:
    """Resize a random square to `(size, size, 3)` uint8; its side is size / scale pixels."""
    scale = generator.uniform(0.5, 1.2) * 512 / max(image.size)
    side = min(size / scale, *image.size)
    x, y = generator.uniform(0, image.width - side), generator.uniform(0, image.height - side)
    resampling = Image.Resampling.BICUBIC if side < size / 0.7 else Image.Resampling.BOX
    square = image.resize((size, size), resampling, box=(x, y, x + side, y + side))
    return np.asarray(square if generator.random() < 0.5 else square.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def _augment(crop: Tensor, generator: random.Random) -> Tensor:
    """Vary contrast, brightness, saturation and sometimes the channel order of `(3, size, size)` in [0, 1]."""
    if generator.random() < 0.5:
        crop = (crop - 0.5) * generator.uniform(0.7, 1.3) + 0.5 + generator.uniform(-0.1, 0.1)
    if generator.random() < 0.3:
        grey = crop.mean(0, keepdim=True)
        crop = grey + (crop - grey) * generator.uniform(0, 1.6)
    if generator.random() < 0.1:
        crop = crop[generator.sample(range(3), 3)]
    return crop.clamp(0, 1)
