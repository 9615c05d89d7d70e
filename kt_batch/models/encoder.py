"""Encoders: one working image in, the feature map of one layer out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_batch.models.layers import Geometry, geometry, kind, layers_up_to

Widths = tuple[int] | tuple[int, int]


@dataclass(frozen=True)
class Preprocess:
    """The input transform of an encoder: `(x[order] * scale - mean) / std` for x = RGB in [0, 1]."""

    order: str = "rgb"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)

    def __call__(self, x: Tensor) -> Tensor:
        """Transform `(n, 3, H, W)` RGB in [0, 1] to the encoder's range; the shape stays."""
        if self.order == "bgr":
            x = x.flip(1)
        mean = x.new_tensor(self.mean).view(1, 3, 1, 1)
        std = x.new_tensor(self.std).view(1, 3, 1, 1)
        return (x * self.scale - mean) / std


class Encoder(nn.Module):
    """A VGG-shaped network cut at one or more ReLUs.

    Args:
        layers: Names in order, such as `conv1_1`, `relu1_1`, `pool1`.
        widths: Channels of each convolution: `(128,)` is a 3x3 convolution to 128 channels; `(48, 128)` one of rank 48,
            a 3x3 convolution to 48 channels and a 1x1 to 128 without activation between them (Zhang et al. 2015,
            "Accelerating very deep convolutional networks").
        preprocess: The input transform.
        padding: `reflect` (kt-vgg and published style-transfer networks) or `zeros` (the original VGG).
        codes: Channels of a code, by cut: a linear map (1x1, no bias) of the ReLU's output. `forward` returns the code,
            and the next layer reads it.
        details: Channels of details, by cut with a code: a linear map of the stride x stride pixels of each cell, which
            hold what a decoder cannot guess from the code. The next layer does not read them.

    Raises:
        KeyError: For a layer of unknown kind.
        ValueError: For details at a cut without a code.
    """

    def __init__(
        self,
        layers: tuple[str, ...],
        widths: Mapping[str, Widths],
        preprocess: Preprocess,
        padding: str = "reflect",
        codes: Mapping[str, int] | None = None,
        details: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.preprocess = preprocess
        self.padding = padding
        self.codes = dict(codes or {})
        self.details = dict(details or {})
        uncoded = sorted(self.details.keys() - self.codes.keys())
        if uncoded:
            raise ValueError(f"details at {', '.join(uncoded)}, where there is no code; codes: {sorted(self.codes)}")
        self.channels: dict[str, int] = {}
        geometry(layers)  # raises KeyError for a layer of unknown kind
        width = 3
        for name in (n for n in layers if kind(n) == "conv"):
            self.add_module(name, _convolution(width, widths[name]))
            width = widths[name][-1]
            cut = name.replace("conv", "relu")
            self.channels[cut] = self.codes.get(cut, width) + self.details.get(cut, 0)
            if cut in self.details:
                stride = self.geometry(cut).stride
                self.add_module(f"detail_{cut}", nn.Conv2d(3, self.details[cut], stride, stride, bias=False))
            if cut in self.codes:
                self.add_module(f"code_{cut}", nn.Conv2d(width, self.codes[cut], 1, bias=False))
                width = self.codes[cut]

    def forward(self, image: Tensor, cuts: tuple[str, ...]) -> dict[str, Tensor]:
        """Return the features at every cut: the code if there is one, else the activation; then the details.

        Args:
            image: `(n, 3, H, W)` RGB in [0, 1].
            cuts: Names of layers.

        Returns:
            `(n, C, H / stride, W / stride)`, by cut.
        """
        return {cut: self.features(cut, x, image) for cut, x in self.activations(image, cuts).items()}

    def features(self, cut: str, activation: Tensor, image: Tensor) -> Tensor:
        """Return the features at `cut` from the activation there, `(n, N, h, w)`, and the image `(n, 3, H, W)`."""
        code = self.code(cut, activation)
        if cut not in self.details:
            return code
        detail: Tensor = self.get_submodule(f"detail_{cut}")(self.preprocess(image))
        return torch.cat([code, detail], dim=1)

    def activations(self, image: Tensor, names: tuple[str, ...], *, average: bool = False) -> dict[str, Tensor]:
        """Return the output of each layer of `names`, before any code; shapes as in `forward`.

        With `average`, the pooling layers take means and not maxima, as Gatys et al. advise for synthesis.
        """
        x = self.preprocess(image)
        outputs: dict[str, Tensor] = {}
        wanted = set(names)
        for before, name in zip(("", *self.layers), self.layers, strict=False):
            x = self._step(name, x, keep=before in wanted, average=average)
            if name in wanted:
                outputs[name] = x
            if len(outputs) == len(wanted):
                break
            x = self.code(name, x)
        return outputs

    def code(self, cut: str, activation: Tensor) -> Tensor:
        """Return the input of the layer after `cut`: the code of the activation `(n, N, h, w)`, if there is a code."""
        if cut not in self.codes:
            return activation
        coded: Tensor = self.get_submodule(f"code_{cut}")(activation)
        return coded

    def projection(self, cut: str) -> Tensor:
        """Return the matrix `(C, N, 1, 1)` of the code at `cut`."""
        return cast("nn.Conv2d", self.get_submodule(f"code_{cut}")).weight

    def encode(self, image: Tensor, layer: str) -> Tensor:
        """Encode `(n, 3, H, W)` RGB in [0, 1] to features `(n, C, h, w)` at `layer`."""
        return self.forward(image, (layer,))[layer]

    def pixel_detail(self, cut: str) -> nn.Conv2d | None:
        """Return the details at `cut` as one convolution of RGB in [0, 1], preprocessing included; None: no details."""
        if cut not in self.details:
            return None
        inner = cast("nn.Conv2d", self.get_submodule(f"detail_{cut}"))
        count, stride = inner.out_channels, self.geometry(cut).stride
        device = inner.weight.device
        whole = nn.Conv2d(3, count, stride, stride, device=device)
        black = torch.zeros(1, 3, stride, stride, device=device)
        basis = torch.eye(3 * stride**2, device=device).view(-1, 3, stride, stride)
        with torch.no_grad():
            bias = inner(self.preprocess(black)).flatten()
            columns = inner(self.preprocess(basis)).flatten(1) - bias
            whole.weight.copy_(columns.T.reshape(whole.weight.shape))
            cast("Tensor", whole.bias).copy_(bias)
        return whole

    def encode_code(self, image: Tensor, layer: str) -> Tensor:
        """Encode as `encode` does, without the details."""
        return self.code(layer, self.activations(image, (layer,))[layer])

    def geometry(self, layer: str) -> Geometry:
        """Return stride and receptive field of one cell of `layer`."""
        return geometry(layers_up_to(self.layers, layer))

    def channels_at(self, layer: str) -> int:
        """Return the number of channels at `layer`."""
        return self.channels[layer]

    def code_channels(self, layer: str) -> int:
        """Return the number of channels at `layer` without the details."""
        return self.channels[layer] - self.details.get(layer, 0)

    def _step(self, name: str, x: Tensor, *, keep: bool, average: bool) -> Tensor:
        if kind(name) == "relu":
            return F.relu(x, inplace=not keep)  # saves 3 % of the encoder's time
        if kind(name) == "pool":
            return F.avg_pool2d(x, 2) if average else F.max_pool2d(x, 2)
        mode = "reflect" if self.padding == "reflect" else "constant"
        out: Tensor = self.get_submodule(name)(F.pad(x, (1, 1, 1, 1), mode=mode))
        return out


def _convolution(channels: int, widths: Widths) -> nn.Sequential:
    first = nn.Conv2d(channels, widths[0], 3)
    return nn.Sequential(first) if len(widths) == 1 else nn.Sequential(first, nn.Conv2d(widths[0], widths[1], 1))
