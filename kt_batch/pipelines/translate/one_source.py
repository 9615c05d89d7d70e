"""One source for each photograph: a method that sees one image of a library, or one style image, and no other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.config import MethodConfig
from kt_batch.errors import UsageError
from kt_batch.index.collection import Collection
from kt_batch.index.index import Index
from kt_batch.index.restricted import IndexImages
from kt_batch.index.served.fetched import ServedImages
from kt_batch.index.served.index import ServedIndex
from kt_batch.kernels.staging import staged
from kt_batch.methods.base import Method, Resources
from kt_batch.methods.features import encode, to_tensor
from kt_batch.methods.table import method_named
from kt_batch.pipelines.translate import draws
from kt_batch.pipelines.translate.large import working_pixels
from kt_batch.store.images.files import WorkingImage, pad_to
from kt_batch.store.indexes import read_index_summary
from kt_batch.store.opening import open_library
from kt_batch.store.statistics import find_statistics, image_moments

ROOM = 512 << 20  # bytes of the methods that a worker keeps
OF_IMAGE = 96 << 20  # bytes that a method keeps of a source image which it encodes, about
OF_STYLE = 1 << 20  # bytes of a method of a style image, about


class OneImage(Mapping[str, Tensor]):
    """One of several images by id; it is read when it is asked for."""

    def __init__(self, images: Mapping[str, Tensor], image_id: str) -> None:
        self._images, self._image_id = images, image_id

    def __getitem__(self, image_id: str) -> Tensor:
        if image_id != self._image_id:
            raise KeyError(image_id)
        return self._images[image_id]

    def __iter__(self) -> Iterator[str]:
        return iter((self._image_id,))

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True)
class _Kept:
    method: Method
    bytes: int


class OneSource:
    """Draws a source for each photograph, and keeps the methods of those that were used last.

    What is kept changes no result. libraries: The places of the libraries, for `nearest`. positions: Image id of a
    photograph -> its position, for `round-robin`.
    """

    def __init__(
        self,
        config: MethodConfig,
        resources: Resources,
        libraries: Sequence[str] = (),
        positions: Mapping[str, int] | None = None,
        *,
        room: int = ROOM,
    ) -> None:
        """Raise UsageError when there is no source."""
        self._config, self._resources, self._libraries = config, resources, libraries
        self._positions, self._room = positions or {}, room
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        index = resources.index
        indexes = index.indexes if isinstance(index, Collection) else () if index is None else (index,)
        self._numbers = index.numbers if isinstance(index, Collection) else (0,)
        self._images = [ServedImages(each) if isinstance(each, ServedIndex) else IndexImages(each) for each in indexes]
        self._holder = {image: place for place in reversed(range(len(indexes))) for image in self._images[place].images}
        self.sources = sorted(self._holder if indexes else resources.styles or ())
        if not self.sources:
            raise UsageError(
                f"--source {config.draw} has no source to draw: no allowed image has a patch in the index."
            )

    def number(self, image_id: str) -> int:
        """Return the number of the library that a source is taken from: the first that holds it."""
        return self._numbers[self._holder[image_id]]

    def draw(self, image_id: str, working: WorkingImage) -> str:
        """Return the source of a photograph."""
        if self._config.draw == "nearest":
            return self.sources[draws.nearest(self._mean_of(working), self._means)]
        if self._config.draw == "round-robin":
            return self._turn[self._positions[image_id] % len(self._turn)]
        return draws.drawn(self._config.draw_seed, image_id, self.sources)

    def method(self, source: str) -> Method:
        """Return the method that sees one source alone."""
        kept = self._kept.pop(source, None) or self._made(source)
        self._kept[source] = kept
        while len(self._kept) > 1 and sum(each.bytes for each in self._kept.values()) > self._room:
            self._kept.popitem(last=False)
        return kept.method

    def _made(self, source: str) -> _Kept:
        resources, size = self._resources, OF_STYLE
        if self._images:
            part = self._images[self._holder[source]].of_image(source)
            resources, size = replace(resources, index=part), _bytes_of(part)
            if resources.images is not None:
                resources, size = replace(resources, images=OneImage(resources.images, source)), size + OF_IMAGE
        else:
            resources = replace(resources, styles=OneImage(resources.styles or {}, source))
        return _Kept(method_named(self._config.method)(self._config, resources), size)

    @cached_property
    def _turn(self) -> list[str]:
        return draws.shuffled(self._config.draw_seed, self.sources)

    @torch.no_grad()
    def _mean_of(self, working: WorkingImage) -> NDArray[np.float64]:
        """Return the channel means `(C,)` of the features of a photograph."""
        encoder, cut = self._resources.encoder, self._config.encoder
        if encoder is None or cut is None:
            raise UsageError(f"--source nearest compares features, and {self._config.method} encodes nothing.")
        stride = encoder.geometry(cut.layer).stride
        pixels = working_pixels(self.method(self.sources[0]), working, self._config)
        image = staged(to_tensor(pad_to(pixels, stride)), self._resources.device)
        features = encode(encoder, image, cut.layer)
        return features.double().mean((1, 2)).cpu().numpy()

    @cached_property
    def _means(self) -> NDArray[np.float64]:
        """The channel means of all sources `(n, C)`, from the statistics of their libraries."""
        found: dict[str, NDArray[np.float64]] = {}
        digests = (self._config.index_digest, *(each.index_digest for each in self._config.further_libraries))
        for place, digest in zip(self._libraries, digests, strict=True):
            library = open_library(place)
            summary = read_index_summary(library.location, str(digest))
            statistics = find_statistics(library, summary.key(library) if summary else None)
            for image, moments in image_moments(library.location, statistics):
                found.setdefault(image, moments.mean)
        if absent := [image for image in self.sources if image not in found]:
            raise UsageError(
                f"--source nearest finds no statistics of {len(absent)} images such as {absent[0]}; run kt-batch "
                "statistics again."
            )
        return np.stack([found[image] for image in self.sources])


def _bytes_of(index: Index) -> int:
    return sum(tensor.nbytes for shard in index.shards for tensor in shard.tensors().values())
