"""Shard files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kt_batch.errors import DamagedError
from kt_batch.index.shards import FORMAT, PLANE_FORMAT, Shard, make_shard, match_parts, open_shard, write_shard
from kt_batch.kernels.principal import Basis
from tests.support.synthetic import clustered, ids_of, packets_of

EYE = torch.eye(32)
BITS = {"float16": None, "4bit": 4, "5bit": 5}


def shard_of(packets: Tensor, mean: Tensor, directions: Tensor = EYE, bits: int | None = None) -> Shard:
    """Make a shard of one leaf."""
    basis = Basis(directions, torch.full((len(directions),), 0.2))
    ids = torch.from_numpy(ids_of(len(packets)))
    return make_shard(packets, ids, torch.arange(len(ids)), mean, basis, torch.tensor([len(ids)]), bits)


@pytest.fixture(params=BITS)
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A shard of 20 patches of 8 channels, with 5 directions."""
    found = shard_of(packets_of(clustered(20)), torch.zeros(4, 8), EYE[:, :5], BITS[request.param])
    write_shard(tmp_path / "shard", found)
    return tmp_path / "shard"


@pytest.mark.parametrize("bits", BITS.values())
def test_a_shard_comes_back_from_its_file(tmp_path: Path, bits: int | None) -> None:
    packets = packets_of(clustered(20))
    shard = shard_of(packets, torch.zeros(4, 8), EYE[:, :5], bits)
    write_shard(tmp_path / "shard", shard)
    found = open_shard(tmp_path / "shard")
    assert found.count == 20
    assert found.bits == shard.bits == bits
    assert list(found.payload) == list(shard.payload)
    assert {name: tensor.equal(shard.tensors()[name]) for name, tensor in found.tensors().items()} == dict.fromkeys(
        shard.tensors(), True
    )
    assert found.patch_ids.equal(torch.from_numpy(ids_of(20)))
    torch.testing.assert_close(found.norms, packets.float().flatten(1).norm(dim=1))


def test_float16_bands_are_the_librarys_own() -> None:
    packets = packets_of(clustered(20))
    assert torch.stack(list(shard_of(packets, torch.zeros(4, 8), EYE[:, :5]).payload.values()), dim=1).equal(packets)


@pytest.mark.parametrize("bits", [4, 5])
def test_patches_of_few_values_stay_float16(bits: int) -> None:
    # Of 32 values, 8 directions are a quarter, and 9 are more.
    packets, mean = packets_of(clustered(20)), torch.zeros(4, 8)
    assert [shard_of(packets, mean, EYE[:, :n], bits).bits for n in (8, 9)] == [bits, None]


def test_patches_whose_fifth_bits_are_no_whole_bytes_stay_float16() -> None:
    # An odd number of channels: 36 values need 4.5 bytes.
    packets, mean = packets_of(clustered(20, channels=9)), torch.zeros(4, 9)
    assert [shard_of(packets, mean, torch.eye(36)[:, :5], bits).bits for bits in (4, 5)] == [4, None]


def test_the_format_is_pinned(path: Path, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["path"]
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "kt-batch-shard/4" if kind == "5bit" else "kt-batch-shard/3"}
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is not a dict
    bands = dict.fromkeys(("ll", "lh", "hl", "hh"), ((20, 8), torch.float16))
    codes = {"codes": ((20, 16), torch.uint8), "gains": ((20,), torch.float32)}
    plane = {"plane": ((20, 4), torch.uint8)}
    payload: dict[str, dict[str, object]] = {"float16": {**bands}, "4bit": {**codes}, "5bit": {**codes, **plane}}
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in found.items()} == {
        "patch_ids": ((20, 12), torch.uint8),
        "norms": ((20,), torch.float32),
        "level": ((20, 6), torch.float16),
        "leaf_means": ((1, 6), torch.float32),
        "leaf_variances": ((1, 5), torch.float32),
        **payload[kind],
    }


def test_leaves_know_the_mean_and_variance_of_their_first_level() -> None:
    packets, ids = packets_of(clustered(5)), torch.from_numpy(ids_of(5))
    basis = Basis(EYE[:, :3], torch.ones(32))
    shard = make_shard(packets, ids, torch.arange(5), torch.zeros(4, 8), basis, torch.tensor([2, 3]), bits=None)
    level = shard.level.float()
    torch.testing.assert_close(shard.leaf_means, torch.stack([level[:2].mean(0), level[2:].mean(0)]))
    expected = torch.stack([level[:2, :3].var(0, correction=0), level[2:, :3].var(0, correction=0)])
    torch.testing.assert_close(shard.leaf_variances, expected)


@pytest.mark.parametrize("bits", [4, 5])
def test_the_same_patches_make_the_same_bytes(tmp_path: Path, bits: int) -> None:
    for name in ("one", "again"):
        found = shard_of(packets_of(clustered(20)), torch.zeros(4, 8), EYE[:, :5], bits)
        write_shard(tmp_path / name, found)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "again").read_bytes()


def test_norms_are_those_of_match_space() -> None:
    packets, mean = packets_of(clustered(20)), torch.full((4, 8), 0.25)
    expected = (packets.float() - mean).flatten(1).norm(dim=1)
    torch.testing.assert_close(shard_of(packets, mean).norms, expected)


def test_the_first_level_is_that_of_unit_vectors_in_match_space() -> None:
    # One channel. The packet in match space is (3, 0, 4, 0), its unit vector (0.6, 0, 0.8, 0): coordinate 0.6 along the
    # first axis, and a rest of length 0.8.
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


def test_codes_without_their_plane_or_with_one_too_many_are_refused(tmp_path: Path) -> None:
    tensors = shard_of(packets_of(clustered(20)), torch.zeros(4, 8), EYE[:, :5], bits=5).tensors()
    without = {name: tensor for name, tensor in tensors.items() if name != "plane"}
    damaged = {
        "cannot be read: 'plane'": (without, PLANE_FORMAT),
        "cannot be read: .*'plane'": (tensors, FORMAT),
        "codes and a plane of different sizes": (
            tensors | {"plane": tensors["plane"][:, :3].contiguous()},
            PLANE_FORMAT,
        ),
    }
    path = tmp_path / "shard"
    for reason, (kept, written) in damaged.items():
        save_file(kept, path, metadata={"format": written})
        with pytest.raises(DamagedError, match=rf"^The index shard '{path}' [^\n]*{reason}[^\n]*\.$"):
            open_shard(path)


@pytest.mark.parametrize("bits", BITS.values())
@pytest.mark.parametrize("rows", [1, 7])
def test_a_shard_does_not_depend_on_how_many_patches_are_converted_at_a_time(
    bits: int | None, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    packets, mean = packets_of(clustered(50)), torch.full((4, 8), 0.25)
    whole = shard_of(packets, mean, EYE[:, :5], bits)
    monkeypatch.setattr("kt_batch.index.shards.ROWS", rows)
    parts = shard_of(packets, mean, EYE[:, :5], bits)
    assert {name: tensor.equal(whole.tensors()[name]) for name, tensor in parts.tensors().items()} == dict.fromkeys(
        whole.tensors(), True
    )


@pytest.mark.parametrize("bits", BITS.values())
def test_a_shard_of_some_patches_is_the_shard_of_their_copies(bits: int | None) -> None:
    packets, ids, order = packets_of(clustered(20)), torch.from_numpy(ids_of(20)), torch.tensor([7, 0, 19, 3, 4])
    basis, counts, mean = Basis(EYE[:, :5], torch.full((32,), 0.2)), torch.tensor([2, 3]), torch.zeros(4, 8)
    some = make_shard(packets, ids, order, mean, basis, counts, bits).tensors()
    copies = make_shard(packets[order], ids[order], torch.arange(5), mean, basis, counts, bits).tensors()
    assert {name: tensor.equal(copies[name]) for name, tensor in some.items()} == dict.fromkeys(copies, True)
