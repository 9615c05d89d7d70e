"""The leaf-ordered copy of the kept patches: one safetensors file per shard, by content, mapped into memory.

A shard holds, for its n kept patches, leaf after leaf and by ascending patch id within a leaf:

    patch_ids        (n, 12) uint8
    norms            (n,) float32     |x| in match space
    level            (n, d + 1) float16   the first level: principal coordinates of the unit vector, length of the rest
    codes, gains     (n, D / 2) uint8, (n,) float32: the rest of the unit vector in 4 bits a value (kernels.quantised)
    or ll, lh, hl, hh   (n, C) float16 each: the Haar bands of the raw patch as the library has it

and for each of its m leaves, of its patches' first levels:

    leaf_means       (m, d + 1) float32
    leaf_variances   (m, r) float32   of the r strongest coordinates

A search reads the first level of every patch of a leaf, and the rest of the few that it leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kt_batch.errors import DamagedError
from kt_batch.kernels import quantised
from kt_batch.kernels.principal import Basis, first_level, first_level_of, stored_first_level
from kt_batch.kernels.tiles import divide_rows, row_norms

BAND_NAMES = ("ll", "lh", "hl", "hh")
CODE_NAMES = ("codes", "gains")
COMMON_NAMES = ("patch_ids", "norms", "level", "leaf_means", "leaf_variances")
FORMAT = "kt-batch-shard/3"
PART = 16384  # packets that are made float32 at a time
VARIANCES = 48  # coordinates whose variance in a leaf is kept; the weaker ones move a leaf's reach little


@dataclass(frozen=True)
class Shard:
    """One open shard; its tensors are mapped and not read, unless it was made in memory, or is `in_one_shard`.

    `payload`: codes and gains, or the four bands.
    """

    payload: tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor, Tensor]
    patch_ids: Tensor
    norms: Tensor
    level: Tensor
    leaf_means: Tensor
    leaf_variances: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """What its file holds, by name."""
        names = CODE_NAMES if len(self.payload) == 2 else BAND_NAMES
        return {name: getattr(self, name) for name in COMMON_NAMES} | dict(zip(names, self.payload, strict=True))

    @property
    def count(self) -> int:
        """n, the number of kept patches."""
        return self.patch_ids.shape[0]


def in_one_shard(shards: Sequence[Shard]) -> Shard:
    """Shards of one library, one after the other in one piece of memory."""

    def whole(parts: Iterable[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    payload = tuple(whole(parts) for parts in zip(*(shard.payload for shard in shards), strict=True))
    return Shard(payload, *(whole(getattr(shard, name) for shard in shards) for name in COMMON_NAMES))  # type: ignore[arg-type]


def match_parts(packets: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """What match space makes of raw packets.

    packets `(n, 4, C)` any float, mean `(4, C)` float32 (zero in space `raw`). Returns unit vectors `(n, 4C)` and norms
    `(n,)`, float32. A zero vector stays zero.
    """
    shifted = (packets.float() - mean).flatten(1)
    norms = row_norms(shifted)
    return divide_rows(shifted, norms), norms


def make_shard(
    packets: Tensor, patch_ids: Tensor, mean: Tensor, basis: Basis, leaf_count: Tensor, as_float16: bool
) -> Shard:
    """n kept patches, in leaf order, as a shard in memory.

    packets `(n, 4, C)` float16, patch_ids `(n, 12)` uint8, mean `(4, C)`, leaf_count `(m,)` patches of each leaf.
    `as_float16` keeps the bands as they are; so do patches of few values, for which codes save little.
    """
    values, width = basis.directions.shape
    keep = as_float16 or values < quantised.LEAST_VALUES * width
    norms, level, codes, gains = [], [], [], []
    for part in packets.split(PART):
        vectors, lengths = match_parts(part, mean)
        norms.append(lengths)
        if keep:
            level.append(stored_first_level(first_level(vectors, basis.directions)))
            continue
        coordinates, code, gain = quantised.quantise(vectors, basis)
        level.append(stored_first_level(first_level_of(coordinates, gain > 0)))
        codes.append(code)
        gains.append(gain)
    ll, lh, hl, hh = (packets[:, band].contiguous() if keep else packets[:0] for band in range(4))
    means, variances = _leaf_statistics(torch.cat(level), leaf_count)
    return Shard(
        payload=(ll, lh, hl, hh) if keep else (torch.cat(codes), torch.cat(gains)),
        patch_ids=patch_ids.contiguous(),
        norms=torch.cat(norms),
        level=torch.cat(level),
        leaf_means=means,
        leaf_variances=variances,
    )


def _leaf_statistics(level: Tensor, leaf_count: Tensor) -> tuple[Tensor, Tensor]:
    parts = [part.double() for part in level.split(leaf_count.tolist())]
    variances = [part[:, :-1][:, :VARIANCES].var(0, correction=0) for part in parts]
    return torch.stack([part.mean(0) for part in parts]).float(), torch.stack(variances).float()


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard of at least one patch."""
    save_file(shard.tensors(), path, metadata={"format": FORMAT})


def open_shard(path: Path) -> Shard:
    """Map a shard. Raises DamagedError when it is not one, or was made of patches with NaN or infinity."""
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise DamagedError(f"'{path}' is not an index shard of format {FORMAT}.")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a dict
        names = CODE_NAMES if "codes" in tensors else BAND_NAMES
        payload = tuple(tensors.pop(name) for name in names)
        shard = Shard(payload=payload, **tensors)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise DamagedError(f"The index shard '{path}' cannot be read: {error}.") from error
    if not shard.norms.isfinite().all():
        raise DamagedError(f"The index shard '{path}' holds patches with NaN or infinity; allowed are finite values.")
    return shard
