"""The pictures of an evaluation: photographs, paintings, and results made one size with their photograph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.errors import RejectError, UsageError
from kt_batch.evaluation.style.pixels import SMALLEST_SIDE
from kt_batch.methods.features import to_pixels, to_tensor
from kt_batch.pipelines.inputs import find_images
from kt_batch.pipelines.progress import no_progress
from kt_batch.store.images.file_bytes import Data
from kt_batch.store.images.files import WorkingImage, decode, image_id, resized
from kt_batch.store.inputs import read_input

STRIDE = 8  # both sides are multiples of it, so that no network pads
MOST_PICTURES = 200  # photographs or paintings of one evaluation, which are kept in memory

Decode = Callable[[Data, int], WorkingImage]  # bytes of a file, long side -> its pixels


@dataclass(frozen=True)
class StylePicture:
    """A photograph or a painting.

    name: its file's name without the ending. working: its pixels, both sides multiples of 8.
    """

    id: str
    name: str
    uri: str
    working: WorkingImage

    @property
    def image(self) -> Tensor:
        """Return the pixels as `(3, H, W)` float32 in [0, 1]."""
        return to_tensor(self.working.pixels)


@dataclass(frozen=True)
class Unusable:
    """An image that was passed over. reason: A sentence that names it."""

    uri: str
    reason: str


def read_pictures(places: Sequence[str], size: int, what: str, decode: Decode = decode) -> list[StylePicture]:
    """Read all images of places, by ascending image id; equal images count once.

    Args:
        places: paths, folders, patterns or URIs.
        size: long side in pixels; nothing is enlarged. The right and the lower border are cropped to multiples of 8.
        what: `photographs` or `paintings`, for messages.
        decode: turns the bytes of a file into pixels; that of an `ImageReaderProcess` for files of strangers.

    Raises:
        RejectError: an image cannot be used.
        UsageError: there are none, more than 200, or one is too small.
    """
    pictures = {picture.id: picture for picture in (read_picture(u, size, decode) for u in _uris(places, what))}
    return [pictures[identity] for identity in sorted(pictures)]


def read_usable(
    places: Sequence[str], size: int, what: str, decode: Decode = decode
) -> tuple[list[StylePicture], list[Unusable]]:
    """Read images as `read_pictures` does, and pass over those that cannot be used; return these too.

    Raises:
        UsageError: There are none, more than 200, or none can be used.
    """
    pictures: dict[str, StylePicture] = {}
    unusable = []
    for uri in _uris(places, what):
        try:
            picture = read_picture(uri, size, decode)
        except (RejectError, UsageError) as error:
            unusable.append(Unusable(uri, str(error)))
        else:
            pictures[picture.id] = picture
    if not pictures:
        raise UsageError(f"None of {len(unusable)} {what} can be used; the last: {unusable[-1].reason}")
    return [pictures[identity] for identity in sorted(pictures)], unusable[::-1]


def _uris(places: Sequence[str], what: str) -> list[str]:
    """Return the places of images, from the last to the first: of equal images the first one names the picture."""
    found = find_images(places, (), no_progress).inputs
    if not 0 < len(found) <= MOST_PICTURES:
        raise UsageError(f"There are {len(found)} {what}; allowed are 1 to {MOST_PICTURES}.")
    return [source.uri for source in reversed(found)]


def read_picture(uri: str, size: int, decode: Decode = decode) -> StylePicture:
    """Read one image. Raises RejectError and UsageError, which name it."""
    data = read_input(uri)
    try:
        working = decode(data, size)
    except RejectError as error:
        raise RejectError(error.reason, f"'{uri}' cannot be used: {error.message}") from error
    height, width = (side // STRIDE * STRIDE for side in working.pixels.shape[:2])
    if min(height, width) < SMALLEST_SIDE:
        raise UsageError(
            f"'{uri}' has {working.width} x {working.height} pixels at --size {size}; the style measures need at least "
            f"{SMALLEST_SIDE} on each side."
        )
    cropped = replace(working, pixels=np.array(working.pixels[:height, :width]))
    return StylePicture(image_id(data), PurePosixPath(uri).stem, uri, cropped)


def as_written(image: Tensor) -> Tensor:
    """Return an image `(3, H, W)` with its values rounded to 8 bits, as a file holds them."""
    return (image.clamp(0, 1) * 255).add(0.5).floor().div(255)


def bytes_of(image: Tensor) -> NDArray[np.uint8]:
    """Return an image `(3, H, W)` in [0, 1] as pixels `(H, W, 3)` of 8 bits."""
    return (to_pixels(image) * 255 + 0.5).astype(np.uint8)


def in_size_of(result: StylePicture, photograph: StylePicture) -> Tensor:
    """Return a finished picture as `(3, H, W)` in the size of its photograph, resized by Lanczos if it has another."""
    height, width = photograph.working.pixels.shape[:2]
    pixels = result.working.pixels
    if pixels.shape[:2] != (height, width):
        pixels = resized(pixels, width, height)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
