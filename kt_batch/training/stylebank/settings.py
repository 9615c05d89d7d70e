"""The settings of a training of filter banks: those of the paper (section 5) but for the learning rate."""

from __future__ import annotations

from dataclasses import dataclass

from kt_batch.training.settings import Settings

JOINT_STEPS, ADDED_STEPS = 300_000, 300  # section 5; section 4.1 has 1,000
JOINT_RATE, ADDED_RATE = 0.0005, 0.01  # of Adam; of Muon, which moves a bank of C channels by sqrt(C) times the rate


@dataclass(frozen=True)
class BankSettings(Settings):
    """The settings that change the trained weights.

    Attributes:
        learning_rate: Of Adam, at the start. The paper has 0.01, which spoils what the network begins with. Of banks
            that are added: of Muon, after a warm-up.
        decay: Factor of the learning rate after each tenth of the steps (the paper: 30,000 of 300,000). Without effect
            on added banks.
        batch: Crops of a step and worker.
        size: Side of a crop, in pixels.
        style_size: Long side of the style images, in pixels.
        kernel: Side of the filters of a new bank: 3 or 7 in the paper.
        channels: Of the features. The paper compares 128, 64 and 32.
        content, style: Weights of these losses: alpha and beta, of which the paper prints the ratio.
        variation: Weight of the total variation: gamma, which the paper does not print.
        grid: Weight of the grid of the cells in a picture, and in the error of the auto-encoder. The paper has none.
        stylings: Steps of the stylising branch before each step of the auto-encoder: T.
        balance: Weight of the auto-encoder's branch beside the stylising one: lambda.
    """

    learning_rate: float = JOINT_RATE
    decay: float = 0.8
    batch: int = 4
    size: int = 512
    style_size: int = 600
    kernel: int = 3
    channels: int = 128
    content: float = 1.0
    style: float = 100.0
    variation: float = 50.0
    grid: float = 200.0
    stylings: int = 2
    balance: float = 1.0


def learning_rate_at(step: int, settings: BankSettings) -> float:
    """Return the learning rate of a step of a joint training: decayed after each tenth of the training."""
    return settings.learning_rate * settings.decay ** (10 * step // settings.steps)
