"""Messages between a served search and the owners of an index: plain arrays, and integers in few bytes.

Queries are numbered from 0 in the order in which `Queries` told of them. What belongs to several queries is
concatenated, with the number of items of each: its `counts`, `(q,)`. Rows and leaves are those of the owner.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


@dataclass(frozen=True)
class Queries:
    """q queries to be held, after those that are held.

    token: names the search that they belong to.
    levels: first levels for estimates, `(q, d + 1)` int16, in steps (kernels.fixed_point).
    before: queries of this search that are held already; an owner that does not hold them ignores the message.
    """

    token: str
    levels: Array
    before: int


@dataclass(frozen=True)
class Visits:
    """Asks for the largest estimate of each visit of the first round, `counts` `(q,)` and `leaves` `(p,)`.

    few: patches of each query that may be read whole.
    """

    token: str
    counts: Array
    leaves: Array
    few: int


@dataclass(frozen=True)
class Patches:
    """The patches of some queries, those that patches are read whole for.

    who: the queries, `(r,)`.
    cells: distinct cells, `(m, C)` float32.
    corners: the four cells of each patch, `(r, 4)`.
    """

    token: str
    who: Array
    cells: Array
    corners: Array


@dataclass(frozen=True)
class Best:
    """The largest estimate of each visit of the first round, `(p,)` float32."""

    best: Array


@dataclass(frozen=True)
class Thresholds:
    """Asks for the patches of the first round with estimates of at least `least` `(q,)` float32."""

    token: str
    least: Array


@dataclass(frozen=True)
class Further:
    """Asks for the patches of further visits, `counts` `(q,)` and `leaves` `(p,)`, with estimates of at least `least`.

    few: patches of each query that may be read whole.
    """

    token: str
    counts: Array
    leaves: Array
    least: Array
    few: int


@dataclass(frozen=True)
class Candidates:
    """The few patches of each query with the largest estimates.

    counts: of each query, `(q,)`.
    rows: `(m,)`.
    estimates: first-level products, `(m,)` float32.
    """

    counts: Array
    rows: Array
    estimates: Array


@dataclass(frozen=True)
class Whole:
    """Asks for the scores of whole patches of candidates, `counts` `(q,)` and `rows` `(m,)`."""

    token: str
    counts: Array
    rows: Array


@dataclass(frozen=True)
class Scores:
    """The scores of whole patches of candidates, `(m,)` float32."""

    scores: Array


@dataclass(frozen=True)
class Finalists:
    """Asks for the canonical scores of candidates, `counts` `(q,)` and `rows` `(m,)`."""

    token: str
    counts: Array
    rows: Array


@dataclass(frozen=True)
class Canonical:
    """The canonical scores of candidates, `(m,)` float64, and their patch ids, `(m, 12)` uint8."""

    scores: Array
    patch_ids: Array


@dataclass(frozen=True)
class Winners:
    """Asks for distinct `rows` `(m,)` as the owner keeps them."""

    rows: Array


@dataclass(frozen=True)
class Kept:
    """Patches as they are kept, m of each tensor: norms, level and payload (index.shards) by name."""

    tensors: dict[str, Array]


@dataclass(frozen=True)
class Done:
    """Says that no more is asked about a search."""

    token: str


@dataclass(frozen=True)
class Forgotten:
    """Answers a message about a search whose queries the owner does not hold: send them again."""


OfHeld = Patches | Visits | Thresholds | Further | Whole | Finalists
Request = Queries | OfHeld | Winners | Done
Reply = Best | Candidates | Scores | Canonical | Kept | Forgotten


class Traffic(Counter[str]):
    """Bytes of messages by part, as `Queries.cells`; what frames them is not counted."""

    def add(self, message: Request | Reply) -> None:
        """Count the arrays of a message."""
        for field in fields(message):
            value = getattr(message, field.name)
            arrays = value.values() if isinstance(value, dict) else [value]
            self[f"{type(message).__name__}.{field.name}"] += sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))


def narrow(numbers: Tensor) -> Array:
    """Return integers of at least 0, of any shape, in 1, 2, 4 or 8 bytes each, as the largest needs."""
    array = numbers.numpy()
    return array.astype(np.min_scalar_type(int(array.max()) if array.size else 0))


def wide(array: Array) -> Tensor:
    """Return what `narrow` returned as int64."""
    return torch.from_numpy(array.astype(np.int64))


def items(counts: Array) -> Tensor:
    """Return the query `(m,)` of each item, given how many each query has, `(q,)`."""
    return torch.arange(len(counts), device="cpu").repeat_interleave(wide(counts))


def distinct_cells(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct cells `(m, C)` of patches `(q, 4, C)` float32, and each patch's cells `(q, 4)`.

    Overlapping patches share cells. Cells are told apart by their bits; two with the same hash are not shared.
    """
    cells = patches.flatten(0, 1).contiguous()
    weights = torch.randint(
        -(2**62), 2**62, (cells.shape[1],), generator=torch.Generator(device="cpu").manual_seed(0), device="cpu"
    )
    bits = cells.view(torch.int32)
    hashes = torch.cat([part.long().mul_(weights).sum(1) for part in bits.split(4096)]) if len(cells) else bits[:, 0]
    order = torch.sort(hashes, stable=True).indices
    new = torch.ones(len(order), dtype=torch.bool, device="cpu")
    new[1:] = (bits[order[1:]] != bits[order[:-1]]).any(1)
    corners = torch.empty_like(order).index_copy_(0, order, new.cumsum(0) - 1)
    return cells[order[new]], corners.view(-1, 4)
