"""Train banks for a network that stays as it is: on a fixed set of crops, by orthogonalised steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from kt_batch.training.loop import Synchronise
from kt_batch.training.muon import Muon
from kt_batch.training.settings import Settings
from kt_batch.training.state import TrainState
from kt_batch.training.stylebank.loop import Trainee, check_loss, stylising_loss
from kt_batch.training.stylebank.losses import Perceptual
from kt_batch.training.stylebank.settings import BankSettings

CROPS = 160  # of the set
WARM_UP = 10  # one step in ten
KEPT_BYTES = 256 << 20  # of prepared batches


@dataclass(frozen=True)
class Prepared:
    """Crops as a frozen network and the network of the losses see them.

    Attributes:
        features: `(n, C, h, w)`, of the auto-encoder.
        contents: `(n, N, h', w')`, by which contents are compared (`Perceptual.content_of`).
    """

    features: Tensor
    contents: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.features.nbytes + self.contents.nbytes


class PreparedBatches:
    """Batches of a fixed set of crops, which are prepared once, and come again in turn.

    Those beyond KEPT_BYTES are prepared whenever they come; the values are the same.

    Args:
        trainee: Its auto-encoder is frozen.
        perceptual: The losses.
        crops_at: Number of a batch -> `(n, 3, H, W)` float32 RGB in [0, 1].
        batch: n.
    """

    def __init__(self, trainee: Trainee, perceptual: Perceptual, crops_at: Callable[[int], Tensor], batch: int) -> None:
        self._trainee, self._perceptual, self._crops_at = trainee, perceptual, crops_at
        self._count = math.ceil(CROPS / batch)
        self._kept: dict[int, Prepared] = {}

    def __call__(self, step: int) -> Prepared:
        """Return the batch of a step."""
        number = step % self._count
        if number in self._kept:
            return self._kept[number]
        prepared = self._prepared(number)
        if sum(kept.nbytes for kept in self._kept.values()) + prepared.nbytes <= KEPT_BYTES:
            self._kept[number] = prepared
        return prepared

    @torch.no_grad()
    def _prepared(self, number: int) -> Prepared:
        crops = self._crops_at(number)
        return Prepared(self._trainee.autoencoder.encode(crops), self._perceptual.content_of(crops))


class AddedState(TrainState):
    """Step and momentum of Muon. There is no average of the weights."""

    @classmethod
    def fresh(cls, trained: Mapping[str, nn.Parameter], settings: Settings) -> Self:
        """Return a state at step 0. Banks that are not drawn for a while have a momentum from the start."""
        muon = Muon([{"params": list(trained.values())}])
        for value in trained.values():
            muon.state[value] = {"momentum": torch.zeros_like(value)}
        return cls(0, muon, torch.Generator().manual_seed(settings.seed), {})


def train_added(
    trainee: Trainee,
    perceptual: Perceptual,
    batch_at: Callable[[int], Prepared],
    styles_at: Callable[[int], Sequence[int]],
    settings: BankSettings,
    report: Callable[[int, dict[str, float]], None],
    checkpoint: Callable[[int, AddedState], None],
    state: AddedState | None = None,
    synchronise: Synchronise | None = None,
) -> AddedState:
    """Train the banks until `settings.steps`, in the stylising branch alone.

    Args:
        trainee: Trained in place; its auto-encoder is frozen.
        perceptual: The losses of the styles, numbered as the banks are.
        batch_at: Step -> prepared crops.
        styles_at: Step -> the number of the style of each crop.
        settings: Schedule and loss weights.
        report: Called as `report(step, losses)` after every step.
        checkpoint: Called as `checkpoint(step, state)` after every step.
        state: Where to resume; None: step 0.
        synchronise: Averages gradients in place over all workers.

    Raises:
        KtBatchError: A loss is not finite.
    """
    state = state or AddedState.fresh(trainee.trained(), settings)
    for step in range(state.step, settings.steps):
        for group in state.optimizer.param_groups:
            group["lr"] = added_rate_at(step, settings)
        batch, styles = batch_at(step), styles_at(step)
        pictures = trainee.decoded(batch.features, styles)
        losses, total = stylising_loss(perceptual, pictures, batch.contents, styles, settings)
        check_loss(step + 1, float(total.detach()))
        state.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if synchronise:
            synchronise([value.grad for value in trainee.trained().values() if value.grad is not None])
        state.optimizer.step()
        state.step = step + 1
        report(state.step, losses)
        checkpoint(state.step, state)
    return state


def added_rate_at(step: int, settings: BankSettings) -> float:
    """Return the learning rate of a step: it rises over the first tenth, and falls as half a cosine to zero."""
    rise = min(1.0, (step + 1) * WARM_UP / settings.steps)
    return settings.learning_rate * rise * (1 + math.cos(math.pi * step / settings.steps)) / 2
