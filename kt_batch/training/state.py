"""The state of a training, saved as small safetensors files with `state.json` written last."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kt_batch.errors import DamagedError, MismatchError
from kt_batch.training.muon import Muon
from kt_batch.training.settings import Settings, TrainSettings

FILE_BYTES = 12 << 20  # of tensors in one file, which stays below 16 MiB
FITTED = "decoder.direct."  # prefix of the parameters that start from a fit
KINDS = ("weights", "average", "optimizer")


class TrainState:
    """Step, optimizer, random generator and the exponential moving average of the trained weights."""

    def __init__(
        self, step: int, optimizer: torch.optim.Optimizer, generator: torch.Generator, average: dict[str, Tensor]
    ) -> None:
        self.step = step
        self.optimizer = optimizer
        self.generator = generator
        self.average = average

    @classmethod
    def fresh(cls, trained: Mapping[str, nn.Parameter], settings: Settings) -> Self:
        """Return a state at step 0 for the parameters `trained`, by name."""
        generator = torch.Generator().manual_seed(settings.seed)
        shares = {True: settings.fitted_rate if isinstance(settings, TrainSettings) else 1.0, False: 1.0}
        parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, value in trained.items():
            parts[name.startswith(FITTED)].append(value)
        optimizer = Muon([{"params": part, "share": shares[of]} for of, part in parts.items() if part])
        return cls(0, optimizer, generator, {name: value.detach().clone() for name, value in trained.items()})

    def update_average(self, trained: Mapping[str, nn.Parameter], decay: float) -> None:
        """Move the average towards the weights, faster in early steps so that their influence fades."""
        keep = min(decay, (1 + self.step) / (10 + self.step))
        for name, value in trained.items():
            self.average[name].lerp_(value.detach(), 1 - keep)

    def save(self, folder: Path, tensors: Mapping[str, Tensor], settings: Settings) -> None:
        """Write weights, average and optimizer moments in files of at most 16 MiB, and `state.json` last.

        Args:
            folder: Made if absent. Files of an earlier state are removed at the end.
            tensors: By name, the trained parameters and the other tensors that a student needs.
            settings: Written too, so that `load` can refuse others.
        """
        folder.mkdir(parents=True, exist_ok=True)
        moments: dict[str, Tensor] = {"generator": self.generator.get_state()}
        for name, parameter in _named_parameters(self.optimizer, tensors):
            for key, value in self.optimizer.state[parameter].items():
                moments[f"{name}/{key}"] = torch.as_tensor(value)
        weights = {name: value.detach() for name, value in tensors.items()}
        files = []
        for kind, group in zip(KINDS, (weights, self.average, moments), strict=True):
            for number, part in enumerate(_split(group)):
                files.append(f"{kind}-{self.step}-{number}.safetensors")
                save_file(part, folder / files[-1])
        temporary = folder / "state.json.tmp"
        temporary.write_text(json.dumps({"step": self.step, "settings": asdict(settings), "files": files}))
        temporary.replace(folder / "state.json")
        for old in (path for kind in KINDS for path in folder.glob(f"{kind}-*-*.safetensors")):
            if old.name not in files:
                old.unlink()

    @classmethod
    def load(cls, folder: Path, tensors: Mapping[str, Tensor], settings: Settings) -> Self:
        """Read a saved state, and replace the values of `tensors`.

        Raises:
            MismatchError: If a setting differs. `steps` may, so that a training can be made longer or shorter.
            DamagedError: If the files cannot be read.
        """
        step, files = _read_summary(folder / "state.json", settings)
        saved: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
        try:
            for name in files:
                with safe_open(folder / name, "pt") as file:
                    saved[name.split("-")[0]] |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            trained = {name: value for name, value in tensors.items() if isinstance(value, nn.Parameter)}
            state = cls.fresh(trained, settings)
            state.step = step
            for name, value in tensors.items():
                value.data.copy_(saved["weights"][name])
            for name, value in state.average.items():
                value.copy_(saved["average"][name])
            state.generator.set_state(saved["optimizer"].pop("generator"))
            _load_moments(state.optimizer, saved["optimizer"], trained)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise DamagedError(f"The training state in '{folder}' cannot be read: {error}.") from error
        return state


def _named_parameters(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the optimizer's parameters with their names, in the order by which the optimizer numbers them."""
    names = {id(value): name for name, value in tensors.items()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield names[id(parameter)], parameter


def _load_moments(optimizer: torch.optim.Optimizer, moments: dict[str, Tensor], trained: Mapping[str, Tensor]) -> None:
    """Load moments, whose keys are `PARAMETER/MOMENT`, into the optimizer."""
    numbers = {name: number for number, (name, _) in enumerate(_named_parameters(optimizer, trained))}
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        name, moment = key.split("/")
        entries.setdefault(numbers[name], {})[moment] = value
    if len(entries) != len(numbers):
        raise ValueError(f"moments of {len(entries)} parameters instead of {len(numbers)}")
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


def _split(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors in groups of at most FILE_BYTES, in order; a larger tensor stands alone."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if part and size + tensor.nbytes > FILE_BYTES:
            yield part
            part, size = {}, 0
        part[name] = tensor.cpu().contiguous()
        size += tensor.nbytes
    yield part


def _read_summary(path: Path, settings: Settings) -> tuple[int, list[str]]:
    """Return the step and the file names of a `state.json`, once its settings have been compared."""
    try:
        saved = json.loads(path.read_text())
        step, old, files = int(saved["step"]), dict(saved["settings"]), [str(name) for name in saved["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"'{path}' is not the state of a training: {error}.") from error
    new = asdict(settings)
    differs = [
        f"{name} ({old.get(name)} there, {new[name]} here)"
        for name in new
        if name != "steps" and old.get(name) != new[name]
    ]
    if differs:
        raise MismatchError(f"The training in '{path.parent}' was started with other settings: {', '.join(differs)}.")
    return step, files
