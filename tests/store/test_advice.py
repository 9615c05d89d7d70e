"""Advice about mapped tensors: which bytes the kernel reads, and that it changes nothing else."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kt_batch.store.advice import read_at_random, read_soon

BYTES = 1 << 20


@pytest.fixture
def mapped(tmp_path: Path) -> Tensor:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * (BYTES // 256))
    return torch.from_file(str(path), shared=False, size=BYTES, dtype=torch.uint8)


def flags_at(address: int) -> list[str]:
    """Return the flags of the mapping that holds an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and not first.endswith(":"):
            start, stop = (int(end, 16) for end in first.split("-"))
            inside = start <= address < stop
        elif inside and first == "VmFlags:":
            return rest
    return []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes this advice")
def test_the_pages_of_a_tensor_are_read_one_by_one_and_those_before_it_as_before(mapped: Tensor) -> None:
    half = mapped[BYTES // 2 :]
    read_at_random([half])
    assert "rr" in flags_at(half.data_ptr())
    assert "rr" not in flags_at(half.data_ptr() - 2 * mmap.PAGESIZE)


def test_advice_changes_no_value(mapped: Tensor) -> None:
    before = mapped.clone()
    read_at_random([mapped[5:7000], mapped[:0]])
    read_soon(mapped[4000:9000])
    read_soon(mapped[:0])
    assert mapped.equal(before)


def test_memory_that_is_no_file_may_be_told_too() -> None:
    tensor = torch.arange(5000)
    read_at_random([tensor])
    read_soon(tensor[10:])
    assert tensor.equal(torch.arange(5000))
