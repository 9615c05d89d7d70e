"""The smallest training with every part, shared by tests of models, training and runners."""

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
    """Return an encoder up to relu2_1, seeded; its details are orthogonal and of equal length, as fitted ones are."""
    torch.manual_seed(seed)
    network = Encoder(LAYERS, widths, Preprocess(), codes=codes, details=details)
    for cut in network.details:
        nn.init.orthogonal_(network.get_parameter(f"detail_{cut}.weight"))
    return network


def student(seed: int = 2) -> Student:
    """Return a low-rank encoder with codes, 8 channels and 2 details at relu2_1, and a decoder with every part."""
    widths: dict[str, Widths] = {"conv1_1": (6,), "conv1_2": (3, 6), "conv2_1": (5, 12)}
    coder = encoder(widths, {"relu1_1": 4, CUT: 8}, {CUT: 2}, seed)
    return Student(coder, Decoder(8, ("conv:6", "res", "conv:4", "subpixel-out"), direct=True), CUT)


def batch(number: int, images: int = 2) -> Tensor:
    """Return batch `number`, `(images, 3, 16, 16)`."""
    return torch.rand(images, 3, 16, 16, generator=torch.Generator().manual_seed(number))


def batches(first: int = 0) -> Iterator[Tensor]:
    """Yield batch `first` and all following ones without end."""
    return map(batch, itertools.count(first))


def pictures(folder: Path, count: int) -> list[Path]:
    """Write `count` files of 20 x 24 seeded random pixels into a new folder."""
    folder.mkdir()
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return paths


def ignore(step: int, what: object) -> None:
    """Ignore a report or a checkpoint."""


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of the tensors."""
    return {name: value.detach().clone() for name, value in tensors.items()}


def differing(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> set[str]:
    """Return the names of tensors that differ, or that only one mapping has."""
    common = tensors.keys() & others.keys()
    return (tensors.keys() ^ others.keys()) | {name for name in common if not tensors[name].equal(others[name])}
