"""The settings of one training: its schedule and the weights of the loss terms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The settings of every training.

    Attributes:
        subject: The caller's name for what is trained. A state of another subject is refused.
        steps: Length of the training.
        seed: Of the state's random generator.
    """

    subject: str = ""
    steps: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class TrainSettings(Settings):
    """The settings that change the weights of a decoder. A loss term of weight 0 is not computed.

    Attributes:
        learning_rate: The peak, after the warm-up.
        fitted_rate: Learning rate of a direct convolution, which starts from a fit, relative to `learning_rate`.
        warmup_steps: Length of the linear warm-up.
        ema_decay: Decay of the moving average of the weights.
        reconstruction: Weight of the L1 distance between image and decoding (eq. 8).
        swapped: Weight of 1 - R2 between swapped features and the features of their decoding.
        lattice: Weight of the grid of the cells in the error and, with `swapped`, in the decoding of swapped features.
    """

    learning_rate: float = 0.02
    fitted_rate: float = 0.02
    warmup_steps: int = 20
    ema_decay: float = 0.995
    reconstruction: float = 1.0
    swapped: float = 0.0
    lattice: float = 0.0
