"""The two branches of a joint training (Algorithm 1): T steps of stylising, then one of the auto-encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from kt_batch.errors import KtBatchError
from kt_batch.kernels.filter_banks import filtered
from kt_batch.models.stylebank import STRIDE, AutoEncoder, new_bank
from kt_batch.training.loop import Synchronise
from kt_batch.training.losses import lattice_error
from kt_batch.training.settings import Settings
from kt_batch.training.state import TrainState
from kt_batch.training.stylebank.losses import Perceptual
from kt_batch.training.stylebank.settings import BankSettings, learning_rate_at

BatchAt = Callable[[int], tuple[Tensor, Sequence[int]]]


class Trainee(nn.Module):
    """An auto-encoder and the banks that are trained for it.

    Args:
        autoencoder: The network.
        names: Of the banks, in the order of the styles.
        settings: The sides of the banks and the seed of their random values.
        frozen: Train the banks alone.

    Attributes:
        stylising_norm: `()`, the length of the last gradient of the auto-encoder in the stylising branch.
    """

    stylising_norm: Tensor

    def __init__(
        self, autoencoder: AutoEncoder, names: Sequence[str], settings: BankSettings, *, frozen: bool = False
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(requires_grad=not frozen)
        self.frozen = frozen
        self.names = tuple(names)
        generator = torch.Generator().manual_seed(settings.seed)
        banks = {name: new_bank(autoencoder.channels, settings.kernel, generator) for name in names}
        self.banks = nn.ParameterDict({name: nn.Parameter(bank) for name, bank in banks.items()})
        self.register_buffer("stylising_norm", torch.zeros(()))

    def stylised(self, images: Tensor, styles: Sequence[int]) -> Tensor:
        """Return images `(n, 3, H, W)` in their styles, by number; not clamped."""
        return self.decoded(self.autoencoder.encode(images), styles)

    def decoded(self, features: Tensor, styles: Sequence[int]) -> Tensor:
        """Return the pictures `(n, 3, 4 h, 4 w)` of features `(n, C, h, w)` in their styles; not clamped."""
        banked = [
            filtered(features[number : number + 1], self.banks[self.names[style]])
            for number, style in enumerate(styles)
        ]
        return self.autoencoder.decode(torch.cat(banked))

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that training changes, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a saved state must hold, by name."""
        return {**self.trained(), "stylising_norm": self.stylising_norm}


class BankState(TrainState):
    """Step and moments of Adam. There is no average of the weights."""

    @classmethod
    def fresh(cls, trained: Mapping[str, nn.Parameter], settings: Settings) -> Self:
        """Return a state at step 0. Banks that are not drawn for a while have moments from the start."""
        adam = torch.optim.Adam(trained.values())
        for value in trained.values():
            adam.state[value] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(value),
                "exp_avg_sq": torch.zeros_like(value),
            }
        return cls(0, adam, torch.Generator().manual_seed(settings.seed), {})


def train(
    trainee: Trainee,
    perceptual: Perceptual,
    batch_at: BatchAt,
    settings: BankSettings,
    report: Callable[[int, dict[str, float]], None],
    checkpoint: Callable[[int, BankState], None],
    state: BankState | None = None,
    synchronise: Synchronise | None = None,
) -> BankState:
    """Train the auto-encoder and the banks until `settings.steps`.

    Args:
        trainee: Trained in place.
        perceptual: The losses of the styles, numbered as the banks are.
        batch_at: Step -> `(n, 3, H, W)` float32 RGB in [0, 1], and the number of the style of each image.
        settings: Schedule and loss weights.
        report: Called as `report(step, losses)` after every step; losses of the other branch are its last ones.
        checkpoint: Called as `checkpoint(step, state)` after every step.
        state: Where to resume; None: step 0.
        synchronise: Averages gradients in place over all workers.

    Raises:
        KtBatchError: A loss is not finite.
    """
    state = state or BankState.fresh(trainee.trained(), settings)
    losses = dict.fromkeys(("content", "style", "variation", "grid", "identity"), 0.0)
    for step in range(state.step, settings.steps):
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings)
        images, styles = batch_at(step)
        stylising = step % (settings.stylings + 1) < settings.stylings
        if stylising:
            pictures, wanted = trainee.stylised(images, styles), perceptual.content_of(images)
            found, total = stylising_loss(perceptual, pictures, wanted, styles, settings)
        else:
            found, total = _identity(trainee, images, settings)
        check_loss(step + 1, float(total.detach()))
        state.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if synchronise:
            synchronise([value.grad for value in trainee.trained().values() if value.grad is not None])
        _balance(trainee, settings.balance, stylising=stylising)
        state.optimizer.step()
        state.step = step + 1
        losses |= found
        report(state.step, dict(losses))
        checkpoint(state.step, state)
    return state


def check_loss(step: int, loss: float) -> None:
    """Raise KtBatchError where the loss of a step is not finite."""
    if not math.isfinite(loss):
        raise KtBatchError(
            f"The training diverged: at step {step} its loss is {loss}; begin again in another --out, with a smaller "
            "--learning-rate, --style-weight or --smoothness."
        )


def stylising_loss(
    perceptual: Perceptual, pictures: Tensor, wanted: Tensor, styles: Sequence[int], settings: BankSettings
) -> tuple[dict[str, float], Tensor]:
    """Return the loss terms of eq. 3 and that of the grid, and their weighted sum; `wanted` is of the contents."""
    losses = perceptual.compare(pictures, wanted, styles)
    style, grid = losses.styles.mean(), lattice_error(pictures, STRIDE)
    total = settings.content * losses.content + settings.style * style + settings.variation * losses.variation
    terms = {"content": losses.content, "style": style, "variation": losses.variation, "grid": grid}
    return {name: float(value.detach()) for name, value in terms.items()}, total + settings.grid * grid


def _identity(trainee: Trainee, images: Tensor, settings: BankSettings) -> tuple[dict[str, float], Tensor]:
    """Return the mean square error of the reconstruction (eq. 2), and its sum with the weighted grid of the error.

    The grid counts here as it does beside a style's loss of 1, whose scale is that of mean squares; without a weight of
    the style, as beside a content's loss of 1.
    """
    error = trainee.autoencoder(images) - images
    loss = error.square().mean()
    grid = settings.grid / (settings.style or settings.content)
    return {"identity": float(loss.detach())}, loss + grid * lattice_error(error, STRIDE)


@torch.no_grad()
def _balance(trainee: Trainee, balance: float, *, stylising: bool) -> None:
    """Keep the length of the auto-encoder's stylising gradient, or make the other one as long, times `balance`."""
    gradients = [value.grad for value in trainee.autoencoder.parameters() if value.grad is not None]
    if stylising:
        trainee.stylising_norm.copy_(length(gradients))
    else:
        scale_to(gradients, balance * trainee.stylising_norm)


def length(gradients: Iterable[Tensor]) -> Tensor:
    """Return the Euclidean length `()` of several gradients as one vector."""
    return torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()


def scale_to(gradients: Sequence[Tensor], wanted: Tensor) -> None:
    """Scale gradients in place, so that their common length is `wanted`; those of length 0 stay (Algorithm 1)."""
    own = length(gradients)
    if own > 0:
        for gradient in gradients:
            gradient.mul_(wanted / own)
