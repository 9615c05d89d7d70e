"""Recipes: the networks of kt-vgg, the crops they are fitted to, and how its decoders are built and trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kt_batch.models.encoder import Widths
from kt_batch.training.settings import TrainSettings

NAME = "kt-vgg"
VERSION = "kt-vgg-4"
WIDTHS: dict[str, Widths] = {
    "conv1_1": (64,), "conv1_2": (16, 64),
    "conv2_1": (40, 128), "conv2_2": (64, 128),
    "conv3_1": (96, 256), "conv3_2": (64, 256), "conv3_3": (64, 256), "conv3_4": (64, 256),
    "conv4_1": (96, 512),
}  # fmt: skip
CODES = {"relu1_1": 24, "relu2_1": 64, "relu3_1": 144, "relu4_1": 192}
DETAILS = {"relu3_1": 8, "relu4_1": 12}
HELD_OUT = "0"  # first digit of the ids that are never trained on: one image in sixteen
SWAPPED_AT = ("relu3_1", "relu4_1")  # at earlier cuts a crop has too many cells to match in every step
CROP = 128  # pixels
FIT_BATCHES = 32
FIT_BATCH = 8  # crops


@dataclass(frozen=True)
class Recipe:
    """The construction and the training of decoders.

    Attributes:
        blocks: The blocks of `Decoder`, by cut.
        activation: The activation of all blocks.
        direct: The cuts whose decoder has a direct convolution.
        stages: The stages of training that all cuts share. The job sets the steps of the first; each later stage starts
            from the averaged weights of the one before.
        rates: Learning rates of the first stage, by cut, where that of the settings is too large: at 0.02 that of
            relu4_1 diverges after some 200 steps.
    """

    blocks: Mapping[str, tuple[str, ...]]
    activation: str
    direct: tuple[str, ...]
    stages: tuple[TrainSettings, ...]
    rates: Mapping[str, float] = field(default_factory=dict)


RECIPES = {
    "default": Recipe(
        {
            "relu1_1": ("conv:24", "out"),
            "relu2_1": ("conv:64", "res", "conv:32", "subpixel-out"),
            "relu3_1": ("conv:64", "res", "res", "subpixel:32", "conv:32", "subpixel-out"),
            "relu4_1": ("conv:192", "res", "subpixel:96", "res", "up", "conv:48", "up", "conv:24", "out"),
        },
        "relu",
        ("relu1_1", "relu2_1"),
        (
            TrainSettings(),
            TrainSettings(steps=100, learning_rate=3e-3, warmup_steps=5, ema_decay=0.9, swapped=0.1, lattice=1.0),
        ),
        {"relu4_1": 0.01},
    ),
    # Section 3.6: five residual blocks, resize + convolution, SELU, the last linear with a bias; eq. 8 alone.
    "paper": Recipe(
        {
            "relu1_1": ("conv:64", *["res"] * 5, "out"),
            "relu2_1": ("conv:64", *["res"] * 5, "up", "conv:64", "out"),
            "relu3_1": ("conv:128", *["res"] * 5, "up", "conv:64", "up", "conv:32", "out"),
            "relu4_1": ("conv:256", *["res"] * 5, "up", "conv:128", "up", "conv:64", "up", "conv:32", "out"),
        },
        "selu",
        (),
        (TrainSettings(),),
    ),
}
