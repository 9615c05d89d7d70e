"""Distillation by least squares: fit every convolution of a student to the responses of its teacher.

A convolution before its ReLU is linear in its input, so the best one is the solution of a regression: minutes instead
of hours of gradient descent. Only the teacher's responses are used, never its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_batch.models.encoder import Encoder
from kt_batch.models.layers import kind

ROUNDS = 30  # power iterations; the subspace converges after about ten
RIDGE = 1e-5  # of the mean variance of the inputs
DETAIL_ENERGY = 0.005  # of the code's energy; small enough that the code decides the NCC
DETAIL_SHARE = 12  # one direction in twelve of a code is chosen for the detail of the image
SAMPLE = 4096  # positions of each batch that enter a regression


@dataclass(frozen=True)
class Moments:
    """Sums over positions of the products of inputs x, with a one appended, and targets y.

    Attributes:
        xx: `(d + 1, d + 1)` float64.
        xy: `(d + 1, N)` float64.
    """

    xx: Tensor
    xy: Tensor

    @classmethod
    def zero(cls) -> Moments:
        """Return the moments of no position; zeros of shape `()` take the shape of what is added."""
        return cls(torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))

    def plus(self, x: Tensor, y: Tensor) -> Moments:
        """Return the moments with the positions of `x` `(n, d + 1)` and `y` `(n, N)` added."""
        return Moments(self.xx + (x.T @ x).double(), self.xy + (x.T @ y).double())

    def solve(self) -> Tensor:
        """Return the ridge regression of y on x, `(d + 1, N)` with the bias last."""
        ridge = RIDGE * self.xx.diagonal().mean() * torch.eye(len(self.xx), dtype=self.xx.dtype)
        solution: Tensor = torch.linalg.solve(self.xx + ridge, self.xy)
        return solution


@torch.no_grad()
def fit(encoder: Encoder, teacher: Encoder, batches: Sequence[Tensor], generator: torch.Generator) -> None:
    """Fit all convolutions, codes and details of `encoder`, first to last, to a teacher of the same ReLU widths.

    Args:
        encoder: The student; its weights are replaced.
        teacher: The network whose activations are the targets.
        batches: `(n, 3, H, W)` float32 RGB in [0, 1].
        generator: Source of the sampled positions and of random starts.
    """
    for name in encoder.layers:
        if kind(name) == "conv":
            fit_convolution(encoder, teacher, name, batches, generator)
        if name in encoder.codes:
            fit_code(encoder, name, batches)
        if name in encoder.details:
            fit_details(encoder, name, batches)


def fit_convolution(
    encoder: Encoder, teacher: Encoder, name: str, batches: Sequence[Tensor], generator: torch.Generator
) -> None:
    """Fit layer `name`: from the student's own input to the output of the teacher's layer.

    The regression thereby compensates the error of the layers before (asymmetric reconstruction, Zhang et al. 2015).
    Arguments as for `fit`.
    """
    moments = _moments(encoder, teacher, name, batches, generator)
    convolutions = [cast("nn.Conv2d", module) for module in encoder.get_submodule(name).children()]
    if len(convolutions) == 1:
        _set_weights(convolutions[0], moments.solve())
        return
    down, up = low_rank(moments, convolutions[0].out_channels, generator)
    _set_weights(convolutions[0], torch.cat([down, down.new_zeros(1, down.shape[1])]))
    _set_weights(convolutions[1], up)


def low_rank(moments: Moments, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Solve the reduced-rank regression y ~ (x A, 1) B by power iteration from a random start.

    Returns:
        A `(d, rank)`, and B `(rank + 1, N)` whose last row is the bias.
    """
    full = moments.solve()
    # The best subspace is spanned by the principal directions of the full regression's centred responses.
    mean = moments.xx[-1:, :] / moments.xx[-1, -1]
    centred = moments.xx - moments.xx[-1, -1] * mean.T @ mean
    responses = full.T @ centred @ full
    basis = torch.randn(responses.shape[0], rank, generator=generator, dtype=torch.float64)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(responses @ basis).Q
    down = (full @ basis)[:-1]
    reduced = torch.zeros(len(moments.xx), rank + 1, dtype=torch.float64)
    reduced[:-1, :-1] = down
    reduced[-1, -1] = 1
    up = Moments(reduced.T @ moments.xx @ reduced, reduced.T @ moments.xy).solve()
    return down, up


@torch.no_grad()
def fit_code(encoder: Encoder, cut: str, batches: Sequence[Tensor]) -> None:
    """Set the code at `cut` to orthonormal directions of the student's activations there.

    Orthonormal rows keep inner products, and with them NCC. Eleven twelfths of the rows are principal directions (not
    centred). The last twelfth are the remaining directions that matter most to a linear decoder: they hold little of
    the features' variance and much of the image's detail.
    """
    width = encoder.codes[cut]
    principal = principal_directions(encoder, cut, batches)
    kept = width - width // DETAIL_SHARE
    weights, deviation = _linear_decoder(encoder, cut, batches, principal)
    added = (weights * deviation[:, None])[kept:]
    strongest = torch.linalg.eigh(added @ added.T).eigenvectors.flip(1)[:, : width - kept]
    # The linear decoder alone would divide by the deviation. Multiplying prefers directions that the features use:
    # 0.1 dB less of that decoder and 0.005 more R2 than no factor, with 16 directions of 128.
    mixture = torch.linalg.qr(deviation[kept:, None] * strongest).Q
    directions = torch.cat([principal[:kept], mixture.T @ principal[kept:]])
    encoder.projection(cut).copy_(directions[:, :, None, None])


@torch.no_grad()
def fit_details(encoder: Encoder, cut: str, batches: Sequence[Tensor]) -> None:
    """Set the details at `cut` to principal directions of the pixels that a linear decoder of the code misses.

    They are scaled so that all together have DETAIL_ENERGY of the code's mean square.
    """
    stride, code_width = encoder.geometry(cut).stride, encoder.codes[cut]
    weights, _ = _linear_decoder(encoder, cut, batches, torch.eye(code_width, dtype=torch.float64), coded=True)
    weights = weights.reshape(code_width, 9, -1).permute(2, 0, 1).float()
    residual, seen, energy = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    for image in batches:
        code = encoder.code(cut, encoder.activations(image, (cut,))[cut])
        guess = F.conv2d(code, weights.reshape(-1, code_width, 3, 3))
        pixels = F.pixel_unshuffle(encoder.preprocess(image), stride)[:, :, 1:-1, 1:-1]
        missed = (pixels - guess).permute(0, 2, 3, 1).flatten(0, 2)
        missed = missed - missed.mean(0)
        residual = residual + (missed.T @ missed).double()
        whole = pixels.permute(0, 2, 3, 1).flatten(0, 2)
        seen = seen + (whole.T @ whole).double()
        energy = energy + code[:, :, 1:-1, 1:-1].double().square().sum()
    directions = torch.linalg.eigh(residual).eigenvectors.flip(1)[:, : encoder.details[cut]].T
    scale = (DETAIL_ENERGY * energy / (directions @ seen @ directions.T).trace()).sqrt()
    detail = cast("nn.Conv2d", encoder.get_submodule(f"detail_{cut}"))
    detail.weight.copy_((directions * scale).reshape(detail.weight.shape))


def fit_to(convolution: nn.Conv2d, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """Set a 3x3 convolution with reflect padding to the regression of `targets` on `inputs`.

    Args:
        convolution: Its weights are replaced.
        inputs: `(n, C, h, w)` each.
        targets: `(n, N, h, w)` each.
    """
    moments = Moments.zero()
    for features, target in zip(inputs, targets, strict=True):
        x = F.unfold(F.pad(features, (1, 1, 1, 1), mode="reflect"), 3).transpose(1, 2).flatten(0, 1)
        every = len(x) // SAMPLE | 1  # odd, so that no column of cells is left out
        moments = moments.plus(_with_one(x)[::every], target.permute(0, 2, 3, 1).flatten(0, 2)[::every])
    _set_weights(convolution, moments.solve())


@torch.no_grad()
def principal_directions(encoder: Encoder, cut: str, batches: Sequence[Tensor]) -> Tensor:
    """Return the principal directions of the activations at `cut`, not centred: `(N, N)` float64, strongest row first.

    batches: `(n, 3, H, W)` float32 RGB in [0, 1]; their sizes may differ.
    """
    total = torch.zeros((), dtype=torch.float64)
    for image in batches:
        cells = encoder.activations(image, (cut,))[cut].permute(0, 2, 3, 1).flatten(0, 2)
        total = total + (cells.T @ cells).double()
    directions: Tensor = torch.linalg.eigh(total).eigenvectors.flip(1).T.contiguous()
    return directions


def _linear_decoder(
    encoder: Encoder, cut: str, batches: Sequence[Tensor], directions: Tensor, *, coded: bool = False
) -> tuple[Tensor, Tensor]:
    """Solve the regression of a cell's pixels on the 3x3 cells around it, in the given directions.

    Args:
        encoder: The student.
        cut: Where the cells come from.
        batches: `(n, 3, H, W)` float32 RGB in [0, 1].
        directions: `(N, C)` float64; the cells are projected on them.
        coded: Use the code at `cut`, not the activations.

    Returns:
        Weights `(N, 9 * 3 * stride^2)`, and the deviation of each direction `(N,)`; float64.
    """
    stride = encoder.geometry(cut).stride
    count = len(directions)
    moments = Moments.zero()
    projection = directions.float()[:, :, None, None]
    for image in batches:
        activation = encoder.activations(image, (cut,))[cut]
        cells = F.conv2d(encoder.code(cut, activation) if coded else activation, projection)
        x = F.unfold(cells, 3).transpose(1, 2).flatten(0, 1)
        y = F.pixel_unshuffle(encoder.preprocess(image), stride)[:, :, 1:-1, 1:-1].permute(0, 2, 3, 1).flatten(0, 2)
        every = max(1, len(x) // SAMPLE)
        moments = moments.plus(_with_one(x)[::every], y[::every])
    weights = moments.solve()[:-1].reshape(count, -1)
    xx, centre = moments.xx, torch.arange(count) * 9 + 4  # the middle one of nine cells
    mean = xx[centre, -1] / xx[-1, -1]
    deviation = (xx[centre, centre] / xx[-1, -1] - mean.square()).clamp_min(0).sqrt()
    return weights, deviation


@torch.no_grad()
def _moments(
    encoder: Encoder, teacher: Encoder, name: str, batches: Sequence[Tensor], generator: torch.Generator
) -> Moments:
    """Sum the moments of the student's input to layer `name` and the teacher's output of it."""
    before = encoder.layers[encoder.layers.index(name) - 1] if name != encoder.layers[0] else None
    moments = Moments.zero()
    for image in batches:
        features = encoder.preprocess(image)
        if before:
            features = encoder.code(before, encoder.activations(image, (before,))[before])
        x = F.unfold(F.pad(features, (1, 1, 1, 1), mode="reflect"), 3).transpose(1, 2).flatten(0, 1)
        y = teacher.activations(image, (name,))[name].permute(0, 2, 3, 1).flatten(0, 2)
        chosen = torch.randint(len(x), (SAMPLE,), generator=generator)
        moments = moments.plus(_with_one(x[chosen]), y[chosen])
    return moments


def _with_one(x: Tensor) -> Tensor:
    """Append a column of ones to `x` `(n, d)`, for the bias."""
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


def _set_weights(convolution: nn.Conv2d, solution: Tensor) -> None:
    """Write a solution `(C * k * k + 1, N)`, bias last, into weights `(N, C, k, k)` and bias `(N,)`."""
    convolution.weight.data.copy_(solution[:-1].T.reshape(convolution.weight.shape))
    cast("Tensor", convolution.bias).data.copy_(solution[-1])
