"""The losses of the stylising branch (eq. 3 and 4): content, style, total variation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kt_batch.errors import UsageError
from kt_batch.kernels.gram import content_loss, gram, style_loss, total_variation
from kt_batch.models.encoder import Encoder

PRINTED = ("relu1_2", "relu2_2", "relu3_2", "relu4_2")  # of the styles; the content is compared at the last


def loss_layers(encoder: Encoder) -> tuple[str, ...]:
    """Return the layers of the losses: those printed, or the first of a block where the encoder ends before.

    Raises:
        UsageError: The encoder has none of them.
    """
    found = []
    for printed in PRINTED:
        here = [layer for layer in (printed, f"{printed[:-1]}1") if layer in encoder.layers]
        found += here[:1]
    if not found:
        raise UsageError(f"The encoder ends at {encoder.layers[-1]}; the losses need at least relu1_1.")
    return tuple(found)


@dataclass(frozen=True)
class StyleLosses:
    """The losses of a batch. content, variation: Their means, `()`. styles: That of each picture, `(n,)`."""

    content: Tensor
    styles: Tensor
    variation: Tensor


class Perceptual:
    """Compares pictures with photographs and with styles by the features of a fixed encoder.

    Its pooling takes means, as that of `gatys` does: gradients of maxima reach one pixel of four.

    Args:
        encoder: The network; its weights get no gradients.
        styles: Style images `(3, H, W)` float32 RGB in [0, 1], on the encoder's device. Their Gram matrices are kept.
    """

    def __init__(self, encoder: Encoder, styles: Sequence[Tensor]) -> None:
        self.encoder = encoder.requires_grad_(requires_grad=False)
        self.layers = loss_layers(encoder)
        with torch.no_grad():
            self.grams = [
                {layer: gram(each[0]) for layer, each in self._features(style[None]).items()} for style in styles
            ]

    def __call__(self, pictures: Tensor, photographs: Tensor, styles: Sequence[int]) -> StyleLosses:
        """Return the losses of pictures.

        The content's loss is divided by its values. A Gram matrix is divided by its cells (kernels.gram), and the
        losses of the layers are added (eq. 4).

        Args:
            pictures: `(n, 3, H, W)` RGB, not clamped.
            photographs: `(n, 3, H, W)` RGB in [0, 1], which the pictures were made of.
            styles: The number of the style of each picture.
        """
        return self.compare(pictures, self.content_of(photographs), styles)

    @torch.no_grad()
    def content_of(self, photographs: Tensor) -> Tensor:
        """Return the features `(n, N, h, w)` of photographs `(n, 3, H, W)` by which contents are compared."""
        return self._features(photographs)[self.layers[-1]]

    def compare(self, pictures: Tensor, wanted: Tensor, styles: Sequence[int]) -> StyleLosses:
        """Return the losses of pictures, as a call does, given the features of their photographs by `content_of`."""
        found = self._features(pictures)
        content = content_loss(found[self.layers[-1]], wanted) / wanted.numel()
        per_picture = [
            torch.stack([style_loss(found[layer][number], self.grams[style][layer]) for layer in self.layers]).sum()
            for number, style in enumerate(styles)
        ]
        variation = torch.stack([total_variation(picture) / picture.numel() for picture in pictures]).mean()
        return StyleLosses(content, torch.stack(per_picture), variation)

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        return self.encoder.activations(images, self.layers, average=True)
