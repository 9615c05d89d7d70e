"""Messages about the images of an index: which are allowed, and what owners hold of them."""

from __future__ import annotations

from dataclasses import dataclass

from kt_batch.index.served.messages import Array


@dataclass(frozen=True)
class CountAllowed:
    """Asks for the number of patches of some images in each shard of an owner. images: Their ids, concatenated."""

    images: bytes


@dataclass(frozen=True)
class AllowedCounts:
    """The number of allowed patches in each shard of an owner, `(s,)`."""

    counts: Array


@dataclass(frozen=True)
class Allow:
    """Says which images are allowed; an owner then holds their patches alone.

    images: Their ids, concatenated.
    counts: Allowed patches of each shard of the index, `(shards,)` int64.
    leaf: Patches of a leaf that neighbouring leaves are joined to.
    """

    images: bytes
    counts: Array
    leaf: int


@dataclass(frozen=True)
class NotAllowed:
    """Answers an owner that has not been told which images are allowed."""


@dataclass(frozen=True)
class DescribeLeaves:
    """Asks for the leaves of an owner."""


@dataclass(frozen=True)
class LeavesOfOwner:
    """The l leaves of an owner, and the b runs of rows that begin or end the allowed rows of one of its shards.

    numbers: `(l,)` ascending; leaves of several owners with one number are one leaf, and their rows are in such runs.
    counts: patches of each, `(l,)`.
    means, variances: `(l, d + 1)` and `(l, r)` float32.
    run_leaves: the leaf of each run among the l, `(b,)`.
    run_places: of its first row among all allowed rows, `(b,)` int64.
    run_counts: rows of each, `(b,)`.
    run_levels: their first levels, `(m, d + 1)`.
    """

    numbers: Array
    counts: Array
    means: Array
    variances: Array
    run_leaves: Array
    run_places: Array
    run_counts: Array
    run_levels: Array


@dataclass(frozen=True)
class ListImages:
    """Asks for the images that an owner of all patches of its shards holds patches of."""


@dataclass(frozen=True)
class Images:
    """Images as numbers, `(i,)` uint64 ascending."""

    numbers: Array


@dataclass(frozen=True)
class RowsOf:
    """Asks an owner of all patches of its shards for the rows of an image, 16 hex digits."""

    image: str


@dataclass(frozen=True)
class Rows:
    """Rows of an owner, `(m,)` ascending."""

    rows: Array


Request = CountAllowed | Allow | DescribeLeaves | ListImages | RowsOf
Reply = AllowedCounts | NotAllowed | LeavesOfOwner | Images | Rows
