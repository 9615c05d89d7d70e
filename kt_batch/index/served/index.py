"""An index that owners hold, as a process sees it that has no patch of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kt_batch.index.index import Mapped
from kt_batch.index.served.asked import Owners
from kt_batch.index.served.router import Router
from kt_batch.index.tree import Tree


@dataclass(frozen=True)
class ServedIndex:
    """The router of an index, and the owners of its patches.

    files: Those that the router maps.
    allowed: The images that sources are drawn from, ids concatenated; None for all.
    """

    router: Router
    owners: Owners
    files: Sequence[Mapped] = ()
    allowed: bytes | None = None

    @property
    def tree(self) -> Tree:
        """The tree, without its nodes."""
        return self.router.tree

    @property
    def count(self) -> int:
        """Number of kept patches."""
        return self.router.count

    @property
    def channels(self) -> int:
        """Channels of a patch."""
        return int(self.tree.mean.shape[1])

    def check_files(self) -> None:
        """Raise DamagedError when a file that is mapped has changed."""
        for file in self.files:
            file.check()
