"""Train a decoder for one cut of a fixed encoder: a plain loop with callbacks.

Needs torch and safetensors only. The caller supplies the batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder
from kt_batch.training.fitting import fit_to
from kt_batch.training.losses import lattice_error, swap_features, unexplained_variance
from kt_batch.training.settings import TrainSettings
from kt_batch.training.state import TrainState

MIN_DEVIATION = 1e-3  # of the largest deviation of a channel

Synchronise = Callable[[list[Tensor]], None]


class Student(nn.Module):
    """An encoder and the decoder for one cut of it. Only the decoder is trained.

    The decoder is trained on codes standardised per channel, (code - mean) / deviation. Principal components differ in
    size by orders of magnitude; without this a decoder would not learn the small ones, which hold the detail.
    `shipped_decoder` folds the standardisation into the first convolutions.

    Attributes:
        mean: `(1, C, 1, 1)` of the codes.
        deviation: `(1, C, 1, 1)` of the codes.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, encoder: Encoder, decoder: Decoder, cut: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.cut = cut
        encoder.requires_grad_(False)
        self.register_buffer("mean", torch.zeros(1, decoder.channels, 1, 1))
        self.register_buffer("deviation", torch.ones(1, decoder.channels, 1, 1))

    @torch.no_grad()
    def standardise(self, image: Tensor) -> None:
        """Set mean and deviation to those of the codes of a batch `(n, 3, H, W)` RGB in [0, 1]."""
        code = self.encoder.encode_code(image, self.cut)
        self.mean = code.mean(dim=(0, 2, 3), keepdim=True)
        deviation = code.std(dim=(0, 2, 3), keepdim=True)
        # Bounds the amplification of a channel that hardly ever responds.
        self.deviation = deviation.clamp_min(float(deviation.max()) * MIN_DEVIATION)

    def decode(self, code: Tensor) -> Tensor:
        """Decode a code `(n, C, h, w)` to `(n, 3, H, W)` RGB, not clamped."""
        out: Tensor = self.decoder((code - self.mean) / self.deviation)
        return out

    @torch.no_grad()
    def fit_direct(self, images: Sequence[Tensor]) -> None:
        """Fit the decoder's direct convolution, if any, to images `(n, 3, H, W)` RGB in [0, 1]."""
        if self.decoder.direct is not None:
            codes = [(self.encoder.encode_code(image, self.cut) - self.mean) / self.deviation for image in images]
            fit_to(self.decoder.direct, codes, [F.pixel_unshuffle(image, self.decoder.scale) for image in images])

    @torch.no_grad()
    def shipped_decoder(self) -> Decoder:
        """Return a decoder of the encoder's features: without details it equals `decode` of the code.

        It restores the encoder's details, if any, by the encoder's own map. Raises WeightsError if that map does not
        allow it (`Decoder.check_details`).
        """
        trained, detail = self.decoder, self.encoder.pixel_detail(self.cut)
        direct, count = trained.direct is not None, 0 if detail is None else detail.out_channels
        decoder = Decoder(trained.channels + count, trained.blocks, trained.activation, direct=direct, details=count)
        decoder.load_state_dict(trained.state_dict(), strict=False)
        if detail is not None and decoder.detail is not None:
            decoder.detail.load_state_dict(detail.state_dict())
            decoder.check_details(f"at {self.cut}")
        for first in decoder.first_convolutions():
            weight = first.weight / self.deviation
            cast("Tensor", first.bias).sub_((weight * self.mean).sum(dim=(1, 2, 3)))
            first.weight.copy_(weight)
        return decoder

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a saved state must hold: trained parameters and code statistics, by name."""
        return {**self.trained(), "mean": self.mean, "deviation": self.deviation}

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that training changes, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}


def learning_rate_at(step: int, settings: TrainSettings) -> float:
    """Return the learning rate: linear warm-up, then half a cosine down to one hundredth."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    student: Student,
    batches: Iterable[Tensor],
    settings: TrainSettings,
    report: Callable[[int, dict[str, float]], None],
    checkpoint: Callable[[int, TrainState], None],
    state: TrainState | None = None,
    synchronise: Synchronise | None = None,
    bfloat16: bool = False,
) -> TrainState:
    """Train until `settings.steps`.

    Args:
        student: Trained in place.
        batches: Endless; `(n, 3, H, W)` float32 RGB in [0, 1].
        settings: Schedule and loss weights.
        report: Called as `report(step, losses)` after every step.
        checkpoint: Called as `checkpoint(step, state)` after every step.
        state: Where to resume; None: step 0.
        synchronise: Averages gradients in place over all workers.
        bfloat16: Run the networks, not the losses, under autocast.

    Returns:
        The final state; its `average` holds the weights to ship.
    """
    state = state or TrainState.fresh(student.trained(), settings)
    parameters = list(student.trained().values())
    for step, image in zip(range(state.step, settings.steps), batches, strict=False):
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings) * group["share"]
        losses, total = _losses(student, image, settings, bfloat16)
        state.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if synchronise:
            synchronise([p.grad for p in parameters if p.grad is not None])
        state.optimizer.step()
        state.step = step + 1
        state.update_average(student.trained(), settings.ema_decay)
        report(state.step, {name: float(value.detach()) for name, value in losses.items()})
        checkpoint(state.step, state)
    return state


def _losses(
    student: Student, image: Tensor, settings: TrainSettings, bfloat16: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the loss terms by name, and their weighted sum."""
    encoder, cut = student.encoder, student.cut
    losses = {}
    with torch.autocast(image.device.type, torch.bfloat16, enabled=bfloat16):
        code = encoder.encode_code(image, cut)
        error = student.decode(code).float() - image
        losses["reconstruction"] = error.abs().mean()
        if settings.lattice:
            losses["lattice"] = lattice_error(error, student.decoder.scale)
        if settings.swapped:
            swapped = swap_features(code.float()[: max(2, len(code) // 2)])
            decoded = student.decode(swapped).float()
            losses["swapped"] = unexplained_variance(encoder.encode_code(decoded, cut).float(), swapped)
            if settings.lattice:
                losses["lattice"] = losses["lattice"] + lattice_error(decoded, student.decoder.scale)
    weights = vars(settings)
    return losses, torch.stack([weights[name] * value for name, value in losses.items()]).sum()
