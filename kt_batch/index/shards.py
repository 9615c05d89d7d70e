"""The leaf-ordered copy of the kept patches: one safetensors file per shard, by content, mapped into memory.

A shard holds, for its n kept patches, leaf after leaf and by ascending patch id within a leaf:

    ll, lh, hl, hh   (n, C) float16   the Haar bands of the raw patch
    patch_ids        (n, 12) uint8
    norms            (n,) float32     |x| in match space
    level            (n, d + 1) float16   the first level: principal coordinates of the unit vector, length of the rest

A search reads the first level of every patch of a leaf, and the bands of the few that it leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kt_batch.errors import DamagedError
from kt_batch.kernels.principal import first_level, stored_first_level
from kt_batch.kernels.tiles import divide_rows, row_norms

BAND_NAMES = ("ll", "lh", "hl", "hh")
FORMAT = "kt-batch-shard/2"


@dataclass(frozen=True)
class Shard:
    """One open shard; its tensors are mapped, not read."""

    bands: tuple[Tensor, Tensor, Tensor, Tensor]
    patch_ids: Tensor
    norms: Tensor
    level: Tensor

    @property
    def count(self) -> int:
        """n, the number of kept patches."""
        return self.patch_ids.shape[0]


def match_parts(packets: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """What match space makes of raw packets.

    packets `(n, 4, C)` any float, mean `(4, C)` float32 (zero in space `raw`). Returns unit vectors `(n, 4C)` and norms
    `(n,)`, float32. A zero vector stays zero.
    """
    shifted = (packets.float() - mean).flatten(1)
    norms = row_norms(shifted)
    return divide_rows(shifted, norms), norms


def make_shard(packets: Tensor, patch_ids: Tensor, mean: Tensor, directions: Tensor) -> Shard:
    """n kept patches, in leaf order, as a shard in memory.

    packets `(n, 4, C)` float16, patch_ids `(n, 12)` uint8, mean `(4, C)`, directions `(D, d)`.
    """
    ll, lh, hl, hh = (packets[:, band].contiguous() for band in range(4))
    norms, level = [], []
    for part in packets.split(16384):
        vectors, lengths = match_parts(part, mean)
        norms.append(lengths)
        level.append(stored_first_level(first_level(vectors, directions)))
    return Shard((ll, lh, hl, hh), patch_ids.contiguous(), torch.cat(norms), torch.cat(level))


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard of at least one patch."""
    tensors = dict(zip(BAND_NAMES, shard.bands, strict=True))
    tensors |= {"patch_ids": shard.patch_ids, "norms": shard.norms, "level": shard.level}
    save_file(tensors, path, metadata={"format": FORMAT})


def open_shard(path: Path) -> Shard:
    """Map a shard. Raises DamagedError when it is not one, or was made of patches with NaN or infinity."""
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise DamagedError(f"'{path}' is not an index shard of format {FORMAT}.")
            ll, lh, hl, hh = (file.get_tensor(name) for name in BAND_NAMES)
            shard = Shard((ll, lh, hl, hh), *(file.get_tensor(name) for name in ("patch_ids", "norms", "level")))
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"The index shard '{path}' cannot be read: {error}.") from error
    if not shard.norms.isfinite().all():
        raise DamagedError(f"The index shard '{path}' holds patches with NaN or infinity; allowed are finite values.")
    return shard
