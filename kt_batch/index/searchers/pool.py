"""The best candidates of each query so far, by float32 score, for searchers that compare whole blocks of patches."""

from __future__ import annotations

import torch
from torch import Tensor

from kt_batch.index.searchers.candidates import Pairs
from kt_batch.kernels.bounds import rounding_slack

QUERY_TILE = 128
SPARE = 3  # candidates kept beyond top_k for the canonical re-scoring


class CandidatePool:
    """The best k candidates of each of n queries so far, by float32 score, and SPARE more that rounding may hide."""

    def __init__(self, queries: Tensor, k: int) -> None:
        """Make an empty pool for queries `(n, D)`."""
        n, dim = queries.shape
        self.scores = torch.full((n, k + SPARE), -torch.inf, device=queries.device)
        self.rows = torch.full((n, k + SPARE), -1, dtype=torch.int64, device=queries.device)
        self.k = k
        self.slack = 2 * rounding_slack(dim)

    def threshold(self, who: Tensor) -> Tensor:
        """Float32 scores below this, `(m,)`, cannot belong to the k canonically best."""
        return self.scores[who, self.k - 1] - self.slack

    def crowded(self) -> Tensor:
        """Queries `(m,)` whose every place is taken by a score that rounding may hide a better one behind."""
        return (self.scores[:, -1] >= self.scores[:, self.k - 1] - self.slack).nonzero()[:, 0]

    def offer(self, who: Tensor, scores: Tensor, rows: Tensor) -> None:
        """Scores `(m, c)` of queries `who` `(m,)` against the patches `rows` `(c,)`."""
        better = (scores.amax(1) >= self.threshold(who)).nonzero()[:, 0]
        who, scores = who[better], scores[better]
        size = self.scores.shape[1]
        best = scores.topk(min(size, scores.shape[1]), dim=1)
        scores = torch.cat([self.scores[who], best.values], dim=1)
        found = torch.cat([self.rows[who], rows[best.indices]], dim=1)
        top = scores.topk(size, dim=1)
        self.scores[who] = top.values
        self.rows[who] = found.gather(1, top.indices)

    def pairs(self) -> Pairs:
        """Return the candidates that can still be among the k best."""
        everyone = torch.arange(len(self.rows), device=self.rows.device)
        possible = (self.rows >= 0) & (self.scores >= self.threshold(everyone)[:, None])
        who, place = possible.nonzero().unbind(1)
        return Pairs(who, self.rows[who, place], self.scores[who, place])


def tiled_products(queries: Tensor, who: Tensor, x: Tensor) -> Tensor:
    """Scores `(m, p)` of the queries `who` `(m,)` against `(p, d)`, in tiles of QUERY_TILE queries.

    The last tile is filled up with its first query; p is a property of the leaf alone.
    """
    missing = -len(who) % QUERY_TILE
    q = queries[torch.cat([who, who[:1].expand(missing)])]
    out = torch.empty(len(q), len(x), device=q.device)
    for start in range(0, len(q), QUERY_TILE):
        torch.mm(q[start : start + QUERY_TILE], x.T, out=out[start : start + QUERY_TILE])
    return out[: len(who)]
