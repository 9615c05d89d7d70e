"""Training of kt-vgg: an encoder distilled from VGG-19 together with its decoder. A plain loop with callbacks.

Needs torch and safetensors only. Reading images and scheduling stand elsewhere; the caller hands over batches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kt_batch.errors import DamagedError, MismatchError
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder


@dataclass(frozen=True)
class TrainSettings:
    """What changes the trained weights. Weights of the loss terms are relative to `reconstruction` = 1."""

    steps: int = 4000
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    ema_decay: float = 0.999
    reconstruction: float = 1.0
    distillation: float = 0.3
    affinity: float = 3.0
    patch_sample: int = 512
    seed: int = 0


class Student(nn.Module):
    """Encoder, decoder, and the linear heads (1x1) from the student's features to the teacher's."""

    def __init__(self, encoder: Encoder, decoder: Decoder, teacher_channels: dict[str, int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.heads = nn.ModuleDict(
            {cut: nn.Conv2d(encoder.channels_at(cut), c, 1) for cut, c in teacher_channels.items()}
        )


def distillation_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - R2 of the linear fit from student to teacher, all channels together: |p - t|^2 / |t - mean(t)|^2."""
    centre = target.mean(dim=(0, 2, 3), keepdim=True)
    return (predicted - target).square().sum() / (target - centre).square().sum()


def affinity_loss(student: Tensor, teacher: Tensor, index: Tensor) -> Tensor:
    """Mean squared difference of the NCC between the same random 2x2 patches in both feature maps.

    student `(n, Cs, h, w)`, teacher `(n, Ct, h, w)`, index `(m,)` into the n*(h-1)*(w-1) patches. What counts for a
    match is not the features but which patch is nearest to which.
    """

    def ncc(features: Tensor) -> Tensor:
        patches = F.unfold(features, 2).transpose(1, 2).reshape(-1, 4 * features.shape[1])[index]
        unit = F.normalize(patches, dim=1)
        return unit @ unit.T

    return (ncc(student) - ncc(teacher)).square().mean()


def learning_rate_at(step: int, settings: TrainSettings) -> float:
    """Linear warm-up, then half a cosine down to one hundredth."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    student: Student,
    teacher: Encoder,
    batches: Iterable[Tensor],
    settings: TrainSettings,
    report: Callable[[int, dict[str, float]], None],
    checkpoint: Callable[[int, TrainState], None],
    state: TrainState | None = None,
) -> TrainState:
    """Train until `settings.steps`; returns the final state, whose `average` holds the weights to ship.

    batches: an endless iterable of `(n, 3, H, W)` float32 RGB in [0, 1]. `report(step, losses)` and
    `checkpoint(step, state)` are called after every step and decide themselves what to do with it.
    """
    state = state or TrainState.fresh(student, settings)
    cuts = tuple(student.heads)
    for step, image in zip(range(state.step, settings.steps), batches, strict=False):
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings)
        losses = _losses(student, teacher, image, cuts, settings, state.generator)
        total = (
            settings.reconstruction * losses["reconstruction"]
            + settings.distillation * losses["distillation"]
            + settings.affinity * losses["affinity"]
        )
        state.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        state.optimizer.step()
        state.step = step + 1
        state.update_average(student, settings.ema_decay)
        report(state.step, {name: float(value.detach()) for name, value in losses.items()})
        checkpoint(state.step, state)
    return state


def _losses(
    student: Student,
    teacher: Encoder,
    image: Tensor,
    cuts: tuple[str, ...],
    settings: TrainSettings,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    with torch.no_grad():
        target = teacher(image, cuts)
    found = student.encoder(image, cuts)
    deepest = cuts[-1]
    distillation = torch.stack([distillation_loss(student.heads[cut](found[cut]), target[cut]) for cut in cuts])
    weights = torch.ones(len(cuts))
    weights[-1] = 2.0
    patches = image.shape[0] * (found[deepest].shape[2] - 1) * (found[deepest].shape[3] - 1)
    index = torch.randint(patches, (settings.patch_sample,), generator=generator)
    restored = student.decoder(found[deepest])
    return {
        "reconstruction": (restored - image).abs().mean(),  # eq. 8
        "distillation": (distillation * weights).sum() / weights.sum(),
        "affinity": affinity_loss(found[deepest], target[deepest], index),
        "r2": 1 - distillation[-1].detach(),
    }


class TrainState:
    """Step, optimizer, random generator and the exponential moving average of the weights."""

    def __init__(
        self, step: int, optimizer: torch.optim.Optimizer, generator: torch.Generator, average: dict[str, Tensor]
    ) -> None:
        self.step = step
        self.optimizer = optimizer
        self.generator = generator
        self.average = average

    @classmethod
    def fresh(cls, student: Student, settings: TrainSettings) -> TrainState:
        """A state at step 0."""
        generator = torch.Generator().manual_seed(settings.seed)
        optimizer = torch.optim.AdamW(student.parameters(), lr=settings.learning_rate, weight_decay=1e-5)
        average = {k: v.detach().clone() for k, v in student.state_dict().items()}
        return cls(0, optimizer, generator, average)

    def update_average(self, student: Student, decay: float) -> None:
        """Move the average towards the student; early steps weigh more, so that step 1 is not remembered for ever."""
        keep = min(decay, (1 + self.step) / (10 + self.step))
        for name, value in student.state_dict().items():
            self.average[name].lerp_(value.detach(), 1 - keep)

    def save(self, folder: Path, student: Student, settings: TrainSettings) -> None:
        """Write weights, average and optimizer moments as safetensors files, and `state.json` last."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: v.contiguous() for k, v in student.state_dict().items()}, folder / f"weights-{self.step}.safetensors"
        )
        save_file({k: v.contiguous() for k, v in self.average.items()}, folder / f"average-{self.step}.safetensors")
        moments: dict[str, Tensor] = {"generator": self.generator.get_state()}
        for number, entry in self.optimizer.state_dict()["state"].items():
            for key, value in entry.items():
                moments[f"{number}.{key}"] = torch.as_tensor(value).contiguous()
        save_file(moments, folder / f"optimizer-{self.step}.safetensors")
        temporary = folder / "state.json.tmp"
        temporary.write_text(json.dumps({"step": self.step, "settings": asdict(settings)}))
        temporary.replace(folder / "state.json")
        for kind in ("weights", "average", "optimizer"):
            for old in folder.glob(f"{kind}-*.safetensors"):
                if old.stem != f"{kind}-{self.step}":
                    old.unlink()

    @classmethod
    def load(cls, folder: Path, student: Student, settings: TrainSettings) -> TrainState:
        """Go on from `save`; the student's weights are replaced.

        `steps` may differ, so that a training can be made longer or shorter. Raises MismatchError when another setting
        does, DamagedError when `state.json` is none of ours.
        """
        step = _saved_step(folder / "state.json", settings)
        student.load_state_dict(load_file(folder / f"weights-{step}.safetensors"))
        state = cls.fresh(student, settings)
        state.step = step
        state.average = load_file(folder / f"average-{step}.safetensors")
        moments: dict[int, dict[str, Tensor]] = {}
        with safe_open(folder / f"optimizer-{step}.safetensors", "pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is not a dict
                if name == "generator":
                    state.generator.set_state(file.get_tensor(name))
                else:
                    number, key = name.split(".")
                    moments.setdefault(int(number), {})[key] = file.get_tensor(name)
        groups = state.optimizer.state_dict()["param_groups"]
        state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        return state


def _saved_step(path: Path, settings: TrainSettings) -> int:
    try:
        saved = json.loads(path.read_text())
        step, theirs = int(saved["step"]), dict(saved["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"'{path}' is not the state of a training: {error}.") from error
    ours = asdict(settings)
    differs = [
        f"{name} ({theirs.get(name)} there, {ours[name]} here)" for name in ours if theirs.get(name) != ours[name]
    ]
    differs = [text for text in differs if not text.startswith("steps ")]
    if differs:
        raise MismatchError(f"The training in '{path.parent}' was started with other settings: {', '.join(differs)}.")
    return step
