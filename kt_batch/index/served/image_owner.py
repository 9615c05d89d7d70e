"""An owner that also knows the images of its patches: it holds those of allowed images alone, or lists the images.

An owner of a filtered index copies the allowed rows of its shards into an index in memory, as `restricted` does in one
process, and lets all others go. Neighbouring leaves are joined by the place of their rows among the allowed rows of the
whole index, so that the joined leaves of all owners together are those of one process: an owner needs the numbers of
allowed rows of all shards. A leaf that is joined across shards may have several owners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kt_batch.index.index import Index
from kt_batch.index.restricted import (
    RowsOfImages,
    counts_by_leaf,
    gathered,
    image_numbers,
    index_of_rows,
    joined_counts,
)
from kt_batch.index.served import messages
from kt_batch.index.served.asked import AnyReply, AnyRequest
from kt_batch.index.served.image_messages import (
    Allow,
    AllowedCounts,
    CountAllowed,
    DescribeLeaves,
    Images,
    LeavesOfOwner,
    ListImages,
    NotAllowed,
    Rows,
    RowsOf,
)
from kt_batch.index.served.messages import narrow
from kt_batch.index.served.owner import HELD, Owner


class OwnerOfImages:
    """An owner of some shards, of all their patches or of those of allowed images.

    Of a filtered index, it answers nothing about patches before it is told which images are allowed.
    """

    def __init__(self, owner: Owner, numbers: Sequence[int], held: int = HELD, *, filtered: bool = False) -> None:
        """Take an owner of the shards with `numbers`, ascending; `held` as it has it."""
        self._whole: Index | None = owner.index
        self._numbers = torch.tensor(list(numbers), device="cpu")
        self._held = held
        self._owner = None if filtered else owner
        self._leaves: LeavesOfOwner | None = None
        self._waits = filtered

    def answer(self, requests: Sequence[AnyRequest]) -> AnyReply | None:
        """Answer the last of some requests, after the others; None where no answer is expected.

        Raises:
            DamagedError: A mapped file has changed.
        """
        own: list[messages.Request] = []
        reply: AnyReply | None = None
        for request in requests:
            match request:
                case Allow():
                    self._allow(request)
                case CountAllowed():
                    reply = self._count(request.images)
                case DescribeLeaves():
                    reply = self._leaves or NotAllowed()
                case ListImages():
                    reply = Images(self._images.numbers)
                case RowsOf():
                    reply = Rows(narrow(self._images.of_image(request.image)))
                case _:
                    own.append(request)
        if own and self._waits:
            return NotAllowed()
        return self._owner.answer(own) if own and self._owner else reply

    @cached_property
    def _images(self) -> RowsOfImages:
        if self._whole is None or self._waits:
            raise ValueError("An owner of allowed images lists none.")
        images = RowsOfImages(self._whole)
        self._whole.check_files()
        return images

    def _count(self, images: bytes) -> AllowedCounts:
        if self._whole is None:
            raise ValueError("Patches are counted before an owner is told which images are allowed.")
        rows = RowsOfImages(self._whole).allowed(image_numbers(images))
        self._whole.check_files()
        shards = torch.searchsorted(self._whole.shard_start[1:], rows, right=True)
        return AllowedCounts(narrow(torch.bincount(shards, minlength=len(self._numbers))))

    def _allow(self, request: Allow) -> None:
        """Copy the allowed rows, and let all others go."""
        whole = self._whole
        if whole is None:  # two translators told it
            return
        rows = RowsOfImages(whole).allowed(image_numbers(request.images))
        if len(rows) == 0:
            self._whole, self._leaves, self._waits = None, _no_leaves(), False
            return
        counts = counts_by_leaf(whole, rows)
        places = self._places_of(whole, counts, torch.from_numpy(request.counts.copy()))
        there = (counts > 0).nonzero()[:, 0]
        shard, place = whole.tree.leaf_shard[there], places[there]
        leaves = _AllowedLeaves(shard, counts[there], place, place // request.leaf)
        none = torch.zeros(len(leaves.group.unique()), 0, device="cpu")  # no searcher of owners descends the tree
        part = index_of_rows(whole.tree, none, joined_counts(leaves.count, leaves.group), gathered(whole, rows))
        whole.check_files()
        self._owner = Owner(part.tree, [0], part.shards, held=self._held)
        self._whole, self._leaves, self._waits = None, _described(part, leaves), False

    def _places_of(self, whole: Index, counts: Tensor, by_shard: Tensor) -> Tensor:
        """Return the place of the first row of each leaf among all allowed rows, `(leaves,)`."""
        before = (by_shard.cumsum(0) - by_shard)[self._numbers]
        here = by_shard[self._numbers]
        shift = before - (here.cumsum(0) - here)
        return counts.cumsum(0) - counts + shift[whole.tree.leaf_shard]


@dataclass(frozen=True)
class _AllowedLeaves:
    """The leaves of an owner's shards that hold allowed rows, before they are joined.

    shard, count: Where each lies, and its allowed rows, `(l,)`.
    place: Of its first row among all allowed rows, `(l,)`.
    group: What it is joined to, `(l,)` ascending.
    """

    shard: Tensor
    count: Tensor
    place: Tensor
    group: Tensor


def _described(part: Index, leaves: _AllowedLeaves) -> LeavesOfOwner:
    """Return the leaves of an index that were joined from others."""
    (shard,) = part.shards
    numbers = leaves.group.unique()
    new_shard, new_group = (_begins(values) for values in (leaves.shard, leaves.group))
    new = new_shard | new_group
    run = new.cumsum(0) - 1
    counts = torch.zeros(int(run[-1]) + 1, dtype=torch.int64, device="cpu").index_add_(0, run, leaves.count)
    first = new_shard[new]
    last = torch.cat([first[1:], torch.ones_like(first[:1])])
    some = (first | last).nonzero()[:, 0]
    start = counts.cumsum(0) - counts
    levels = [shard.level[start[at] : start[at] + counts[at]] for at in some.tolist()]
    return LeavesOfOwner(
        numbers=narrow(numbers),
        counts=narrow(part.tree.leaf_count),
        means=shard.leaf_means.numpy(),
        variances=shard.leaf_variances.numpy(),
        run_leaves=narrow(torch.searchsorted(numbers, leaves.group[new][some])),
        run_places=leaves.place[new][some].numpy(),
        run_counts=narrow(counts[some]),
        run_levels=torch.cat(levels).numpy(),
    )


def _begins(values: Tensor) -> Tensor:
    """Tell of ascending values `(l,)` whether each is the first of its kind."""
    return torch.cat([torch.ones_like(values[:1], dtype=torch.bool), values.diff() > 0])


def _no_leaves() -> LeavesOfOwner:
    none, values = narrow(torch.empty(0, dtype=torch.int64, device="cpu")), torch.empty(0, 0, device="cpu").numpy()
    return LeavesOfOwner(none, none, values, values, none, np.empty(0, np.int64), none, values)
