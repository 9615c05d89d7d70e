"""Optimisers of pixels that stop and go on: as one call of torch would do it, with the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from kt_batch.methods.checkpoints import State
from kt_batch.methods.descent import Adam, Descent, GradientDescent, Lbfgs

LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "parabola": lambda x: (x - 0.4).square().sum(),  # reaches its least
    "valley": lambda x: (100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()).sum(),
    "waves": lambda x: (torch.sin(9 * x) + x.square()).sum() ** 2,
    "edges": lambda x: x.abs().sqrt().sum(),  # no slope fits: long line searches
    "wiggles": lambda x: (x.square() + 0.3 * torch.sin(20.0 * x)).sum(),  # a search may end above its least loss
    "flat": lambda x: (x * 0).sum(),
}
MAKERS: dict[str, Callable[[Tensor, Callable[[Tensor], Tensor], int], Descent]] = {
    "lbfgs": Lbfgs,
    "adam": Adam,
    "plain": lambda start, loss, steps: GradientDescent(start, loss, steps, 8.0, 0.01),
}


def start_of(seed: int) -> Tensor:
    return torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(seed))


def in_one_call(start: Tensor, loss: Callable[[Tensor], Tensor], steps: int) -> tuple[Tensor, int]:
    """Return the picture of one call of torch's L-BFGS and its evaluations: the reference."""
    picture, count = start.clone().requires_grad_(), [0]

    def closure() -> Tensor:
        picture.grad = None
        value = loss(picture)
        value.backward()
        count[0] += 1
        return value

    options: dict[str, Any] = {"tolerance_grad": 0, "tolerance_change": 0, "line_search_fn": "strong_wolfe"}
    torch.optim.LBFGS([picture], max_iter=steps, max_eval=steps, history_size=20, **options).step(closure)
    return picture.detach(), count[0]


def same(one: Tensor, other: Tensor) -> bool:
    return one.detach().numpy().tobytes() == other.detach().numpy().tobytes()


@given(st.sampled_from(sorted(LOSSES)), st.integers(0, 50), st.integers(1, 60))
@example("wiggles", 4, 60)
@example("wiggles", 15, 60)
def test_single_iterations_make_what_one_call_of_torch_makes(name: str, seed: int, steps: int) -> None:
    descent = Lbfgs(start_of(seed), LOSSES[name], steps)
    while descent.advance():
        pass
    expected, evaluations = in_one_call(start_of(seed), LOSSES[name], steps)
    assert same(descent.picture, expected)
    assert descent.taken == evaluations


def copied(state: State) -> State:
    """Return a state as one that was stored: the descent that it was taken from changes its own."""
    return State(state.values, {name: tensor.clone() for name, tensor in state.tensors.items()})


@given(st.sampled_from(sorted(MAKERS)), st.sampled_from(sorted(LOSSES)), st.integers(0, 50), st.integers(1, 40))
def test_a_descent_goes_on_from_any_step_with_the_same_bytes(maker: str, name: str, seed: int, steps: int) -> None:
    make, loss = MAKERS[maker], LOSSES[name]
    whole = make(start_of(seed), loss, steps)
    states = []
    while whole.advance():
        states.append(copied(whole.state()))
    for state in states[:: max(1, len(states) // 4)]:
        again = make(start_of(seed), loss, steps)
        again.restore(state)
        while again.advance():
            pass
        assert same(again.output(), whole.output())
        assert again.taken == whole.taken


@pytest.mark.parametrize("maker", sorted(MAKERS))
def test_a_state_is_plain_values_and_tensors(maker: str) -> None:
    descent = MAKERS[maker](start_of(1), LOSSES["valley"], 9)
    descent.advance()
    state = descent.state()
    assert {tensor.dtype for tensor in state.tensors.values()} <= {torch.float32, torch.float64, torch.int64}
    assert all(type(value) in (int, str, dict) for value in state.values.values())
