"""Searches of threads that take turns: what they ask for while a search is under way is searched for in one call.

A match depends on its query alone, so queries of several images may be searched for together. Owners read a leaf once
for all queries that visit it. Of each process one search is under way at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from kt_batch.index.turns import takes_turns, waiting

R = TypeVar("R")


@dataclass
class _Asked(Generic[R]):
    """Queries of one thread.

    found: Their matches, or None where this thread is to search for all that is asked by then.
    """

    queries: Tensor
    found: Future[R | None] = field(default_factory=Future)


class SearchesTogether(Generic[R]):
    """Combines the searches of threads that take turns (index.turns); others search alone."""

    def __init__(self, search: Callable[[Tensor], R], part: Callable[[R, slice], R]) -> None:
        """Take what searches for queries `(n, ...)`, and what returns the part of its result for some of them."""
        self._search, self._part = search, part
        self._asked: list[_Asked[R]] = []
        self._under_way = False

    def __call__(self, queries: Tensor) -> R:
        """Return what is found for queries `(n, ...)`. An error is raised in all threads that it concerns."""
        if not takes_turns():
            return self._search(queries)
        own = _Asked[R](queries)
        self._asked.append(own)
        if self._under_way:
            with waiting():
                found = own.found.result()
            if found is not None:
                return found
        return self._search_for_all(own)

    def _search_for_all(self, own: _Asked[R]) -> R:
        """Search for all that is asked, hand out what others get, and let the next thread go on."""
        self._under_way, asked, self._asked = True, self._asked, []
        others = [each for each in asked if each is not own]
        try:
            found = self._search(torch.cat([each.queries for each in asked]) if others else own.queries)
        except BaseException as error:  # an interrupt too must not leave the others waiting
            for each in others:
                each.found.set_exception(error)
            raise
        finally:
            self._under_way = bool(self._asked)
            if self._asked:
                self._asked[0].found.set_result(None)
        start, result = 0, found
        for each in asked:
            part = self._part(found, slice(start, start + len(each.queries))) if others else found
            start += len(each.queries)
            if each is own:
                result = part
            else:
                each.found.set_result(part)
        return result
