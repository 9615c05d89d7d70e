"""Shards: leaf-ordered copies of the kept patches, one safetensors file each, named by content and memory-mapped.

A shard holds n kept patches, leaf after leaf, and by ascending patch id within a leaf:

    patch_ids        (n, 12) uint8
    norms            (n,) float32         |x| in match space
    level            (n, d + 1) float16   first level: principal coordinates of the unit vector, length of its rest

and their payload, which is one of

    codes, gains           (n, D / 2) uint8, (n,) float32: the rest in 4 bits a value (kernels.quantised)
    codes, gains, plane    the same with (n, D / 8) uint8: the rest in 5 bits a value
    ll, lh, hl, hh         (n, C) float16 each: the Haar bands of the raw patch

For each of its m leaves it holds the statistics of the first levels:

    leaf_means       (m, d + 1) float32
    leaf_variances   (m, r) float32       of the r strongest coordinates

A search reads the first levels of a leaf, and the payload of the few patches that they leave.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from kt_batch.errors import DamagedError
from kt_batch.index.tensors import Layout, check_between, check_tensors
from kt_batch.kernels import quantised
from kt_batch.kernels.principal import Basis, first_level, first_level_of, stored_first_level
from kt_batch.kernels.quantised import Codes
from kt_batch.kernels.tiles import divide_rows, row_norms

BAND_NAMES = ("ll", "lh", "hl", "hh")
CODE_NAMES = ("codes", "gains")
PLANE_NAMES = (*CODE_NAMES, "plane")
LEAF_NAMES = ("leaf_means", "leaf_variances")
COMMON_NAMES = ("patch_ids", "norms", "level", *LEAF_NAMES)
FORMAT = "kt-batch-shard/3"
PLANE_FORMAT = "kt-batch-shard/4"  # as 3 with a plane; a version that knows no plane refuses it
PART = 16384  # packets that are summed at a time; a sum depends on it
ROWS = 1024  # packets converted to float32 at a time; no result depends on it
TENSORS: Layout = {
    "patch_ids": (torch.uint8, ("patches", 12)),
    "norms": (torch.float32, ("patches",)),
    "level": (torch.float16, ("patches", "level values")),
    "leaf_means": (torch.float32, ("leaves", "level values")),
    "leaf_variances": (torch.float32, ("leaves", "variances")),
    "codes": (torch.uint8, ("patches", "code bytes")),
    "gains": (torch.float32, ("patches",)),
    "plane": (torch.uint8, ("patches", "plane bytes")),
    **dict.fromkeys(BAND_NAMES, (torch.float16, ("patches", "channels"))),
}
VALUES = {  # what is allowed; unit vectors have values up to 1, and rounding takes them a little beyond
    "norms": (0, 1e12),
    "level": (-2, 2),
    "leaf_means": (-2, 2),
    "leaf_variances": (0, 4),
    "gains": (0, 1e13),
    **dict.fromkeys(BAND_NAMES, (-65504, 65504)),
}
LEAST_NORM = 1e-18  # of what is not 0; keys of a smaller one would overflow
VARIANCES = 48  # coordinates whose variance in a leaf is kept; weaker ones hardly change a leaf's reach


@dataclass(frozen=True)
class Shard:
    """An open shard. Tensors of a file are mapped and not read.

    payload: the tensors by name: codes and gains, with or without a plane, or the four bands.
    """

    payload: dict[str, Tensor]
    patch_ids: Tensor
    norms: Tensor
    level: Tensor
    leaf_means: Tensor
    leaf_variances: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of its file by name."""
        return {name: getattr(self, name) for name in COMMON_NAMES} | self.payload

    @property
    def bits(self) -> int | None:
        """Bits of a code; None where the bands are kept."""
        return Codes(**self.payload).bits if "codes" in self.payload else None

    @property
    def count(self) -> int:
        """Number of kept patches."""
        return self.patch_ids.shape[0]


def in_one_shard(shards: Sequence[Shard], device: torch.device) -> Shard:
    """Concatenate the shards of one library in the memory of a device."""

    def whole(parts: Iterable[Tensor]) -> Tensor:
        found = list(parts)
        out = found[0].new_empty(sum(map(len, found)), *found[0].shape[1:], device=device)
        start = 0
        for part in found:
            out[start : start + len(part)] = part
            start += len(part)
        return out

    payload = {name: whole(shard.payload[name] for shard in shards) for name in shards[0].payload}
    return Shard(payload, *(whole(getattr(shard, name) for shard in shards) for name in COMMON_NAMES))


def match_parts(packets: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Map raw packets to match space.

    Args:
        packets: `(n, 4, C)`, any float.
        mean: `(4, C)` float32, zero in space `raw`.

    Returns:
        Unit vectors `(n, 4C)` and norms `(n,)`, float32. A zero vector stays zero.
    """
    shifted = (packets.float() - mean).flatten(1)
    norms = row_norms(shifted)
    return divide_rows(shifted, norms), norms


def make_shard(
    packets: Tensor,
    patch_ids: Tensor,
    order: Tensor,
    mean: Tensor,
    basis: Basis,
    leaf_count: Tensor,
    bits: int | None,
) -> Shard:
    """Make a shard in the memory of the processor, ROWS patches at a time.

    Args:
        packets: Packets, `(m, 4, C)` float16, on the device of `mean` and `basis`; all else is on the processor.
        patch_ids: Their ids, `(m, 12)` uint8.
        order: The rows of the n kept patches in leaf order, `(n,)` int64.
        mean: `(4, C)` float32, subtracted in match space.
        basis: The basis of the library.
        leaf_count: Patches of each leaf, which sum up to n.
        bits: Bits of a code, 4 or 5; None keeps the bands. Patches that cannot be coded keep them too
            (kernels.quantised).
    """
    values, directions = basis.directions.shape
    if bits and not quantised.can_code(values, directions, bits):
        bits = None
    tensors: dict[str, Tensor] = {}
    for number, rows in enumerate(order.split(ROWS)):
        for name, part in _patch_tensors(packets[rows.to(packets.device)], mean, basis, bits).items():
            if name not in tensors:
                tensors[name] = part.new_empty(len(order), *part.shape[1:], device="cpu")
            tensors[name][number * ROWS :][: len(rows)] = part
    norms, level = tensors.pop("norms"), tensors.pop("level")
    return Shard(tensors, patch_ids[order], norms, level, *leaf_statistics(level, leaf_count))


def _patch_tensors(packets: Tensor, mean: Tensor, basis: Basis, bits: int | None) -> dict[str, Tensor]:
    """Return norms, first levels and payload of packets `(n, 4, C)`, by name."""
    vectors, norms = match_parts(packets, mean)
    if bits is None:
        level = stored_first_level(first_level(vectors, basis.directions))
        return {"norms": norms, "level": level} | dict(zip(BAND_NAMES, packets.unbind(1), strict=True))
    coordinates, codes = quantised.quantise(vectors, basis, bits)
    level = stored_first_level(first_level_of(coordinates, codes.gains > 0))
    return {"norms": norms, "level": level} | codes.tensors()


def leaf_statistics(level: Tensor, leaf_count: Tensor) -> tuple[Tensor, Tensor]:
    """Return means `(m, d + 1)` and variances `(m, r)`, float32, of first levels `(n, d + 1)` leaf after leaf."""
    means, variances = [], []
    for part in level.split(leaf_count.tolist()):
        exact = part.double()
        means.append(exact.mean(0))
        variances.append(exact[:, :-1][:, :VARIANCES].var(0, correction=0))
    return torch.stack(means).float(), torch.stack(variances).float()


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard of at least one patch to a file."""
    save_file(shard.tensors(), path, metadata={"format": PLANE_FORMAT if shard.bits == 5 else FORMAT})


def open_shard(path: Path, name: str | None = None, *, checked: bool = False) -> Shard:
    """Map a shard file.

    Args:
        path: The file.
        name: What errors call it; None is the path.
        checked: Whether `check_values` has found this very content sound; no value is read then.

    Raises:
        DamagedError: It is not a shard, or holds norms or leaf statistics with NaN or infinity.
    """
    name = name or f"'{path}'"
    with _reading(name), safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        written = (file.metadata() or {}).get("format")
    shard = _shard_of(tensors, written, name)
    if not checked:
        _check_leaves_and_norms(shard, name)
    return shard


def read_shard(data: bytes, name: str) -> Shard:
    """Return the shard in the bytes of its file, whose name errors mention. Raises DamagedError as `open_shard`."""
    with _reading(name):
        tensors = load(data)  # checks the header before it is read again for its metadata
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    shard = _shard_of(tensors, header.get("__metadata__", {}).get("format"), name)
    _check_leaves_and_norms(shard, name)
    check_values(shard, name)
    return shard


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DamagedError(f"The index shard {name} cannot be read: {error}.") from error


def _shard_of(tensors: dict[str, Tensor], written: str | None, name: str) -> Shard:
    if written not in (FORMAT, PLANE_FORMAT):
        raise DamagedError(f"{name} is not an index shard of format {FORMAT} or {PLANE_FORMAT}.")
    of_three = CODE_NAMES if "codes" in tensors else BAND_NAMES
    payload = PLANE_NAMES if written == PLANE_FORMAT else of_three
    sizes = check_tensors(tensors, {key: TENSORS[key] for key in (*COMMON_NAMES, *payload)}, f"The index shard {name}")
    kept = {key: tensors[key] for key in payload}
    shard = Shard(kept, *(tensors[key] for key in COMMON_NAMES))
    if shard.bits == 5 and 4 * sizes["plane bytes"] != sizes["code bytes"]:
        raise DamagedError(f"The index shard {name} has codes and a plane of different sizes.")
    return shard


def _check_leaves_and_norms(shard: Shard, name: str) -> None:
    for key in ("norms", *LEAF_NAMES):
        check_between(getattr(shard, key), *VALUES[key], _holding(name, key))
    if bool(((shard.norms > 0) & (shard.norms < LEAST_NORM)).any()):
        raise DamagedError(f"{_holding(name, 'norms')} with norms below {LEAST_NORM}, and not 0.")


def read_leaf_statistics(data: bytes, name: str) -> tuple[Tensor, Tensor]:
    """Return leaf means and leaf variances from a safetensors file of these two alone.

    Args:
        data: The bytes (`store.tensor_parts`).
        name: What errors call the shard.

    Raises:
        DamagedError: They are other tensors, or hold NaN, infinity or absurd values.
    """
    with _reading(name):
        tensors = load(data)
    check_tensors(tensors, {key: TENSORS[key] for key in LEAF_NAMES}, f"The index shard {name}")
    for key in LEAF_NAMES:
        check_between(tensors[key], *VALUES[key], _holding(name, key))
    return tensors["leaf_means"], tensors["leaf_variances"]


def check_values(shard: Shard, name: str) -> None:
    """Raise DamagedError when a patch holds NaN, infinity or absurd values; read the whole shard for that."""
    for key, tensor in shard.tensors().items():
        if key in VALUES:
            check_between(tensor, *VALUES[key], _holding(name, key))


def _holding(name: str, key: str) -> str:
    return f"The index shard {name} holds {'leaves' if key.startswith('leaf') else 'patches'}"
