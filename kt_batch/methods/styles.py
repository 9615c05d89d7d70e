"""Several styles in one picture: the weights of their images, and the regions in which each holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from kt_batch.config import Layer, MethodConfig
from kt_batch.errors import UsageError
from kt_batch.kernels.regions import like_regions, on_grid, soft_masks, some
from kt_batch.methods.base import Result
from kt_batch.methods.features import encode
from kt_batch.models.encoder import Encoder


def region_choices(config: MethodConfig) -> int:
    """Return how many styles, banks or libraries the regions of a picture choose among; 0 without regions."""
    if config.regions is None and config.masks_sha256 is None:
        return 0
    return len(config.style_groups) or len(config.region_banks) or 1 + len(config.further_libraries)


@dataclass(frozen=True)
class Parts:
    """The styles of one picture, and where each holds.

    styles: Numbers in `Mixes.mixes`. areas: Their shares of the pixels; they sum to 1. masks: `(n, H, W)` float32,
    which sum to 1 at each pixel; None for a single style, which holds everywhere.
    """

    styles: tuple[int, ...]
    areas: tuple[float, ...]
    masks: Tensor | None = None

    def masks_on(self, height: int, width: int) -> list[Tensor | None]:
        """Return the mask `(height, width)` of each style on a feature map; None for a single style."""
        return [None] if self.masks is None else list(on_grid(self.masks, height, width))


class Mixes:
    """The styles of a method, each a mix of images, and which of them a region takes.

    mixes: Weight by image id, ascending, of each style; the weights of a style sum to 1.
    """

    def __init__(self, mixes: Sequence[Mapping[str, float]], order: Sequence[int] = (0,)) -> None:
        """Take the styles, and the number of the style of each label, in the order of the caller."""
        self.mixes, self._order = list(mixes), list(order)

    def numbers(self, regions: Tensor | None) -> Tensor | None:
        """Return the number in `mixes` of each pixel, `(H, W)` int64; None where one style holds everywhere.

        Args:
            regions: As in `parts`.

        Raises:
            UsageError: There are several styles and no regions.
        """
        if regions is not None:
            return torch.tensor(self._order, device=regions.device)[regions]
        if len(self.mixes) > 1:
            raise UsageError(f"{len(self.mixes)} styles are given for regions, and the picture has none.")
        return None

    def parts(self, regions: Tensor | None) -> Parts:
        """Return the styles of a picture.

        Args:
            regions: `(H, W)` int64, the number of the style of each pixel, in the order of the caller; None: one style
                holds everywhere.

        Raises:
            UsageError: There are several styles and no regions.
        """
        numbers = self.numbers(regions)
        if numbers is None:
            return Parts((0,), (1.0,))
        counts = torch.bincount(numbers.flatten(), minlength=len(self.mixes)).tolist()
        present = tuple(number for number, count in enumerate(counts) if count)
        if len(present) == 1:
            return Parts(present, (1.0,))
        masks = some(soft_masks(numbers, len(self.mixes)), present)
        return Parts(present, tuple(counts[number] / numbers.numel() for number in present), masks)

    def shares(self, parts: Parts) -> dict[str, float]:
        """Return the share of each style image in a picture, by ascending id: its weights times the areas."""
        return self._shares(parts.styles, parts.areas)

    def shares_in(self, regions: Tensor) -> dict[str, float]:
        """Return the shares in a picture without padding. regions: `(H, W)` int64, as in `parts`."""
        counts = torch.bincount(cast("Tensor", self.numbers(regions)).flatten()).tolist()
        present = [number for number, count in enumerate(counts) if count]
        return self._shares(present, [counts[number] / regions.numel() for number in present])

    def _shares(self, styles: Sequence[int], areas: Sequence[float]) -> dict[str, float]:
        shares: dict[str, float] = {}
        for number, area in zip(styles, areas, strict=True):
            for image_id, weight in self.mixes[number].items():
                shares[image_id] = shares.get(image_id, 0.0) + area * weight
        return dict(sorted(shares.items()))

    def mean(self, number: int, values: Mapping[str, Tensor]) -> Tensor:
        """Return the mean of one value for each image of a style, by their weights."""
        mix = self.mixes[number]
        return weighted_mean([values[image_id] for image_id in mix], list(mix.values()))


class StyleMixes(Mixes):
    """The styles that a configuration names, or the library as a single one.

    A style is a mix of images: all of them, with their weights; or, for regions, those of one place, which count alike.
    Equal styles are one.
    """

    def __init__(
        self, config: MethodConfig, images: Iterable[str], of_library: Mapping[str, float] | None = None
    ) -> None:
        """Take the configuration, the ids of the style images at hand, and the shares of a library's images if any.

        Raises UsageError for weights of other images.
        """
        if of_library is not None:
            super().__init__([dict(of_library)])
            return
        ids = tuple(sorted(images))
        groups = [tuple(sorted(set(group))) for group in config.style_groups] or [ids]
        distinct = sorted(set(groups))
        mixes = [dict.fromkeys(group, 1 / len(group)) for group in distinct]
        if config.style_weights and len(config.style_weights) != len(config.styles):
            raise UsageError(f"{len(config.style_weights)} weights are given for {len(config.styles)} style images.")
        if config.style_weights and not config.style_groups:
            mixes = [dict(zip(sorted(config.styles), config.style_weights, strict=True))]
        super().__init__(mixes, [distinct.index(group) for group in groups])


def weighted_mean(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the mean of tensors of one shape; the weights sum to 1. Equal weights give the plain mean."""
    if len(set(weights)) == 1:
        return torch.stack(list(values)).mean(0)
    return torch.stack([value * weight for value, weight in zip(values, weights, strict=True)]).sum(0)


class SharesAreas:
    """A method whose sources have the shares of the pixels in which they hold."""

    mixes: Mixes


class MixesStyles(SharesAreas):
    """Marks a method that mixes its style images by weights."""


class TakesRegions(ABC):
    """A method whose `translate` takes the number of a style, a library or a bank of each pixel beside the image."""

    stride: int

    @abstractmethod
    def translate(self, image: Tensor, regions: Tensor | None = None) -> Result:
        """Translate one image `(3, H, W)`; see `Mixes.parts` for `regions`."""

    @abstractmethod
    def features_of_regions(self, image: Tensor) -> Tensor:
        """Return the features `(C, h, w)` of an image `(3, H, W)` by which its cells are alike."""

    @torch.no_grad()
    def like_regions(self, image: Tensor, count: int) -> Tensor:
        """Return up to `count` regions of like features in an image `(3, H, W)`: `(H, W)` int64, the largest first."""
        return like_regions(self.features_of_regions(image), count, (image.shape[1], image.shape[2]))


class EncodedRegions(TakesRegions, ABC):
    """A method that takes regions, whose like cells are those of like codes of its encoder."""

    encoder: Encoder
    cut: Layer

    def features_of_regions(self, image: Tensor) -> Tensor:
        """Return the code `(C, h, w)` of an image where the encoder is cut."""
        return encode(self.encoder, image, self.cut)[: self.encoder.code_channels(self.cut)]
