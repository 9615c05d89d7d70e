"""Neural style transfer by optimising pixels (Gatys, Ecker & Bethge 2016), and the refinement of Yu & Chang.

The pixels of a picture are changed until its features are near the photograph's and its Gram matrices near the style's.
Several styles each keep a term of their own (eq. 29 of the supplement of Iterative Feature Transformation).

Layers are those of the encoder at hand: the shipped ones end at relu4_1, so the content is compared there, and not at
conv4_2, and the styles at relu1_1 to relu4_1, without conv5_1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kt_batch.config import EncoderConfig, ImageId, Layer, MethodConfig
from kt_batch.errors import UsageError
from kt_batch.kernels.colour import preserve_colour
from kt_batch.kernels.gram import content_loss, gram, style_loss, total_variation
from kt_batch.methods.base import Need, Resources, Result, SourceProvenance
from kt_batch.methods.features import timed
from kt_batch.models.encoder import Encoder

CONTENT = "relu4_1"
STYLE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
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


class Gatys:
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
        self.stride = self.encoder.geometry(CONTENT).stride
        self.styles = resources.styles
        self.shares = dict.fromkeys(sorted(resources.styles), 1 / len(resources.styles))

    def translate(self, image: Tensor) -> Result:
        """Translate one image.

        Args:
            image: `(3, H, W)` float32 RGB in [0, 1]; both sides are multiples of the stride and at least twice it.
        """
        seconds: dict[str, float] = {}
        output = None
        for size in halved_sizes(image, self.config.sizes, self.stride):
            photograph = resized(image, size)
            with timed(seconds, "encode"):
                loss = self._loss(photograph, size[0] / image.shape[1])
            with timed(seconds, "optimise"):
                start = self._start(photograph) if output is None else resized(output, size)
                output = minimised(start, loss, self.config.optimiser, self.config.iterations)
        result = image if output is None else output
        if self.config.preserve_colour:
            result = preserve_colour(result, image)
        return Result(result, SourceProvenance(self.shares), seconds)

    @torch.no_grad()
    def _loss(self, photograph: Tensor, scale: float) -> Callable[[Tensor], Tensor]:
        """Return the loss of a picture beside a photograph; `scale` reduces the styles as the photograph is reduced."""
        config = self.config
        content = activations(self.encoder, photograph, (CONTENT,), config.pooling)[CONTENT]
        wanted = []
        for image_id in self.shares:
            style = self.styles[image_id]
            size = multiples((round(style.shape[1] * scale), round(style.shape[2] * scale)), self.stride)
            found = activations(self.encoder, resized(style, size), STYLE, config.pooling)
            wanted.append({layer: gram(found[layer]) for layer in STYLE})

        def loss(picture: Tensor) -> Tensor:
            found = activations(self.encoder, picture, STYLE, config.pooling)
            total = content_loss(found[CONTENT], content) / content.numel()
            total = total + config.style_weight * styles_loss(found, wanted)
            return total + config.smoothness * total_variation(picture) / picture.numel()

        return loss

    def _start(self, photograph: Tensor) -> Tensor:
        if self.config.start == "style":
            return resized(self.styles[next(iter(self.shares))], (photograph.shape[1], photograph.shape[2]))
        if self.config.start == "noise":
            generator = torch.Generator(device=photograph.device).manual_seed(self.config.seed)
            noise = torch.randn(photograph.shape, generator=generator, device=photograph.device)
            return (0.5 + NOISE * noise).clamp(0, 1)
        return photograph


def activations(encoder: Encoder, image: Tensor, layers: tuple[str, ...], pooling: Pooling) -> dict[str, Tensor]:
    """Return the activations `(C, h, w)` of an image `(3, H, W)` at some layers."""
    batched = encoder.activations(image[None], layers, average=pooling == "average")
    return {layer: each[0] for layer, each in batched.items()}


def styles_loss(found: Mapping[str, Tensor], styles: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Return the mean loss over layers, summed over styles that share the weight of one.

    Args:
        found: Layer -> features of the picture.
        styles: Layer -> Gram matrix, of each style.
    """
    losses = [style_loss(found[layer], matrix) for style in styles for layer, matrix in style.items()]
    return torch.stack(losses).mean()


def minimised(start: Tensor, loss: Callable[[Tensor], Tensor], optimiser: str, iterations: int) -> Tensor:
    """Return the image `(3, H, W)` in [0, 1] that `start` becomes after some evaluations of its loss."""
    picture = start.clone(memory_format=torch.contiguous_format).requires_grad_()

    def step() -> Tensor:
        picture.grad = None
        value = loss(picture)
        value.backward()
        return value

    if optimiser == "adam":
        adam = torch.optim.Adam([picture], lr=0.02)
        for _ in range(iterations):
            adam.step(step)
    else:
        torch.optim.LBFGS(
            [picture],
            max_iter=iterations,
            max_eval=iterations,
            history_size=20,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        ).step(step)
    return picture.detach().clamp(0, 1)


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
