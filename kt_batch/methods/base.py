"""The contract of a method: what it needs, its stages, and one working image in, one result out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.config import Layer, MethodConfig
from kt_batch.index.collection import Collection
from kt_batch.index.index import Index
from kt_batch.index.served.index import ServedIndex
from kt_batch.kernels.moments import Moments
from kt_batch.methods.retouch.fit import Fit
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder
from kt_batch.models.stylebank import AutoEncoder

PROCESSOR = torch.device("cpu")


class Need(StrEnum):
    """The resources that a method may need."""

    ENCODER = "encoder"
    DECODER = "decoder"
    DECODERS = "decoders"  # one for each of the method's levels
    INDEX = "index"
    STATISTICS = "statistics"  # of a library: channel means and second moments; beside STYLES, one of the two
    STYLES = "styles"  # style images
    IMAGES = "images"  # the working images that a library keeps
    BANKS = "banks"  # filter banks, and the network that they belong to
    PAIRS = "pairs"  # maps fitted to the before/after pairs of a library


@dataclass(frozen=True)
class LibraryStatistics:
    """The statistics of a library at the method's layer. shares: Image id -> share of the cells; they sum to 1."""

    moments: Moments
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Banks:
    """Filter banks and their network. banks: `(C, C, k, k)` each, in the order in which a configuration names them."""

    network: AutoEncoder
    banks: tuple[Tensor, ...]


@dataclass(frozen=True)
class Resources:
    """The loaded resources of a method; None for those that it does not need.

    device: Where the method computes: networks, images, style images and those given to `translate` are there. Only the
    index may be elsewhere.

    styles: Image id -> style image `(3, H, W)` float32 RGB in [0, 1], at the working size, its sides multiples of the
    encoder's stride. An image is read when it is asked for.
    index: An index, those of several libraries, or one that owners hold.
    decoders: Layer -> decoder, for each level of the method.
    images: Image id -> working image of the library, as styles.
    images_by_library: The same of each library, for regions that have libraries of their own.
    """

    encoder: Encoder | None = None
    decoder: Decoder | None = None
    index: Index | Collection | ServedIndex | None = None
    decoders: Mapping[Layer, Decoder] | None = None
    images: Mapping[str, Tensor] | None = None
    images_by_library: tuple[Mapping[str, Tensor], ...] = ()
    styles: Mapping[str, Tensor] | None = None
    fit: Fit | None = None
    statistics: LibraryStatistics | None = None
    banks: Banks | None = None
    device: torch.device = PROCESSOR


@dataclass(frozen=True)
class PatchProvenance:
    """The library patch behind every patch of a result: n query patches with k matches each, best first.

    All are on the processor. rows, cols: `(n,)` int64, the top-left cells of the query patches. patch_ids:
    `(n, k, 12)` uint8. ncc, weights: `(n, k)` float32. certified: `(n,)` bool, whether the first match is proved to be
    the best. libraries: `(n, k)` uint8, the number of the library of each match; None where there is one library, or
    the image alone decides.
    """

    rows: Tensor
    cols: Tensor
    patch_ids: Tensor
    ncc: Tensor
    weights: Tensor
    certified: Tensor
    libraries: Tensor | None = None


@dataclass(frozen=True)
class LevelProvenance:
    """The library patches behind a result at each of its levels, from coarse to fine."""

    levels: Mapping[Layer, PatchProvenance]


@dataclass(frozen=True)
class SourceProvenance:
    """The share of each source image in a whole result. shares: Image id -> share; they sum to 1."""

    shares: Mapping[str, float]


class Edit(Protocol):
    """A colour map for the pixels of the photograph itself, at any size."""

    def apply(self, pixels: NDArray[np.float32], top: int, height: int) -> NDArray[np.float32]:
        """Return the edited pixels of some rows of the photograph.

        Rows come from the top to the bottom, in blocks of any number. Values are sRGB. They are in [0, 1], and may be
        below 0 and above 1 where the photograph has a larger space and a colour lies outside sRGB. What is returned is
        clipped to the space of the output, not to sRGB: an edit that limits values to [0, 1] takes colours away.

        Args:
            pixels: `(rows, width, 3)`; they are the edit's to change.
            top: The row of the upright photograph that the first one is.
            height: The rows of the photograph.

        Returns:
            An array of the same shape, which may be `pixels`.
        """


@dataclass(frozen=True)
class EditFacts:
    """The facts that a run records about an edit.

    coefficients: `(10, 3)` float64, the colour map (`kernels/quadratic.py`). confidence: How much the photograph is
    like those that the edit was learned from, 0..1. guard: 1 for the predicted map, 0.5 for the mean map in its place,
    0 for no edit. strength: 0 for no edit, 1 for all of it. series: Name of the series of photographs that share the
    edit, 16 hex digits; empty for an edit of one photograph's own.
    """

    coefficients: NDArray[np.float64]
    confidence: float
    guard: float
    strength: float
    series: str = ""


class Unchanged:
    """The edit that changes nothing: samples are written as they are, in their own colour space."""


UNCHANGED = Unchanged()


@dataclass(frozen=True)
class Result:
    """The result of a method for one image.

    output: An image `(3, H, W)` float32 RGB in [0, 1] on the method's device, as large as the image that went in, or an
    edit of the photograph's own pixels at their full size. provenance: Without any share, the photograph is its own
    source. seconds: Stage -> seconds. edit: What a run records of an edit.
    """

    output: Tensor | Edit | Unchanged
    provenance: PatchProvenance | LevelProvenance | SourceProvenance
    seconds: dict[str, float]
    edit: EditFacts | None = None


class Method(Protocol):
    """Translates images. An instance keeps nothing between two images.

    config_type: The method's configuration. needs: What `Resources` must hold. stages: The keys of `Result.seconds`, in
    the order of the work. layer: Where the encoder is cut when no library decides; None without an encoder.
    levels: The layers whose decoders it needs; empty where one decoder is enough.
    stride: Both sides of an image are multiples of it.
    """

    config_type: ClassVar[type[MethodConfig]]
    needs: ClassVar[frozenset[Need]]
    stages: ClassVar[tuple[str, ...]]
    layer: ClassVar[Layer | None]
    levels: ClassVar[tuple[Layer, ...]]
    stride: int

    def __init__(self, config: Any, resources: Resources) -> None:
        """Take the configuration, of `config_type`, and what the method needs."""

    def translate(self, image: Tensor) -> Result:
        """Translate one image `(3, H, W)` float32 RGB in [0, 1]."""


@runtime_checkable
class Enlarger(Protocol):
    """A method that works at the size of its sources, and makes larger pictures from what it made at that size."""

    def enlarge(self, result: Result, photograph: Tensor, large: Tensor) -> Result:
        """Return a result with a larger picture.

        Args:
            result: What `translate` made of `photograph`; its picture may have padding.
            photograph: `(3, h, w)`, without padding.
            large: The same photograph at the wanted size, `(3, H, W)`.
        """
