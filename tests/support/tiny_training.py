"""The smallest training that has every part: what tests of models, pipelines and runners share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder, Preprocess, Widths
from kt_batch.models.layers import VGG19_LAYERS
from kt_batch.training.loop import Student
from kt_batch.training.settings import TrainSettings

LAYERS = VGG19_LAYERS[:7]  # up to relu2_1
CUT = "relu2_1"
WIDTHS: dict[str, Widths] = {"conv1_1": (6,), "conv1_2": (6,), "conv2_1": (16,)}
SETTINGS = TrainSettings(steps=4, warmup_steps=2)


def encoder(
    widths: Mapping[str, Widths] = WIDTHS,
    codes: Mapping[str, int] | None = None,
    details: Mapping[str, int] | None = None,
    seed: int = 2,
) -> Encoder:
    """Up to relu2_1, its weights the same for a seed; details as fitted ones are, orthogonal and of equal length."""
    torch.manual_seed(seed)
    network = Encoder(LAYERS, widths, Preprocess(), codes=codes, details=details)
    for cut in network.details:
        nn.init.orthogonal_(network.get_parameter(f"detail_{cut}.weight"))
    return network


def student(seed: int = 2) -> Student:
    """An encoder of low rank with codes, of 8 channels and 2 of details at relu2_1, and a decoder with every part."""
    widths: dict[str, Widths] = {"conv1_1": (6,), "conv1_2": (3, 6), "conv2_1": (5, 12)}
    coder = encoder(widths, {"relu1_1": 4, CUT: 8}, {CUT: 2}, seed)
    return Student(coder, Decoder(8, ("conv:6", "res", "conv:4", "subpixel-out"), direct=True), CUT)


def batch(number: int, images: int = 2) -> Tensor:
    """`(images, 3, 16, 16)`, its own for every number."""
    return torch.rand(images, 3, 16, 16, generator=torch.Generator().manual_seed(number))


def batches(first: int = 0) -> Iterator[Tensor]:
    """Batch `first`, the next, and so on for ever."""
    return map(batch, itertools.count(first))


def pictures(folder: Path, count: int) -> list[Path]:
    """`count` files of 20 x 24 random pixels in a new folder, the same for the same number."""
    folder.mkdir()
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return paths


def ignore(step: int, what: object) -> None:
    """For a report or a checkpoint that nobody wants."""


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are now, whatever becomes of them."""
    return {name: value.detach().clone() for name, value in tensors.items()}


def differing(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> set[str]:
    """The names of those that are not equal, or in one only."""
    common = tensors.keys() & others.keys()
    return (tensors.keys() ^ others.keys()) | {name for name in common if not tensors[name].equal(others[name])}
