"""Checkpoints within an image: a method offers its state now and then, and goes on from the last one that was kept.

A method knows neither where states are kept nor how often; no result depends on either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from kt_batch.config import MethodConfig


@dataclass(frozen=True)
class State:
    """The state from which a method goes on with a picture. values: JSON-able, finite. tensors: By name; any device."""

    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


class Keeper(Protocol):
    """Keeps states of pictures."""

    def last(self, picture: str) -> State | None:
        """Return the last state kept of a picture, on the processor; None where there is none."""

    def offer(self, picture: str, step: int, state: Callable[[], State], final: bool) -> None:
        """Keep a state if it is time for it.

        Args:
            picture: SHA-256 of what is worked on: settings, image and regions.
            step: A number that grows with the work.
            state: Makes the state; it is called only if it is kept.
            final: Whether the picture is finished. Its state is small.
        """


_keeper: ContextVar[Keeper | None] = ContextVar("keeper", default=None)


@contextmanager
def kept_by(keeper: Keeper) -> Iterator[None]:
    """Have the states of methods kept by `keeper` within the block."""
    token = _keeper.set(keeper)
    try:
        yield
    finally:
        _keeper.reset(token)


@dataclass
class Progress:
    """The progress of one picture, which is made in parts of up to `steps` steps each.

    state: The last one kept, until it is taken; None for a picture that begins.
    """

    steps: int
    picture: str = ""
    keeper: Keeper | None = None
    state: State | None = field(default=None)

    @property
    def part(self) -> int:
        """Return the part that the state belongs to, from 0; parts before it need not be made again."""
        return 0 if self.state is None else int(self.state.values["part"])

    def take(self, part: int) -> State | None:
        """Return the state if it is one of this part; it is given once."""
        if self.state is None or self.part != part:
            return None
        state, self.state = self.state, None
        return state

    def offer(self, part: int, step: int, state: Callable[[], State]) -> None:
        """Offer the state after a step of a part."""
        if self.keeper:
            self.keeper.offer(self.picture, part * self.steps + step, lambda: _of_part(state(), part), final=False)

    def finish(self, parts: int, output: Tensor) -> None:
        """Offer the finished picture: it is kept until its unit is committed, where others of the unit take long."""
        if self.keeper:
            whole = State({"part": parts}, {"picture": output})
            self.keeper.offer(self.picture, parts * self.steps, lambda: whole, final=True)

    def finished(self, parts: int, like: Tensor) -> Tensor | None:
        """Return the finished picture if it was kept, on the device of the image `like`."""
        state = self.take(parts)
        return None if state is None else state.tensors["picture"].to(like.device)


def progress_of(config: MethodConfig, image: Tensor, regions: Tensor | None, steps: int) -> Progress:
    """Return the progress of a picture, with the last state that was kept of it.

    Args:
        config: The settings of the method.
        image: `(3, H, W)` float32.
        regions: `(H, W)` int64, or None.
        steps: Most steps of a part.
    """
    keeper = _keeper.get()
    if keeper is None:
        return Progress(steps)
    digest = hashlib.sha256(config.digest().encode())
    for tensor in (image, regions):
        known = torch.empty(0, device="cpu") if tensor is None else tensor
        digest.update(f"{known.dtype} {list(known.shape)} ".encode())
        digest.update(known.detach().cpu().contiguous().numpy().data)
    picture = digest.hexdigest()
    return Progress(steps, picture, keeper, keeper.last(picture))


def _of_part(state: State, part: int) -> State:
    return State({**state.values, "part": part}, state.tensors)


# ---- nested states of optimisers -------------------------------------------------------------------------------------


def packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a nested state as JSON-able values, and add its tensors to `tensors`.

    Args:
        value: Of dictionaries with text keys, lists, tensors, numbers, text and None.
        tensors: Filled with all tensors, which are not copied.
    """
    if isinstance(value, Tensor):
        name = f"tensor-{len(tensors):04d}"
        tensors[name] = value.detach()
        return {"tensor": name, "on_processor": value.device.type == "cpu"}
    if isinstance(value, float):
        return {"float": value.hex()}  # also those that JSON has not
    if isinstance(value, Mapping):
        return {"map": {key: packed(each, tensors) for key, each in value.items()}}
    if isinstance(value, list):
        return [packed(each, tensors) for each in value]
    return value


def unpacked(value: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """Return the nested state that `packed` was given; tensors that were not on the processor are on `device`."""
    if isinstance(value, list):
        return [unpacked(each, tensors, device) for each in value]
    if not isinstance(value, dict):
        return value
    if "map" in value:
        return {key: unpacked(each, tensors, device) for key, each in value["map"].items()}
    if "float" in value:
        return float.fromhex(value["float"])
    return tensors[value["tensor"]].to(torch.device("cpu") if value["on_processor"] else device)
