"""Messages between a served search and the owners of an index: plain arrays, and integers in few bytes.

Queries are numbered from 0 in the order in which `Queries` told of them. What belongs to several queries is
concatenated, with the number of items of each: its `counts`, `(q,)`. Rows and leaves are those of the owner. Integers
without a type are as `narrow` returns them.
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
SCORE = 2.0**-14


@dataclass(frozen=True)
class Queries:
    """q queries to be held, after those that are held; m cells, in 12 bits a value (encoding), likewise.

    token: names the search that they belong to.
    before: queries of this search that are held already; an owner that does not hold them ignores the message.
    most: queries of the search, of which some may follow.
    cells: `(m, b)` uint8.
    scales: of the cells, `(m,)` float32.
    corners: the four cells of each query among all that are held, `(4 q,)`.
    last_bits: of the coordinates of first levels, `(q, (d + 3) // 4)` uint8.
    rests: last values of first levels, `(q,)` int16, in steps (kernels.fixed_point).
    far: of the q queries those whose levels follow whole, `(e,)`.
    levels: these, `(e, d + 1)` int16, in steps.
    """

    token: str
    before: int
    most: int
    cells: Array
    scales: Array
    corners: Array
    last_bits: Array
    rests: Array
    far: Array
    levels: Array


@dataclass(frozen=True)
class Visits:
    """Asks for the largest estimate of each visit of the first round, `counts` `(q,)` and `leaves` `(p,)`.

    few: patches of each query that are read whole, at most.
    """

    token: str
    counts: Array
    leaves: Array
    few: int


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

    few: patches of each query that are read whole, at most.
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
    scores: of whole patches with the rounded queries, `(m,)` int16 in steps of SCORE, from -2 to 2.
    """

    counts: Array
    rows: Array
    estimates: Array
    scores: Array


@dataclass(frozen=True)
class Finalists:
    """Asks for distinct `rows` `(m,)` as the owner keeps them."""

    rows: Array


@dataclass(frozen=True)
class Kept:
    """Patches as they are kept, m of each tensor: norms, level and payload (index.shards) by name.

    patch_ids: `(m, 12)` uint8.
    """

    tensors: dict[str, Array]
    patch_ids: Array


@dataclass(frozen=True)
class Proof:
    """Asks for the k best of all patches of an owner, by canonical scores, for the queries of a message of its own.

    cells: distinct cells, `(m, C)` float32.
    corners: the four cells of each query, `(q, 4)` int32.
    probes: leaves of the search for the first matches; they change how long it takes.
    """

    cells: Array
    corners: Array
    k: int
    probes: int


@dataclass(frozen=True)
class Proved:
    """The best of all patches of an owner, fewer than k where it has fewer.

    rows: `(q * k,)`, of each query best first.
    scores: canonical ones, `(q, k)` float64.
    """

    rows: Array
    scores: Array


@dataclass(frozen=True)
class Done:
    """Says that no more is asked about a search."""

    token: str


@dataclass(frozen=True)
class Forgotten:
    """Answers a message about a search whose queries the owner does not hold: send them again."""


OfHeld = Visits | Thresholds | Further
Request = Queries | OfHeld | Finalists | Proof | Done
Reply = Best | Candidates | Kept | Proved | Forgotten


class Traffic(Counter[str]):
    """Bytes of messages by part, as `Queries.cells`; what frames them is not counted."""

    def add(self, message: Any) -> None:
        """Count the arrays of a message, a data class."""
        for field in fields(message):
            value = getattr(message, field.name)
            arrays = value.values() if isinstance(value, dict) else [value]
            self[f"{type(message).__name__}.{field.name}"] += sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))


def narrow(numbers: Tensor) -> Array:
    """Return integers `(m,)` int64 from 0 to 2^32 - 1 in as many bits each as the largest needs, or a few more.

    Up to 16 bits they are an even number, and four integers follow in a piece; above, a multiple of four, and two
    follow. The first byte is four times the bits, and the integers that the last piece lacks.
    """
    array = numbers.numpy()
    largest = int(array.view(np.uint64).max(initial=0))  # of a negative number more than any other
    bits = max(2, largest.bit_length())
    if bits > 32:
        refused = largest if largest < 1 << 63 else largest - (1 << 64)
        raise ValueError(f"A number of a message is {refused}; allowed are 0 to 2^32 - 1.")
    bits += -bits % (2 if bits <= 16 else 4)
    some, size = _piece(bits)
    lacking = -len(array) % some
    padded = np.append(array, np.zeros(lacking, np.int64)) if lacking else array
    pieces = padded[::some].copy()
    for place in range(1, some):
        pieces |= padded[place::some] << bits * place
    content = pieces.astype("<i8").view(np.uint8).reshape(-1, 8)
    return np.concatenate([np.array([4 * bits + lacking], np.uint8), content[:, :size].ravel()])


def _piece(bits: int) -> tuple[int, int]:
    """Return how many integers of so many bits a piece has, and its bytes."""
    some = 4 if bits <= 16 else 2
    return some, some * bits // 8


def wide(array: Array) -> Tensor:
    """Return what `narrow` returned, `(m,)` int64."""
    bits, lacking = divmod(int(array[0]), 4)
    some, size = _piece(bits)
    content = np.zeros(((len(array) - 1) // size, 8), np.uint8)
    content[:, :size] = array[1:].reshape(-1, size)
    pieces = content.view("<u8")
    each = [pieces >> bits * place & (1 << bits) - 1 for place in range(some)]
    numbers = np.concatenate(each, axis=1).astype(np.int64).ravel()
    return torch.from_numpy(numbers[: numbers.size - lacking])


def length(array: Array) -> int:
    """Return how many integers `narrow` returned in an array."""
    bits, lacking = divmod(int(array[0]), 4)
    some, size = _piece(bits)
    return some * ((len(array) - 1) // size) - lacking


def items(counts: Array) -> Tensor:
    """Return the query `(m,)` of each item, given how many each query has, `(q,)`."""
    each = wide(counts)
    return torch.arange(len(each), device="cpu").repeat_interleave(each)
