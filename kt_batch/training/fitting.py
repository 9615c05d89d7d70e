"""Distillation by least squares: every convolution of a student fitted to what its teacher answers.

Before its ReLU a convolution is linear in its input, so the best one is a regression and needs no gradient: minutes
where gradient descent needs hours. No weight of the teacher is read, only what it answers to images.
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

ROUNDS = 30  # alternations; the subspace turns no further after about ten
RIDGE = 1e-5  # of the mean variance of the inputs
DETAIL_ENERGY = 0.005  # of the code's; little enough to leave NCC to the code
DETAIL_SHARE = 12  # one direction in twelve of a code is chosen for the image's detail
SAMPLE = 4096  # positions of each batch that are regressed on


@dataclass(frozen=True)
class Moments:
    """Sums over positions: `xx` `(d + 1, d + 1)` and `xy` `(d + 1, N)` of inputs x with a one appended; float64."""

    xx: Tensor
    xy: Tensor


@torch.no_grad()
def fit(encoder: Encoder, teacher: Encoder, batches: Sequence[Tensor], generator: torch.Generator) -> None:
    """Fit every convolution and every code of `encoder`, first to last, to a teacher with the same ReLU widths."""
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
    """Set the weights of `name` so that it answers the student's own input as the teacher's layer answers its own.

    batches: `(n, 3, H, W)` RGB in [0, 1]. The error that the layers before have left is thereby made up for as far as
    can be (the asymmetric reconstruction of Zhang et al. 2015). Starts from random weights.
    """
    moments = _moments(encoder, teacher, name, batches, generator)
    convolutions = [cast("nn.Conv2d", module) for module in encoder.get_submodule(name).children()]
    if len(convolutions) == 1:
        _set(convolutions[0], _solve(moments.xx, moments.xy))
        return
    down, up = low_rank(moments, convolutions[0].out_channels, generator)
    _set(convolutions[0], torch.cat([down, down.new_zeros(1, down.shape[1])]))
    _set(convolutions[1], up)


def low_rank(moments: Moments, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Reduced-rank regression by alternating least squares from a random start: y ~ (x A, 1) B.

    Returns A `(d, rank)` with orthonormal effect on the fit, and B `(rank + 1, N)` whose last row is the bias.
    """
    full = _solve(moments.xx, moments.xy)
    # what the full regression answers, centred, is z = x' full; its covariance holds all that a rank can be chosen by
    mean = moments.xx[-1:, :] / moments.xx[-1, -1]
    centred = moments.xx - moments.xx[-1, -1] * mean.T @ mean
    answers = full.T @ centred @ full
    basis = torch.randn(answers.shape[0], rank, generator=generator, dtype=torch.float64)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(answers @ basis).Q
    down = (full @ basis)[:-1]
    reduced = torch.zeros(len(moments.xx), rank + 1, dtype=torch.float64)
    reduced[:-1, :-1] = down
    reduced[-1, -1] = 1
    up = _solve(reduced.T @ moments.xx @ reduced, reduced.T @ moments.xy)
    return down, up


@torch.no_grad()
def fit_code(encoder: Encoder, cut: str, batches: Sequence[Tensor]) -> None:
    """Set the code at `cut`: orthonormal directions of the student's activations there.

    Orthonormal rows keep inner products, and NCC is made of those. Eleven twelfths are the principal directions (not
    centred). The last twelfth are those of the remaining directions that matter most to a linear decoder: they hold
    little of the features' variance and much of the image's detail.
    """
    width = encoder.codes[cut]
    principal = _principal_directions(encoder, cut, batches)
    kept = width - width // DETAIL_SHARE
    weights, deviation = _linear_decoder(encoder, cut, batches, principal)
    added = (weights * deviation[:, None])[kept:]
    strongest = torch.linalg.eigh(added @ added.T).eigenvectors.flip(1)[:, : width - kept]
    # Dividing by the deviation would follow the linear decoder to the letter; multiplying leans towards directions that
    # the features use: .1 dB less of that decoder, R2 .005 more, than leaving it out, with 16 directions of 128.
    mixture = torch.linalg.qr(deviation[kept:, None] * strongest).Q
    directions = torch.cat([principal[:kept], mixture.T @ principal[kept:]])
    encoder.projection(cut).copy_(directions[:, :, None, None])


@torch.no_grad()
def fit_details(encoder: Encoder, cut: str, batches: Sequence[Tensor]) -> None:
    """Set the details at `cut`: principal directions of what a linear decoder of the code leaves of each cell's pixels.

    Scaled so that all together have DETAIL_ENERGY of the code's mean square.
    """
    stride, code_width = encoder.geometry(cut).stride, encoder.codes[cut]
    weights, _ = _linear_decoder(encoder, cut, batches, torch.eye(code_width, dtype=torch.float64), coded=True)
    weights = weights.reshape(code_width, 9, -1).permute(2, 0, 1).float()
    residual, seen, energy = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    for image in batches:
        code = encoder.code(cut, encoder.activations(image, (cut,))[cut])
        guess = F.conv2d(code, weights.reshape(-1, code_width, 3, 3))
        pixels = F.pixel_unshuffle(encoder.preprocess(image), stride)[:, :, 1:-1, 1:-1]
        left = (pixels - guess).permute(0, 2, 3, 1).flatten(0, 2)
        left = left - left.mean(0)
        residual = residual + (left.T @ left).double()
        whole = pixels.permute(0, 2, 3, 1).flatten(0, 2)
        seen = seen + (whole.T @ whole).double()
        energy = energy + code[:, :, 1:-1, 1:-1].double().square().sum()
    directions = torch.linalg.eigh(residual).eigenvectors.flip(1)[:, : encoder.details[cut]].T
    scale = (DETAIL_ENERGY * energy / (directions @ seen @ directions.T).trace()).sqrt()
    detail = cast("nn.Conv2d", encoder.get_submodule(f"detail_{cut}"))
    detail.weight.copy_((directions * scale).reshape(detail.weight.shape))


def fit_to(convolution: nn.Conv2d, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """Set a 3x3 convolution to the regression of `targets` `(n, N, h, w)` on `inputs` `(n, C, h, w)`, padded."""
    xx, xy = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for features, target in zip(inputs, targets, strict=True):
        x = F.unfold(F.pad(features, (1, 1, 1, 1), mode="reflect"), 3).transpose(1, 2).flatten(0, 1)
        every = len(x) // SAMPLE | 1  # odd, so that no column of cells is left out
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)[::every]
        xx = xx + (x.T @ x).double()
        xy = xy + (x.T @ target.permute(0, 2, 3, 1).flatten(0, 2)[::every]).double()
    _set(convolution, _solve(xx, xy))


def _principal_directions(encoder: Encoder, cut: str, batches: Sequence[Tensor]) -> Tensor:
    """`(N, N)` float64, one direction a row, the strongest first."""
    total = torch.zeros((), dtype=torch.float64)
    for image in batches:
        cells = encoder.activations(image, (cut,))[cut].permute(0, 2, 3, 1).flatten(0, 2)
        total = total + (cells.T @ cells).double()
    directions: Tensor = torch.linalg.eigh(total).eigenvectors.flip(1).T.contiguous()
    return directions


def _linear_decoder(
    encoder: Encoder, cut: str, batches: Sequence[Tensor], directions: Tensor, *, coded: bool = False
) -> tuple[Tensor, Tensor]:
    """The regression of a cell's pixels on the 3x3 cells around it, and the deviation of each direction `(N,)`.

    Of the activations, or with `coded` of the code. Returns weights `(N, 9 * 3 * stride^2)`, float64.
    """
    stride = encoder.geometry(cut).stride
    count = len(directions)
    xx, xy = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    turned = directions.float()[:, :, None, None]
    for image in batches:
        activation = encoder.activations(image, (cut,))[cut]
        cells = F.conv2d(encoder.code(cut, activation) if coded else activation, turned)
        x = F.unfold(cells, 3).transpose(1, 2).flatten(0, 1)
        y = F.pixel_unshuffle(encoder.preprocess(image), stride)[:, :, 1:-1, 1:-1].permute(0, 2, 3, 1).flatten(0, 2)
        every = max(1, len(x) // SAMPLE)
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)[::every]
        xx = xx + (x.T @ x).double()
        xy = xy + (x.T @ y[::every]).double()
    weights = _solve(xx, xy)[:-1].reshape(count, -1)
    middle = torch.arange(count) * 9 + 4
    mean = xx[middle, -1] / xx[-1, -1]
    deviation = (xx[middle, middle] / xx[-1, -1] - mean.square()).clamp_min(0).sqrt()
    return weights, deviation


@torch.no_grad()
def _moments(
    encoder: Encoder, teacher: Encoder, name: str, batches: Sequence[Tensor], generator: torch.Generator
) -> Moments:
    before = encoder.layers[encoder.layers.index(name) - 1] if name != encoder.layers[0] else None
    xx, xy = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for image in batches:
        features = encoder.preprocess(image)
        if before:
            features = encoder.code(before, encoder.activations(image, (before,))[before])
        x = F.unfold(F.pad(features, (1, 1, 1, 1), mode="reflect"), 3).transpose(1, 2).flatten(0, 1)
        y = teacher.activations(image, (name,))[name].permute(0, 2, 3, 1).flatten(0, 2)
        chosen = torch.randint(len(x), (SAMPLE,), generator=generator)
        x = torch.cat([x[chosen], x.new_ones(SAMPLE, 1)], dim=1)
        xx = xx + (x.T @ x).double()
        xy = xy + (x.T @ y[chosen]).double()
    return Moments(xx, xy)


def _solve(xx: Tensor, xy: Tensor) -> Tensor:
    ridge = RIDGE * xx.diagonal().mean() * torch.eye(len(xx), dtype=xx.dtype)
    solution: Tensor = torch.linalg.solve(xx + ridge, xy)
    return solution


def _set(convolution: nn.Conv2d, solution: Tensor) -> None:
    """The solution `(C * k * k + 1, N)`, bias last, as weights `(N, C, k, k)` and bias `(N,)`."""
    convolution.weight.data.copy_(solution[:-1].T.reshape(convolution.weight.shape))
    cast("Tensor", convolution.bias).data.copy_(solution[-1])
