"""Neural style transfer by optimising pixels (Gatys, Ecker & Bethge 2016).

The pixels of a picture are changed until its features are near the photograph's and its Gram matrices near the style's.
Several styles each keep a term of their own, with their weight (eq. 29 of the supplement of Iterative Feature
Transformation). A region has Gram matrices of its own, and weighs as its area.

Layers are those of the encoder at hand: the shipped ones end at relu4_1, so the content is compared there, and not at
conv4_2, and the styles at relu1_1 to relu4_1, without conv5_1. What leaves [0, 1] costs more than it does there: pixels
that are clipped at the end undo much of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kt_batch.config import EncoderConfig, ImageId, Layer, MethodConfig
from kt_batch.errors import UsageError
from kt_batch.kernels.colour import preserve_colour
from kt_batch.kernels.gram import content_loss, gram, outside, style_loss, total_variation
from kt_batch.methods.base import Need, Resources, Result, SourceProvenance
from kt_batch.methods.checkpoints import Progress, progress_of
from kt_batch.methods.descent import Adam, Lbfgs, descended
from kt_batch.methods.features import timed
from kt_batch.methods.styles import EncodedRegions, Mixes, MixesStyles, Parts, StyleMixes, weighted_mean
from kt_batch.models.encoder import Encoder

CONTENT = "relu4_1"
STYLE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
OUTSIDE = 1e4  # weight of what lies outside [0, 1], and is clipped at the end
NOISE = 0.1  # deviation of the noise of a start from noise, around grey
SMALLEST = 32  # pixels of the short side of the first size

Pooling = Literal["max", "average"]


class GatysConfig(MethodConfig):
    """The settings of `gatys`."""

    method: Literal["gatys"] = "gatys"
    encoder: EncoderConfig
    styles: tuple[ImageId, ...] = Field(min_length=1, description="Image ids of the style images.")
    style_weight: float = Field(100.0, gt=0, le=1e12, description="Of the style's loss beside the content's.")
    smoothness: float = Field(0.0, ge=0, le=1e6, description="Weight of the total variation.")
    iterations: int = Field(100, ge=1, le=10_000, description="Evaluations of the loss at each size.")
    optimiser: Literal["lbfgs", "adam"] = Field("lbfgs", description="What changes the pixels.")
    start: Literal["content", "noise", "style"] = Field("content", description="The picture that the work begins with.")
    sizes: int = Field(1, ge=1, le=5, description="Sizes to work at, each twice the one before.")
    pooling: Pooling = Field("average", description="How the encoder reduces its maps.")
    seed: int = Field(0, ge=0, le=2**31, description="Of the noise.")
    preserve_colour: bool = Field(False, description="Keep the photograph's own colours.")


class Gatys(EncodedRegions, MixesStyles):
    """Changes the pixels of a picture until their features are the photograph's and their Gram matrices the style's."""

    config_type: ClassVar[type[MethodConfig]] = GatysConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ENCODER, Need.STYLES})
    stages: ClassVar[tuple[str, ...]] = ("encode", "optimise")
    layer: ClassVar[Layer | None] = "relu4_1"
    levels: ClassVar[tuple[Layer, ...]] = ()

    def __init__(self, config: GatysConfig, resources: Resources) -> None:
        if resources.encoder is None or not resources.styles:
            raise UsageError("The method gatys needs an encoder and style images.")
        self.config = config
        self.encoder = resources.encoder.requires_grad_(requires_grad=False)
        self.cut = config.encoder.layer
        self.stride = self.encoder.geometry(CONTENT).stride
        self.styles = resources.styles
        self.mixes = StyleMixes(config, resources.styles)

    def translate(self, image: Tensor, regions: Tensor | None = None) -> Result:
        """Translate one image.

        Args:
            image: `(3, H, W)` float32 RGB in [0, 1]; both sides are multiples of the stride and at least twice it.
            regions: `(H, W)` int64, the number of the style of each pixel; None: one style everywhere.
        """
        parts = self.mixes.parts(regions)
        seconds = dict.fromkeys(self.stages, 0.0)
        sizes = halved_sizes(image, self.config.sizes, self.stride)
        progress = progress_of(self.config, image, regions, self.config.iterations)
        result = progress.finished(len(sizes), image)
        if result is None:
            result = self._optimised(image, sizes, parts, (progress, seconds))
            progress.finish(len(sizes), result)
        if self.config.preserve_colour:
            result = preserve_colour(result, image)
        return Result(result, SourceProvenance(self.mixes.shares(parts)), seconds)

    def _optimised(
        self, image: Tensor, sizes: Sequence[tuple[int, int]], parts: Parts, log: tuple[Progress, dict[str, float]]
    ) -> Tensor:
        """Return the picture of an image, made at one size after the other. log: The progress, and the seconds."""
        progress, seconds = log
        output = image
        begun = progress.part
        for number, size in enumerate(sizes[begun:], begun):
            photograph = resized(image, size)
            with timed(seconds, "encode"):
                loss = self._loss(photograph, size[0] / image.shape[1], parts)
            with timed(seconds, "optimise"):
                # A part that goes on replaces its start.
                start = self._start(photograph, parts) if number == 0 else resized(output, size)
                output = minimised(start, loss, self.config.optimiser, self.config.iterations, progress, number)
        return output

    @torch.no_grad()
    def _loss(self, photograph: Tensor, scale: float, parts: Parts) -> Callable[[Tensor], Tensor]:
        """Return the loss of a picture beside a photograph; `scale` reduces the styles as the photograph is reduced."""
        config = self.config
        content = activations(self.encoder, photograph, (CONTENT,), config.pooling)[CONTENT]
        grams: dict[str, dict[str, Tensor]] = {}
        for image_id in self.mixes.shares(parts):
            style = self.styles[image_id]
            size = multiples((round(style.shape[1] * scale), round(style.shape[2] * scale)), self.stride)
            found = activations(self.encoder, resized(style, size), STYLE, config.pooling)
            grams[image_id] = {layer: gram(found[layer]) for layer in STYLE}
        wanted = wanted_styles(self.mixes, parts, grams)

        def loss(picture: Tensor) -> Tensor:
            found = activations(self.encoder, picture, STYLE, config.pooling)
            total = content_loss(found[CONTENT], content) / content.numel()
            total = total + config.style_weight * regions_loss(found, wanted, parts)
            total = total + config.smoothness * total_variation(picture) / picture.numel()
            return total + OUTSIDE * outside(picture)

        return loss

    def _start(self, photograph: Tensor, parts: Parts) -> Tensor:
        if self.config.start == "style":
            return resized(
                self.styles[next(iter(self.mixes.shares(parts)))], (photograph.shape[1], photograph.shape[2])
            )
        if self.config.start == "noise":
            generator = torch.Generator(device=photograph.device).manual_seed(self.config.seed)
            noise = torch.randn(photograph.shape, generator=generator, device=photograph.device)
            return (0.5 + NOISE * noise).clamp(0, 1)
        return photograph


def activations(encoder: Encoder, image: Tensor, layers: tuple[str, ...], pooling: Pooling) -> dict[str, Tensor]:
    """Return the activations `(C, h, w)` of an image `(3, H, W)` at some layers."""
    batched = encoder.activations(image[None], layers, average=pooling == "average")
    return {layer: each[0] for layer, each in batched.items()}


@dataclass(frozen=True)
class Wanted:
    """The style of a region. grams: Layer -> Gram matrix, of each of its images. weights: Of the images; sum 1."""

    grams: Sequence[Mapping[str, Tensor]]
    weights: Sequence[float]


def wanted_styles(mixes: Mixes, parts: Parts, grams: Mapping[str, Mapping[str, Tensor]]) -> list[Wanted]:
    """Return the style of each part of a picture. grams: Image id -> layer -> Gram matrix."""
    chosen = (mixes.mixes[number] for number in parts.styles)
    return [Wanted([grams[image_id] for image_id in mix], list(mix.values())) for mix in chosen]


def regions_loss(found: Mapping[str, Tensor], styles: Sequence[Wanted], parts: Parts) -> Tensor:
    """Return the style loss of a picture: the mean over its parts by their areas. found: Layer -> features."""
    if parts.masks is None:
        return styles_loss(found, styles[0])
    masks = {layer: parts.masks_on(*each.shape[1:]) for layer, each in found.items()}
    losses = [styles_loss(found, style, {each: masks[each][n] for each in masks}) for n, style in enumerate(styles)]
    return weighted_mean(losses, parts.areas)


def styles_loss(found: Mapping[str, Tensor], style: Wanted, masks: Mapping[str, Tensor | None] | None = None) -> Tensor:
    """Return the mean loss over the layers of a style, and over its images by their weights.

    Args:
        found: Layer -> features of the picture.
        style: The style.
        masks: Layer -> weights `(h, w)` of the cells; None: all cells count alike.
    """
    known = masks or {}
    losses = [
        torch.stack([style_loss(found[layer], matrix, known.get(layer)) for layer, matrix in grams.items()])
        for grams in style.grams
    ]
    return weighted_mean(losses, style.weights).mean()


def minimised(
    start: Tensor,
    loss: Callable[[Tensor], Tensor],
    optimiser: str,
    iterations: int,
    progress: Progress | None = None,
    part: int = 0,
) -> Tensor:
    """Return the image `(3, H, W)` in [0, 1] that `start` becomes after some evaluations of its loss.

    `progress` keeps the state of the work, which is the given part of a picture.
    """
    descent = (Adam if optimiser == "adam" else Lbfgs)(start, loss, iterations)
    return descended(descent, progress or Progress(iterations), part)


def halved_sizes(image: Tensor, count: int, stride: int) -> list[tuple[int, int]]:
    """Return up to `count` sizes, each about twice the one before, the last that of the image."""
    height, width = image.shape[1], image.shape[2]
    sizes = [(height, width)]
    for power in range(1, count):
        size = multiples((height >> power, width >> power), stride)
        if min(size) < SMALLEST:
            break
        sizes.insert(0, size)
    return sizes


def multiples(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the nearest size whose sides are multiples of the stride, and at least twice it."""
    height, width = (max(2, round(side / stride)) * stride for side in size)
    return height, width


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return an image `(3, H, W)` at another size, in [0, 1]; the image itself where the size is its own."""
    if (image.shape[1], image.shape[2]) == size:
        return image
    return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
