"""The provenance table of a unit: which library patch every patch of its outputs was made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kt_batch.index.ids import unpack_ids
from kt_batch.methods.knowledge import Translation
from kt_batch.store.schemas import PROVENANCE


@dataclass
class Provenance:
    """What a unit's table is made of: gathered output by output, as few bytes as it can be, and a table at the end. One
    by one, the tables of small images would take longer to make than the images' own bytes."""

    names: list[str] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)  # rows of each output
    ncc_sum: float = 0.0  # over the best match of every patch
    certified: int = 0  # of them
    _parts: list[tuple[NDArray[Any], ...]] = field(default_factory=list)

    def add(self, name: str, found: Translation) -> None:
        """One more output, translated so."""
        n, k = found.scores.shape
        rank = np.tile(np.arange(k, dtype=np.uint8), n)
        ncc = found.ncc.flatten().numpy().astype(np.float16)
        certified = np.repeat(found.certified.numpy(), k) & (rank == 0)
        columns = (
            np.repeat(found.rows.numpy(), k).astype(np.uint16),
            np.repeat(found.cols.numpy(), k).astype(np.uint16),
            rank,
            found.weights.flatten().numpy(),
            found.patch_ids.flatten(0, 1).numpy(),
            ncc,
            certified,
        )
        self.names.append(name)
        self.groups.append(n * k)
        self.ncc_sum += float(ncc[rank == 0].astype(np.float64).sum())  # exact in any order: they were float16
        self.certified += int(np.count_nonzero(certified))
        self._parts.append(columns)

    def table(self, library: str) -> pa.Table:
        """One row per (patch, rank), output after output, in reading order; `groups` are the rows of each."""
        rows, cols, rank, weights, patch_ids, ncc, certified = (
            np.concatenate(column) for column in zip(*self._parts, strict=True)
        )
        image_ids, source_rows, source_cols = unpack_ids(patch_ids)
        distinct, codes = np.unique(image_ids.view(">u8")[:, 0], return_inverse=True)
        sources = [value.tobytes() for value in distinct.astype(">u8").view("V8")]
        outputs = np.repeat(np.arange(len(self.names), dtype=np.int32), self.groups)
        columns = [
            pa.DictionaryArray.from_arrays(pa.array(outputs), pa.array(self.names)),
            pa.array(rows),
            pa.array(cols),
            pa.array(rank),
            pa.array(weights),
            pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(rows), np.int32)), pa.array([library])),
            pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(sources, pa.binary(8))),
            pa.array(source_rows),
            pa.array(source_cols),
            pa.array(ncc),
            pa.array(certified),
        ]
        return pa.Table.from_arrays(columns, schema=PROVENANCE)
