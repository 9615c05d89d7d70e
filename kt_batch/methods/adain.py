"""Adaptive instance normalisation (Huang & Belongie 2017): channel statistics of a style, then the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kt_batch.config import EncoderConfig, ImageId, Layer, MethodConfig
from kt_batch.errors import UsageError
from kt_batch.kernels.colour import preserve_colour
from kt_batch.kernels.moments import Moments
from kt_batch.kernels.regions import blended, freedom
from kt_batch.methods.base import Need, Resources, Result, SourceProvenance
from kt_batch.methods.details import DetailsConfig, details_kept
from kt_batch.methods.features import decode_styled, encode, timed
from kt_batch.methods.styles import EncodedRegions, MixesStyles, StyleMixes, weighted_mean

EPSILON = 1e-5  # added to the photograph's deviations, as the authors' code adds it to its variances


class AdainConfig(DetailsConfig):
    """The settings of `adain`."""

    method: Literal["adain"] = "adain"
    encoder: EncoderConfig
    styles: tuple[ImageId, ...] = Field((), description="Image ids of the style images.")
    alpha: float = Field(1.0, ge=0.0, le=1.0, description="1: the style's statistics; 0: the photograph's own.")
    preserve_colour: bool = Field(False, description="Keep the photograph's own colours.")

    @model_validator(mode="after")
    def _check_style(self) -> Self:
        if bool(self.styles) == (self.statistics_digest is not None):
            raise ValueError("adain takes styles or the statistics of a library, one of the two")
        return self


class Adain(EncodedRegions, MixesStyles):
    """Gives features the channel means and deviations of style images, or of all cells of a library.

    The means and the deviations of several style images are averaged by their weights. The cells of a library count
    alike, so its deviations are those between its images too. In regions, the photograph's own statistics are those of
    each region.
    """

    config_type: ClassVar[type[MethodConfig]] = AdainConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ENCODER, Need.DECODER, Need.STYLES, Need.STATISTICS})
    stages: ClassVar[tuple[str, ...]] = ("encode", "transfer", "decode")
    layer: ClassVar[Layer | None] = "relu4_1"
    levels: ClassVar[tuple[Layer, ...]] = ()

    def __init__(self, config: AdainConfig, resources: Resources) -> None:
        if resources.encoder is None or resources.decoder is None or not (resources.styles or resources.statistics):
            raise UsageError("The method adain needs an encoder, a decoder and style images, or statistics.")
        self.config = config
        self.encoder, self.decoder = resources.encoder, resources.decoder
        self.cut = config.encoder.layer
        self.stride = self.encoder.geometry(self.cut).stride
        library = resources.statistics
        self.mixes = StyleMixes(config, resources.styles or {}, library.shares if library else None)
        if library is not None:
            mean, deviation = of_library(library.moments)
            self.styles = [(mean.to(resources.device), deviation.to(resources.device))]
        else:
            self.styles = self._of_images(resources.styles or {})

    @torch.no_grad()
    def _of_images(self, styles: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return the average statistics of the images of each style."""
        found = {each: statistics(encode(self.encoder, styles[each], self.cut)) for each in sorted(styles)}
        return [mean_statistics([found[each] for each in mix], list(mix.values())) for mix in self.mixes.mixes]

    @torch.no_grad()
    def translate(self, image: Tensor, regions: Tensor | None = None) -> Result:
        """Translate one image.

        Args:
            image: `(3, H, W)` float32 RGB in [0, 1]; both sides are multiples of the stride and at least twice it.
            regions: `(H, W)` int64, the number of the style of each pixel; None: one style everywhere.
        """
        parts = self.mixes.parts(regions)
        seconds: dict[str, float] = {}
        with timed(seconds, "encode"):
            features = encode(self.encoder, image, self.cut)
        with timed(seconds, "transfer"):
            masks = parts.masks_on(*features.shape[1:])
            styles = [self.styles[number] for number in parts.styles]
            pairs = zip(styles, masks, strict=True)
            styled = blended([adain(features, *style, mask) for style, mask in pairs], masks)
            mixed = features + self.config.alpha * (styled - features)
        with timed(seconds, "decode"):
            # The colours of its details belong to the photograph's statistics: they fade as the style's take over.
            alpha = self.config.alpha
            output = decode_styled(self.decoder, mixed, features, 1 - alpha, details_kept(alpha, self.config.details))
        if self.config.preserve_colour:
            output = preserve_colour(output, image)
        return Result(output, SourceProvenance(self.mixes.shares(parts)), seconds)


def statistics(features: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the channel means and sample deviations, both `(C, 1, 1)`, of features `(C, h, w)`.

    A mask `(h, w)` weighs the cells. Means are summed in float64: those of a flat channel are its value, to the last
    bit, or EPSILON would make a colour of the rest.
    """
    if mask is not None:
        weights = mask.double()
        mean = ((features * weights).sum((1, 2), keepdim=True) / weights.sum()).to(features.dtype)
        squares = ((features - mean).square() * mask).sum((1, 2), keepdim=True)
        return mean, (squares / freedom(mask)).sqrt()
    mean = features.mean((1, 2), keepdim=True, dtype=torch.float64).to(features.dtype)
    return mean, features.std((1, 2), keepdim=True)


def of_library(moments: Moments) -> tuple[Tensor, Tensor]:
    """Return the channel means and sample deviations, both `(C, 1, 1)` float32, of the cells of a library."""
    mean, deviation = (
        torch.from_numpy(values).float()[:, None, None] for values in (moments.mean, moments.deviation())
    )
    return mean, deviation


def mean_statistics(pairs: list[tuple[Tensor, Tensor]], weights: list[float]) -> tuple[Tensor, Tensor]:
    """Return the average of several means and of several deviations, all `(C, 1, 1)`; the weights sum to 1."""
    means, deviations = zip(*pairs, strict=True)
    return weighted_mean(means, weights), weighted_mean(deviations, weights)


def adain(features: Tensor, mean: Tensor, deviation: Tensor, mask: Tensor | None = None) -> Tensor:
    """Give features `(C, h, w)` the channel means and deviations `(C, 1, 1)` of a style (eq. 8 of the paper).

    Their own ones are those of all cells, or by the weights of a mask `(h, w)`.

    Differs from the paper: EPSILON is added to the deviation, so that a flat channel becomes the style's mean.
    """
    own_mean, own_deviation = statistics(features, mask)
    return (features - own_mean) / (own_deviation + EPSILON) * deviation + mean
