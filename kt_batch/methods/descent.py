"""Optimisers of pixels that can stop after any step and go on later, with the same bytes.

torch's L-BFGS keeps gradient and loss of its place only within one call. Here each call makes one iteration, and the
next one is told what the last evaluation found there. So it evaluates what a single call evaluates, and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kt_batch.methods.checkpoints import Progress, State, packed, unpacked
from kt_batch.methods.steps import report_step

Loss = Callable[[Tensor], Tensor]


class Descent(ABC):
    """Changes the pixels of a picture, step after step.

    picture: `(3, H, W)`, as it is now. taken: Gradients of the loss that were computed. steps: Most of them.
    """

    def __init__(self, start: Tensor, loss: Loss, steps: int) -> None:
        self.picture = start.clone(memory_format=torch.contiguous_format).requires_grad_()
        self.loss, self.steps, self.taken = loss, steps, 0

    @abstractmethod
    def advance(self) -> bool:
        """Go one step on; return whether there is another one."""

    @abstractmethod
    def output(self) -> Tensor:
        """Return the picture at the end, in [0, 1]."""

    @abstractmethod
    def state(self) -> State:
        """Return what another descent of the same start and loss needs to go on."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Go on from a state."""


def descended(descent: Descent, progress: Progress, part: int) -> Tensor:
    """Return the output of a descent that is a part of a picture, from the last state that was kept of it."""
    state = progress.take(part)
    if state is not None:
        descent.restore(state)
    while descent.advance():
        progress.offer(part, descent.taken, descent.state)
    return descent.output()


class _Optimised(Descent):
    """A picture in the hands of an optimiser of torch."""

    optimiser: torch.optim.Optimizer

    def output(self) -> Tensor:
        return self.picture.detach().clamp(0, 1)

    def state(self) -> State:
        tensors = {"picture": self.picture.detach()}
        values = {"taken": self.taken, "optimiser": packed(dict(self.optimiser.state[self.picture]), tensors)}
        return State(values, tensors)

    def restore(self, state: State) -> None:
        with torch.no_grad():
            self.picture.copy_(state.tensors["picture"])
        # Not `load_state_dict`, which may convert numbers.
        self.optimiser.state[self.picture] = unpacked(state.values["optimiser"], state.tensors, self.picture.device)
        self.taken = int(state.values["taken"])

    def _evaluate(self) -> Tensor:
        self.picture.grad = None
        value = self.loss(self.picture)
        value.backward()
        return value

    def _step(self) -> Tensor:
        value = self._evaluate()
        self.taken += 1
        report_step(self.taken, self.steps, value.detach())
        return value


class Adam(_Optimised):
    """Adam at a rate of 0.02."""

    def __init__(self, start: Tensor, loss: Loss, steps: int) -> None:
        super().__init__(start, loss, steps)
        self.optimiser = torch.optim.Adam([self.picture], lr=0.02)

    def advance(self) -> bool:
        """See `Descent`."""
        self.optimiser.step(self._step)  # type: ignore[arg-type]  # a loss may be a tensor
        return self.taken < self.steps


@dataclass(frozen=True)
class _Evaluation:
    picture: Tensor
    value: Tensor
    gradient: Tensor | None


class Lbfgs(_Optimised):
    """torch's L-BFGS with its line search, as one call of `steps` evaluations makes it."""

    def __init__(self, start: Tensor, loss: Loss, steps: int) -> None:
        super().__init__(start, loss, steps)
        self.optimiser = torch.optim.LBFGS(
            [self.picture],
            max_iter=1,
            history_size=20,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )
        self._least: _Evaluation | None = None  # of the last line search, which nearly always ends there
        self._repeats = False

    def advance(self) -> bool:
        """See `Descent`; one step is one direction with its line search."""
        before = self.taken
        self._repeats = before > 0
        # A line search may take all evaluations that are left. torch counts the first one of each call.
        self.optimiser.param_groups[0]["max_eval"] = self.steps - before + self._repeats
        self.optimiser.step(self._closure)  # type: ignore[arg-type]  # a loss may be a tensor
        if self.taken == before + (before == 0):
            return False  # no line search: the gradient is 0, or the direction leads upwards
        state = self.optimiser.state[self.picture]
        stands = bool(state["d"].mul(state["t"]).abs().max() <= 0)
        return self.taken < self.steps and not stands

    def _closure(self) -> Tensor:
        if self._repeats:
            self._repeats = False
            return self._repeated()
        value = self._step()
        new = _Evaluation(self.picture.detach().clone(), value.detach(), self.picture.grad)
        if self._least is None or not self._least.value.item() < new.value.item():
            self._least = new
        return value

    def _repeated(self) -> Tensor:
        """Return the loss where the last line search ended, with its gradient; a new line search follows."""
        least, self._least = self._least, None
        if least is None or not torch.equal(least.picture, self.picture):
            return self._evaluate()  # after a restart, or where the search ended elsewhere
        self.picture.grad = least.gradient
        return least.value


class GradientDescent(Descent):
    """Plain gradient descent. A step that raises the loss, or leads to one that is not finite, is taken back."""

    def __init__(self, start: Tensor, loss: Loss, steps: int, rate: float, scale: float) -> None:
        """Take the rate of the first step, which is halved with each step back, and the scale of all steps."""
        super().__init__(start, loss, steps)
        self.rate, self.scale, self.least = rate, scale, float("inf")
        self.best, self.gradient = self.picture.detach(), torch.zeros_like(start)

    def advance(self) -> bool:
        """See `Descent`."""
        picture = self.picture.detach().requires_grad_()
        with torch.enable_grad():
            value = self.loss(picture)
        self.taken += 1
        report_step(self.taken, self.steps, value.detach())
        if value.item() <= self.least:  # false for NaN as well
            (self.gradient,) = torch.autograd.grad(value, picture)
            self.best, self.least = picture.detach(), value.item()
        else:
            self.rate /= 2
        self.picture = self.best - self.rate * self.scale * self.gradient
        return self.taken < self.steps

    @torch.no_grad()
    def output(self) -> Tensor:
        """See `Descent`."""
        falls = self.loss(self.picture).item() <= self.least
        return (self.picture if falls else self.best).clamp(0, 1)

    def state(self) -> State:
        """See `Descent`."""
        tensors = {"picture": self.picture, "best": self.best, "gradient": self.gradient}
        return State({"taken": self.taken, "rate": self.rate.hex(), "least": self.least.hex()}, tensors)

    def restore(self, state: State) -> None:
        """See `Descent`."""
        device = self.picture.device
        self.picture, self.best, self.gradient = (
            state.tensors[name].to(device) for name in ("picture", "best", "gradient")
        )
        self.rate, self.least = float.fromhex(state.values["rate"]), float.fromhex(state.values["least"])
        self.taken = int(state.values["taken"])
