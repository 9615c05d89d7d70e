"""What changes the trained weights: the schedule and the weights of the loss terms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainSettings:
    """What changes the trained weights: the schedule, and the weight of each loss term (0: not computed).

    subject: what is trained, in the caller's words; a state of another subject is refused.
    fitted_rate: the learning rate of a direct convolution, which starts from a fit, as a share of the rest's.
    reconstruction: L1 between image and decoding (eq. 8). swapped: 1 - R2 between swapped latents and the features of
    what they decode to. lattice: the grid of the cells in the error, and, beside `swapped`, in what those decode to.
    """

    subject: str = ""
    steps: int = 1000
    learning_rate: float = 0.02
    fitted_rate: float = 0.02
    warmup_steps: int = 20
    ema_decay: float = 0.995
    reconstruction: float = 1.0
    swapped: float = 0.0
    lattice: float = 0.0
    seed: int = 0
