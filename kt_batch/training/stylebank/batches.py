"""Batches by step: a step gives the same crops and styles whenever it is asked for, so that a training can resume."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kt_batch.errors import RejectError
from kt_batch.store.images.files import decode
from kt_batch.store.inputs import read_input
from kt_batch.training.crops import READ_SIZE, random_crop

KEPT_BYTES = 256 << 20  # of decoded images
ATTEMPTS = 100  # images in a row that cannot be read


class Batches:
    """Random crops of images, and random styles, by step.

    Args:
        uris: The images.
        size: Side of a crop, in pixels.
        count: Crops of a batch.
        styles: How many styles there are.
        seed: Of every draw.
        worker: Workers draw different crops, and the same styles: gradients of the same banks are averaged.
    """

    def __init__(self, uris: Sequence[str], size: int, count: int, styles: int, seed: int, worker: int = 0) -> None:
        self._uris, self._size, self._count, self._styles = uris, size, count, styles
        self._seed, self._worker = seed, worker
        self._kept: OrderedDict[str, NDArray[np.uint8]] = OrderedDict()

    def __call__(self, step: int) -> tuple[Tensor, list[int]]:
        """Return `crops(step)` and `styles(step)`. Raises as `crops` does."""
        return self.crops(step), self.styles(step)

    def crops(self, step: int) -> Tensor:
        """Return crops `(count, 3, size, size)` float32 RGB in [0, 1].

        Raises:
            RejectError: Many images in a row cannot be read.
            UnreachableError: A store fails.
        """
        generator = random.Random(f"crops {self._seed} {self._worker} {step}")  # noqa: S311 - needs no cryptography
        pixels = np.stack(
            [random_crop(Image.fromarray(self._image(generator)), self._size, generator) for _ in range(self._count)]
        )
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255

    def styles(self, step: int) -> list[int]:
        """Return the number of the style of each crop."""
        drawn = random.Random(f"styles {self._seed} {step}")  # noqa: S311
        return [drawn.randrange(self._styles) for _ in range(self._count)]

    def _image(self, generator: random.Random) -> NDArray[np.uint8]:
        """Return the pixels of a random image; unreadable ones are skipped."""
        for _ in range(ATTEMPTS):
            try:
                return self._decoded(generator.choice(self._uris))
            except RejectError as error:
                reject = error
        raise reject

    def _decoded(self, uri: str) -> NDArray[np.uint8]:
        pixels = self._kept.pop(uri, None)
        if pixels is None:
            pixels = (decode(read_input(uri), READ_SIZE).pixels * 255).round().astype(np.uint8)
        self._kept[uri] = pixels
        while sum(kept.nbytes for kept in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return pixels


def centre_square(uri: str, size: int) -> Tensor:
    """Return the middle of an image at a short side of `size` pixels, `(3, size, size)` float32 RGB in [0, 1].

    Raises RejectError where it cannot be read.
    """
    image = Image.fromarray((decode(read_input(uri), READ_SIZE).pixels * 255).round().astype(np.uint8))
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.resize((size, size), Image.Resampling.BOX, box=(left, top, left + side, top + side))
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
