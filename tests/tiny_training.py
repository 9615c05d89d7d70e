"""The smallest training that has every part: what tests of models, pipelines and runners share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder, Preprocess, Widths
from kt_batch.models.layers import VGG19_LAYERS
from kt_batch.models.training import Student, TrainSettings

LAYERS = VGG19_LAYERS[:7]  # up to relu2_1
CUT = "relu2_1"
LEARNED = ("conv2_1", "code_relu1_1", "code_relu2_1")
SETTINGS = TrainSettings(steps=4, warmup_steps=2, patch_sample=32)


def teacher() -> Encoder:
    """6 and 12 channels, no codes, weights that are always the same."""
    torch.manual_seed(1)
    return Encoder(LAYERS, {"conv1_1": (6,), "conv1_2": (6,), "conv2_1": (12,)}, Preprocess()).requires_grad_(False)


def encoder(seed: int = 2) -> Encoder:
    """The teacher's widths at low rank, codes of 4 channels at relu1_1 and 8 at relu2_1, and 2 of details there."""
    torch.manual_seed(seed)
    widths: dict[str, Widths] = {"conv1_1": (6,), "conv1_2": (3, 6), "conv2_1": (5, 12)}
    return Encoder(LAYERS, widths, Preprocess(), codes={"relu1_1": 4, "relu2_1": 8}, details={"relu2_1": 2})


def student(learned: tuple[str, ...] = LEARNED, seed: int = 2) -> Student:
    """That encoder and a decoder for its relu2_1, with a direct convolution."""
    coder = encoder(seed)
    return Student(coder, Decoder(8, ("conv:6", "res", "conv:4", "subpixel-out"), direct=True), CUT, learned)


def batch(number: int, images: int = 2) -> Tensor:
    """`(images, 3, 16, 16)`, its own for every number."""
    return torch.rand(images, 3, 16, 16, generator=torch.Generator().manual_seed(number))


def batches(first: int = 0) -> Iterator[Tensor]:
    """Batch `first`, the next, and so on for ever."""
    return map(batch, itertools.count(first))


def ignore(step: int, what: object) -> None:
    """For a report or a checkpoint that nobody wants."""
