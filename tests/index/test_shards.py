"""Shard files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kt_batch.errors import DamagedError
from kt_batch.index.shards import FORMAT, match_parts, open_shard, write_shard
from tests.synthetic import clustered, ids_of, packets_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A shard of 20 patches of 8 channels."""
    write_shard(tmp_path / "shard", packets_of(clustered(20)), torch.from_numpy(ids_of(20)), torch.zeros(4, 8))
    return tmp_path / "shard"


def test_a_shard_comes_back_from_its_file(path: Path) -> None:
    packets = packets_of(clustered(20))
    shard = open_shard(path)
    assert shard.count == 20
    assert torch.stack(shard.bands, dim=1).equal(packets)
    assert shard.patch_ids.equal(torch.from_numpy(ids_of(20)))
    torch.testing.assert_close(shard.norms, packets.float().flatten(1).norm(dim=1))


def test_the_format_is_pinned(path: Path) -> None:
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "kt-batch-shard/1"}
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is not a dict
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in found.items()} == {
        "ll": ((20, 8), torch.float16),
        "lh": ((20, 8), torch.float16),
        "hl": ((20, 8), torch.float16),
        "hh": ((20, 8), torch.float16),
        "patch_ids": ((20, 12), torch.uint8),
        "norms": ((20,), torch.float32),
    }


def test_the_same_patches_make_the_same_bytes(path: Path) -> None:
    again = path.with_name("again")
    write_shard(again, packets_of(clustered(20)), torch.from_numpy(ids_of(20)), torch.zeros(4, 8))
    assert again.read_bytes() == path.read_bytes()


def test_norms_are_those_of_match_space(tmp_path: Path) -> None:
    packets, mean = packets_of(clustered(20)), torch.full((4, 8), 0.25)
    write_shard(tmp_path / "shard", packets, torch.from_numpy(ids_of(20)), mean)
    expected = (packets.float() - mean).flatten(1).norm(dim=1)
    torch.testing.assert_close(open_shard(tmp_path / "shard").norms, expected)


def test_what_equals_the_mean_is_a_zero_vector_in_match_space() -> None:
    packets = torch.full((1, 4, 2), 0.5, dtype=torch.float16)
    vectors, norms = match_parts(packets, torch.full((4, 2), 0.5))
    assert vectors.eq(0).all()
    assert norms.tolist() == [0]


@pytest.mark.parametrize("damage", ["empty", "cut", "short", "other format", "other tensors", "absent"])
def test_a_damaged_shard_is_refused_in_one_sentence(path: Path, damage: str) -> None:
    data = path.read_bytes()
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(data[:-1])
        case "short":
            path.write_bytes(data[:40])
        case "other format":
            save_file({"ll": torch.zeros(1)}, path, metadata={"format": "kt-batch-shard/0"})
        case "other tensors":
            save_file({"ll": torch.zeros(1)}, path, metadata={"format": FORMAT})
        case _:
            path.unlink()
    with pytest.raises(DamagedError, match=rf"^[^\n]*{path}[^\n]*\.$"):
        open_shard(path)
