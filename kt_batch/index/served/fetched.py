"""Patches that are fetched from the owners of an index into an index in memory: of one image, or of a few allowed."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kt_batch.index.index import Index
from kt_batch.index.restricted import image_numbers, image_texts, index_of_rows
from kt_batch.index.served.image_messages import Images, ListImages, Rows, RowsOf
from kt_batch.index.served.index import ServedIndex
from kt_batch.index.served.messages import wide
from kt_batch.index.served.places import Places
from kt_batch.index.served.search import PATCH_IDS, ServedSearch

PORTION = 16384  # patches that are fetched at a time


class ServedImages:
    """The images of an index that owners hold, as `IndexImages`."""

    def __init__(self, index: ServedIndex) -> None:
        """Take an index of whose patches its owners hold all."""
        self._index = index
        self._places = Places(index.router, index.owners.shards)

    @cached_property
    def images(self) -> list[str]:
        """The images that have a kept patch and are allowed, 16 hex digits each, ascending."""
        replies = self._index.owners.ask({owner: [ListImages()] for owner in self._places.holders})
        numbers = [reply.numbers for reply in replies.values() if isinstance(reply, Images)]
        found = np.unique(np.concatenate(numbers))
        if self._index.allowed is not None:
            found = np.intersect1d(found, image_numbers(self._index.allowed))
        return image_texts(found)

    def of_image(self, image_id: str) -> Index:
        """Return an index in memory of the patches of an image, all in one leaf."""
        replies = self._index.owners.ask({owner: [RowsOf(image_id)] for owner in self._places.holders})
        parts = [
            self._places.rows_of_index(owner, wide(reply.rows))
            for owner, reply in replies.items()
            if isinstance(reply, Rows)
        ]
        rows = torch.cat(parts).sort().values
        return in_memory(self._index, rows, torch.tensor([len(rows)], device="cpu"))


def in_memory(index: ServedIndex, rows: Tensor, leaf_count: Tensor) -> Index:
    """Return an index in memory of `rows` `(m,)`, ascending, of an index that owners hold, fetched from them.

    leaf_count: Rows of each of its leaves, `(leaves,)`.
    """
    search = ServedSearch(index.router, index.owners)
    found: dict[str, list[Tensor]] = {}
    for some in rows.split(PORTION):
        kept, patch_ids = search.kept(some)
        for name, part in {**kept, PATCH_IDS: patch_ids}.items():
            found.setdefault(name, []).append(part)
    index.owners.settle()
    tensors = {name: torch.cat(parts) for name, parts in found.items()}
    tensors["patch_ids"] = tensors.pop(PATCH_IDS)
    no_centres = torch.zeros(len(leaf_count), 0, device="cpu")  # no searcher of owners descends the tree
    return index_of_rows(index.tree, no_centres, leaf_count, tensors)
