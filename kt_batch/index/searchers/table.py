"""The searchers by name. A new searcher is one module and one line here (and its name in `config.Searcher`)."""

from __future__ import annotations

from collections.abc import Callable

from kt_batch.config import SearchConfig
from kt_batch.index.index import Index
from kt_batch.index.searchers.base import Searcher
from kt_batch.index.searchers.exact import ExactSearcher
from kt_batch.index.searchers.faiss import FaissSearcher
from kt_batch.index.searchers.published import PublishedSearcher
from kt_batch.index.searchers.scan import ScanSearcher
from kt_batch.index.searchers.tree import TreeSearcher

SEARCHERS: dict[str, Callable[[Index, SearchConfig], Searcher]] = {
    "tree": TreeSearcher,
    "exact": ExactSearcher,
    "hkm": PublishedSearcher,
    "bhkm": PublishedSearcher,
    "scan": ScanSearcher,
    "pq": FaissSearcher,
    "ivf": FaissSearcher,
    "hnsw": FaissSearcher,
}
