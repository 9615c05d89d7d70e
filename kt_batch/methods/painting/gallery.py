"""The source images of a painting: encoded when they are needed, and kept while there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kt_batch.config import Layer
from kt_batch.kernels.smooth import quick_mean
from kt_batch.kernels.transport import Bands, bands, gaussian, mixture
from kt_batch.methods.painting.levels import LAST, LAYERS, LEVELS, SMALLEST, encode_levels, encode_photograph
from kt_batch.methods.painting.strokes import Size, resized
from kt_batch.models.encoder import Encoder

ROOM = 512 << 20  # bytes of sources that a worker keeps
TONE = 2  # cells around a cell whose mean is its tone
SAMPLE = 8  # images whose features stand for those of all


@dataclass(frozen=True)
class Source:
    """One source image in the size in which it is looked at.

    cells: Of each level, `(h, w, 2C)` float32: a code and its tone, the mean around it. bands: The moments of the bands
    of each layer, those of the last one in the image's own size. size: Height and width of that, in pixels.
    """

    cells: dict[Layer, Tensor]
    bands: dict[Layer, Bands]
    size: Size

    @classmethod
    def of(cls, codes: Mapping[Layer, Tensor], size: Size) -> Source:
        """Return the source image of this size of which these are the codes `(C, h, w)`, by layer."""
        cells = {
            level.layer: torch.cat([code, quick_mean(code, TONE)]).permute(1, 2, 0).contiguous()
            for level in LEVELS
            for code in (codes[level.layer],)
        }
        return cls(cells, {layer: bands(code) for layer, code in codes.items()}, size)

    @property
    def bytes(self) -> int:
        """The bytes of all tensors in memory."""
        moments = (part for each in self.bands.values() for part in (each.whole, each.coarse, each.fine))
        return sum(each.nbytes for each in self.cells.values()) + sum(
            part.mean.nbytes + part.covariance.nbytes for part in moments
        )


class Sources:
    """Encodes the images of a library and keeps those that were used last. What is kept changes no result.

    stroke: Times the size in which they are looked at (`strokes.py`).
    """

    def __init__(
        self, encoder: Encoder, images: Mapping[str, Tensor], stroke: float = 1.0, *, room: int = ROOM
    ) -> None:
        self._encoder, self._images, self._stroke, self._room = encoder, images, stroke, room
        self._kept: OrderedDict[str, Source] = OrderedDict()

    def __getitem__(self, image_id: str) -> Source:
        """Return the source image called `image_id`."""
        if image_id in self._kept:
            self._kept.move_to_end(image_id)
            return self._kept[image_id]
        image = self._images[image_id]
        looked_at = resized(image, self._stroke)
        codes = encode_levels(self._encoder, looked_at)
        if looked_at is not image:  # its finest detail would be blurred, or twice as rich
            codes |= encode_levels(self._encoder, image, (LAST,))
        height, width = image.shape[1:]
        source = Source.of(codes, (height, width))
        self._kept[image_id] = source
        while len(self._kept) > 1 and sum(each.bytes for each in self._kept.values()) > self._room:
            self._kept.popitem(last=False)
        return source


@dataclass(frozen=True)
class Usual:
    """Channel means and deviations of a library's features, `(C, 1, 1)` float32: those of SAMPLE of its images."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, encoder: Encoder, images: Mapping[str, Tensor]) -> Usual:
        """Measure images at even steps of the order of their ids."""
        ids = sorted(images)
        with torch.no_grad():
            found = [
                gaussian(encode_photograph(encoder, images[image], LAYERS[:1])[1])
                for image in ids[:: -(-len(ids) // SAMPLE)]
            ]
        whole = mixture(found, [1 / len(found)] * len(found))
        return cls(whole.mean.float()[:, None, None], whole.deviation.float()[:, None, None])

    def recolour(self, features: Tensor) -> Tensor:
        """Return features `(C, h, w)` with these means and deviations, so that a match is alike in form."""
        deviation, mean = torch.std_mean(features, (1, 2), correction=0, keepdim=True)
        return (features - mean) / (deviation + SMALLEST) * self.deviation + self.mean
