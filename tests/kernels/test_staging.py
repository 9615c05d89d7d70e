"""Staging to a device, and the device that stands in for a GPU in tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kt_batch.kernels.staging import staged
from tests.support.other_device import DEVICE, OtherDevice, held


def test_the_processor_needs_no_copy() -> None:
    tensor = torch.rand(3)
    assert staged(tensor, torch.device("cpu")) is tensor


def test_a_staged_tensor_has_its_values_on_the_device() -> None:
    tensor = torch.rand(3)
    with OtherDevice():
        there = staged(tensor, DEVICE)
        assert there.device == DEVICE
        assert held(there).equal(tensor)
        assert there.cpu().equal(tensor)


@pytest.mark.parametrize(
    "mix",
    [
        lambda here, there: here + there,
        lambda here, there: torch.cat([there, here]),
        lambda here, there: there[here.long()],
        lambda here, there: there.index_select(0, here.long()),
        lambda here, there: there @ here,
        lambda here, there: torch.where(here > 0, there, 0.0),
        lambda _, there: there.numpy(),
    ],
    ids=["sum", "cat", "index", "index_select", "product", "where", "numpy"],
)
def test_the_device_of_tests_refuses_to_mix(mix: Callable[[Tensor, Tensor], object]) -> None:
    here = torch.zeros(3)
    with OtherDevice(), pytest.raises(RuntimeError, match=r"mixes|numpy"):
        mix(here, here.to(DEVICE))


def test_the_device_of_tests_takes_numbers_and_copies() -> None:
    with OtherDevice():
        there = torch.tensor([1.0, 2.0], device=DEVICE) + torch.tensor(0.5, device="cpu")
        there[1:] = torch.ones(1, device="cpu")
        assert there.tolist() == [1.5, 1.0]
        assert float(there.sum()) == 2.5
        assert there.new_tensor([3]).device == torch.arange(2, device=DEVICE).device == DEVICE


@pytest.mark.gpu
def test_a_gpu_gets_the_values_of_a_tensor() -> None:
    if not torch.cuda.is_available():
        pytest.skip("this torch sees no GPU")
    tensor = torch.rand(1000, 70).T
    there = staged(tensor, torch.device("cuda"))
    assert there.is_cuda
    assert there.cpu().equal(tensor)
