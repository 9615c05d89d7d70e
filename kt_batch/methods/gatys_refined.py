"""Neural style transfer with fewer layers (Yu & Chang, "Study on Image Style Transfer"), a refinement of `gatys`.

The pixels of the photograph itself descend a * CL + b * SL, where CL and SL sum the losses of content and style over
three layers, all with weight 1. Gradient descent is plain, and nothing starts from noise.

Erratum: the paper prints both losses as sums of differences without squares, sum (A_i - B_i) and
sum (G_i(A) - G_i(B)). Such sums have no least value. Here they are the squared losses of Gatys et al. (`kernels.gram`).

Differs from the paper:
    - relu4_1 stands for conv5-3 where the weights end at relu4_1, as all weights do that this project reads.
    - The printed rate, 0.00001, belongs to sums over the features of the authors' network, in a scale that they do not
      print: with the shipped one, the pixels leave all bounds in a few steps. The losses are divided as in `gatys`, and
      the rate has another default.
    - A step that raises the loss is taken back, and the rate is halved from there on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from kt_batch.config import EncoderConfig, ImageId, Layer, MethodConfig
from kt_batch.errors import UsageError
from kt_batch.kernels.colour import preserve_colour
from kt_batch.kernels.gram import content_loss, gram
from kt_batch.methods.base import Need, Resources, Result, SourceProvenance
from kt_batch.methods.checkpoints import Progress, progress_of
from kt_batch.methods.descent import GradientDescent, descended
from kt_batch.methods.features import timed
from kt_batch.methods.gatys import Pooling, activations, regions_loss, wanted_styles
from kt_batch.methods.styles import EncodedRegions, MixesStyles, Parts, StyleMixes
from kt_batch.models.encoder import Encoder

PRINTED = ("relu1_2", "relu3_3", "relu5_3")
SUBSTITUTES = {"relu5_3": "relu4_1"}
GREYS = 255.0  # the pixel scale of the learning rate


class GatysRefinedConfig(MethodConfig):
    """The settings of `gatys_refined`."""

    method: Literal["gatys_refined"] = "gatys_refined"
    encoder: EncoderConfig
    styles: tuple[ImageId, ...] = Field(min_length=1, description="Image ids of the style images.")
    content_weight: float = Field(1.0, gt=0, le=1e12, description="Of the content's loss (a).")
    style_weight: float = Field(10.0, gt=0, le=1e12, description="Of the style's loss beside the content's (b).")
    learning_rate: float = Field(
        10.0, gt=0, le=1e12, description="First rate of gradient descent, for pixels of 0 to 255."
    )
    iterations: int = Field(100, ge=1, le=10_000, description="Steps of gradient descent.")
    pooling: Pooling = Field("average", description="How the encoder reduces its maps.")
    preserve_colour: bool = Field(False, description="Keep the photograph's own colours.")


class GatysRefined(EncodedRegions, MixesStyles):
    """Lets the pixels of a photograph descend a loss of content and Gram matrices at three layers."""

    config_type: ClassVar[type[MethodConfig]] = GatysRefinedConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ENCODER, Need.STYLES})
    stages: ClassVar[tuple[str, ...]] = ("encode", "optimise")
    layer: ClassVar[Layer | None] = "relu4_1"
    levels: ClassVar[tuple[Layer, ...]] = ()

    def __init__(self, config: GatysRefinedConfig, resources: Resources) -> None:
        if resources.encoder is None or not resources.styles:
            raise UsageError("The method gatys_refined needs an encoder and style images.")
        self.config = config
        self.encoder = resources.encoder.requires_grad_(requires_grad=False)
        self.cut = config.encoder.layer
        self.layers = layers_of(self.encoder)
        self.stride = self.encoder.geometry(self.layers[-1]).stride
        self.mixes = StyleMixes(config, resources.styles)
        with torch.no_grad():
            self.grams = {
                image_id: {layer: gram(found) for layer, found in self._activations(resources.styles[image_id]).items()}
                for image_id in sorted(resources.styles)
            }

    def translate(self, image: Tensor, regions: Tensor | None = None) -> Result:
        """Translate one image.

        Args:
            image: `(3, H, W)` float32 RGB in [0, 1]; both sides are multiples of the stride and at least twice it.
            regions: `(H, W)` int64, the number of the style of each pixel; None: one style everywhere.
        """
        parts = self.mixes.parts(regions)
        seconds = dict.fromkeys(self.stages, 0.0)
        progress = progress_of(self.config, image, regions, self.config.iterations)
        output = progress.finished(1, image)
        if output is None:
            with timed(seconds, "encode"):
                loss = self._loss(image, parts)
            with timed(seconds, "optimise"):
                output = gradient_descent(image, loss, self.config.learning_rate, self.config.iterations, progress)
            progress.finish(1, output)
        if self.config.preserve_colour:
            output = preserve_colour(output, image)
        return Result(output, SourceProvenance(self.mixes.shares(parts)), seconds)

    @torch.no_grad()
    def _loss(self, photograph: Tensor, parts: Parts) -> Callable[[Tensor], Tensor]:
        """Return the loss of a picture beside a photograph."""
        content = self._activations(photograph)
        wanted = wanted_styles(self.mixes, parts, self.grams)

        def loss(picture: Tensor) -> Tensor:
            found = self._activations(picture)
            kept = torch.stack([content_loss(found[each], content[each]) / content[each].numel() for each in found])
            styled = regions_loss(found, wanted, parts) * len(self.layers)  # a sum over layers, not their mean
            return self.config.content_weight * kept.sum() + self.config.style_weight * styled

        return loss

    def _activations(self, image: Tensor) -> dict[str, Tensor]:
        return activations(self.encoder, image, self.layers, self.config.pooling)


def layers_of(encoder: Encoder) -> tuple[str, ...]:
    """Return the layers of the paper, each with its substitute where the weights do not hold it."""
    return tuple(layer if layer in encoder.layers else SUBSTITUTES.get(layer, layer) for layer in PRINTED)


def gradient_descent(
    start: Tensor, loss: Callable[[Tensor], Tensor], rate: float, steps: int, progress: Progress | None = None
) -> Tensor:
    """Return the image `(3, H, W)` in [0, 1] that `start` becomes after some steps of gradient descent.

    A step that raises the loss, or leads to one that is not finite, is taken back and the rate is halved.

    Args:
        start: `(3, H, W)` in [0, 1].
        loss: Of an image in [0, 1]; a mean over cells.
        rate: For pixels of 0 to 255, and the loss times the number of pixels, so that one rate fits all sizes.
        steps: Gradients that are computed.
        progress: Keeps the state of the work.
    """
    scale = start.shape[1] * start.shape[2] / GREYS**2
    return descended(GradientDescent(start, loss, steps, rate, scale), progress or Progress(steps), 0)
