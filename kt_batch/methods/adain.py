"""Adaptive instance normalisation (Huang & Belongie 2017): channel statistics of a style, then the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kt_batch.config import EncoderConfig, ImageId, Layer, MethodConfig
from kt_batch.errors import UsageError
from kt_batch.kernels.moments import Moments
from kt_batch.methods.base import Need, Resources, Result, SourceProvenance
from kt_batch.methods.features import decode, encode, timed

EPSILON = 1e-5  # added to the photograph's deviations, as the authors' code adds it to its variances


class AdainConfig(MethodConfig):
    """The settings of `adain`."""

    method: Literal["adain"] = "adain"
    encoder: EncoderConfig
    styles: tuple[ImageId, ...] = Field((), description="Image ids of the style images.")
    alpha: float = Field(1.0, ge=0.0, le=1.0, description="1: the style's statistics; 0: the photograph's own.")

    @model_validator(mode="after")
    def _check_style(self) -> Self:
        if bool(self.styles) == (self.statistics_digest is not None):
            raise ValueError("adain takes styles or the statistics of a library, one of the two")
        return self


class Adain:
    """Gives features the channel means and deviations of style images, or of all cells of a library.

    Several style images count alike: their means and their deviations are averaged. The cells of a library count alike,
    so its deviations are those between its images too.
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
        if resources.statistics is not None:
            mean, deviation = of_library(resources.statistics.moments)
            self.style = mean.to(resources.device), deviation.to(resources.device)
            self.shares = dict(resources.statistics.shares)
        else:
            self.style, self.shares = self._of_images(resources.styles or {})

    @torch.no_grad()
    def _of_images(self, styles: Mapping[str, Tensor]) -> tuple[tuple[Tensor, Tensor], dict[str, float]]:
        """Return the average statistics of style images, and the share of each."""
        pairs = [statistics(encode(self.encoder, styles[image_id], self.cut)) for image_id in sorted(styles)]
        return mean_statistics(pairs), dict.fromkeys(sorted(styles), 1 / len(styles))

    @torch.no_grad()
    def translate(self, image: Tensor) -> Result:
        """Translate one image.

        Args:
            image: `(3, H, W)` float32 RGB in [0, 1]; both sides are multiples of the stride and at least twice it.
        """
        seconds: dict[str, float] = {}
        with timed(seconds, "encode"):
            features = encode(self.encoder, image, self.cut)
        with timed(seconds, "transfer"):
            styled = adain(features, *self.style)
            mixed = features + self.config.alpha * (styled - features)
        with timed(seconds, "decode"):
            # The photograph's fine details belong to its own statistics: they fade as the style's take over.
            output = decode(self.decoder, mixed, features, 1 - self.config.alpha)
        return Result(output, SourceProvenance(self.shares), seconds)


def statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the channel means and sample deviations, both `(C, 1, 1)`, of features `(C, h, w)`."""
    return features.mean((1, 2), keepdim=True), features.std((1, 2), keepdim=True)


def of_library(moments: Moments) -> tuple[Tensor, Tensor]:
    """Return the channel means and sample deviations, both `(C, 1, 1)` float32, of the cells of a library."""
    mean, deviation = (
        torch.from_numpy(values).float()[:, None, None] for values in (moments.mean, moments.deviation())
    )
    return mean, deviation


def mean_statistics(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the average of several means and of several deviations, all `(C, 1, 1)`."""
    means, deviations = zip(*pairs, strict=True)
    return torch.stack(means).mean(0), torch.stack(deviations).mean(0)


def adain(features: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Give features `(C, h, w)` the channel means and deviations `(C, 1, 1)` of a style (eq. 8 of the paper).

    Differs from the paper: EPSILON is added to the deviation, so that a flat channel becomes the style's mean.
    """
    own_mean, own_deviation = statistics(features)
    return (features - own_mean) / (own_deviation + EPSILON) * deviation + mean
