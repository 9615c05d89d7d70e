"""Shard files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kt_batch.errors import DamagedError
from kt_batch.index.shards import FORMAT, Shard, make_shard, match_parts, open_shard, write_shard
from tests.synthetic import clustered, ids_of, packets_of

EYE = torch.eye(32)


def shard_of(packets: Tensor, mean: Tensor, directions: Tensor = EYE) -> Shard:
    return make_shard(packets, torch.from_numpy(ids_of(len(packets))), mean, directions)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A shard of 20 patches of 8 channels, with 5 directions."""
    write_shard(tmp_path / "shard", shard_of(packets_of(clustered(20)), torch.zeros(4, 8), EYE[:, :5]))
    return tmp_path / "shard"


def test_a_shard_comes_back_from_its_file(path: Path) -> None:
    packets = packets_of(clustered(20))
    shard = open_shard(path)
    assert shard.count == 20
    assert torch.stack(shard.bands, dim=1).equal(packets)
    assert shard.patch_ids.equal(torch.from_numpy(ids_of(20)))
    torch.testing.assert_close(shard.norms, packets.float().flatten(1).norm(dim=1))
    assert shard.level.equal(shard_of(packets, torch.zeros(4, 8), EYE[:, :5]).level)


def test_the_format_is_pinned(path: Path) -> None:
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "kt-batch-shard/2"}
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is not a dict
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in found.items()} == {
        "ll": ((20, 8), torch.float16),
        "lh": ((20, 8), torch.float16),
        "hl": ((20, 8), torch.float16),
        "hh": ((20, 8), torch.float16),
        "patch_ids": ((20, 12), torch.uint8),
        "norms": ((20,), torch.float32),
        "level": ((20, 6), torch.float16),
    }


def test_the_same_patches_make_the_same_bytes(path: Path) -> None:
    again = path.with_name("again")
    write_shard(again, shard_of(packets_of(clustered(20)), torch.zeros(4, 8), EYE[:, :5]))
    assert again.read_bytes() == path.read_bytes()


def test_norms_are_those_of_match_space() -> None:
    packets, mean = packets_of(clustered(20)), torch.full((4, 8), 0.25)
    expected = (packets.float() - mean).flatten(1).norm(dim=1)
    torch.testing.assert_close(shard_of(packets, mean).norms, expected)


def test_the_first_level_is_that_of_unit_vectors_in_match_space() -> None:
    # One patch of one channel. In match space the packet is (3, 0, 4, 0), so (0.6, 0, 0.8, 0) in unit length: along the
    # first axis 0.6, and 0.8 is left.
    packets, mean = torch.tensor([4.0, 1, 5, 1]).view(1, 4, 1).half(), torch.ones(4, 1)
    level = shard_of(packets, mean, torch.eye(4)[:, :1]).level
    torch.testing.assert_close(level.float(), torch.tensor([[0.6, 0.8]]), atol=1e-3, rtol=0)


def test_a_shard_of_patches_with_nan_is_refused_in_one_sentence(tmp_path: Path) -> None:
    for value in (torch.nan, torch.inf):
        packets = packets_of(clustered(20))
        packets[7, 2, 3] = value
        write_shard(tmp_path / "shard", shard_of(packets, torch.zeros(4, 8)))
        with pytest.raises(
            DamagedError, match=r"^The index shard '.*/shard' holds patches with NaN or infinity; .*\.$"
        ):
            open_shard(tmp_path / "shard")


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
