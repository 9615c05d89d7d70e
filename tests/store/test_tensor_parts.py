"""Some tensors of a file are read by two ranges of it, whatever else it holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from kt_batch.errors import DamagedError
from kt_batch.store.local import LocalLocation
from kt_batch.store.tensor_parts import LONGEST_HEADER, read_tensors
from tests.support.forged import with_header

TENSORS = {
    "a": torch.arange(6).view(2, 3),
    "b": torch.rand(5, generator=torch.Generator().manual_seed(0)),
    "c": torch.zeros(0, 4),
    "d": torch.ones(3, dtype=torch.uint8),
    "e": torch.full((2, 2), 7.0),
}
DATA = save(TENSORS, {"format": "any"})


class Counted(LocalLocation):
    """A location that keeps the bytes that are asked of it."""

    ranges: list[int] = []  # noqa: RUF012 - LocalLocation is frozen

    def read_range(self, name: str, start: int, length: int) -> bytes:
        self.ranges.append(length)
        return super().read_range(name, start, length)


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Counted:
    place = Counted(tmp_path_factory.mktemp("tensors"))
    place.put_if_absent("file", DATA)
    return place


@given(wanted=st.sets(st.sampled_from([*TENSORS, "missing"])))
def test_the_wanted_tensors_are_those_of_the_whole_file(location: Counted, wanted: set[str]) -> None:
    found = load(read_tensors(location, "file", len(DATA), wanted))
    assert found.keys() == wanted - {"missing"}
    for name, tensor in found.items():
        assert tensor.dtype == TENSORS[name].dtype
        assert tensor.equal(TENSORS[name])


def test_two_ranges_are_read_and_nothing_beyond_what_is_wanted(location: Counted) -> None:
    location.ranges.clear()
    read_tensors(location, "file", len(DATA), {"b"})
    assert location.ranges == [len(DATA), TENSORS["b"].nbytes]  # the file is shorter than LONGEST_HEADER
    assert len(DATA) < LONGEST_HEADER


def declare(**values: Any) -> Callable[[bytes], bytes]:
    return lambda data: with_header(data, lambda header: header["a"].update(values))


@pytest.mark.parametrize(
    "change",
    [
        declare(data_offsets=[0, 10**15]),
        declare(data_offsets=[-8, 40]),
        declare(data_offsets=[40, 0]),
        declare(data_offsets=[0]),
        declare(data_offsets="ab"),
        declare(data_offsets=None),
        lambda data: with_header(data, lambda header: header.update(a=[])),
        lambda data: (10**15).to_bytes(8, "little") + data[8:],
        lambda data: (100_000).to_bytes(8, "little") + b"[" * 100_000,
        lambda _: (4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc",
        lambda _: (2).to_bytes(8, "little") + b"[]",
        lambda _: (4).to_bytes(8, "little") + b"null",
        lambda data: bytes(len(data)),
        lambda _: b"no tensors",
        lambda _: b"",
    ],
)
def test_what_is_no_file_of_tensors_is_one_sentence(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    data = change(DATA)
    place = LocalLocation(tmp_path)
    place.put_if_absent("file", data)
    with pytest.raises(DamagedError, match=r"^'file' at '[^\n]*' cannot be read: it is no safetensors file\.$"):
        read_tensors(place, "file", len(data), {"a"})
