"""The best candidates of each query so far, by float32 score, for searchers that compare whole blocks of patches."""

from __future__ import annotations

import torch
from torch import Tensor

from kt_batch.index.searchers.candidates import Pairs
from kt_batch.kernels.bounds import rounding_slack

QUERY_TILE = 128
SPARE = 3  # candidates kept beyond k, which rounding may have misplaced


class CandidatePool:
    """The k + SPARE best candidates of each of n queries so far, by float32 score."""

    def __init__(self, queries: Tensor, k: int) -> None:
        """Make an empty pool for queries `(n, D)`."""
        n, dim = queries.shape
        self.scores = torch.full((n, k + SPARE), -torch.inf, device=queries.device)
        self.rows = torch.full((n, k + SPARE), -1, dtype=torch.int64, device=queries.device)
        self.k = k
        self.slack = 2 * rounding_slack(dim)

    def threshold(self, who: Tensor) -> Tensor:
        """Return the float32 scores `(m,)` below which no patch is among the k canonically best."""
        return self.scores[who, self.k - 1] - self.slack

    def crowded(self) -> Tensor:
        """Return the queries `(m,)` with a full pool, from which rounding may have excluded a better patch."""
        return (self.scores[:, -1] >= self.scores[:, self.k - 1] - self.slack).nonzero()[:, 0]

    def offer(self, who: Tensor, scores: Tensor, rows: Tensor) -> None:
        """Add the scores `(m, c)` of the queries `who` `(m,)` with the patches `rows` `(c,)`."""
        better = (scores.amax(1) >= self.threshold(who)).nonzero()[:, 0]
        who, scores = who[better], scores[better]
        size = self.scores.shape[1]
        best = scores.topk(min(size, scores.shape[1]), dim=1)
        scores = torch.cat([self.scores[who], best.values], dim=1)
        both = torch.cat([self.rows[who], rows[best.indices]], dim=1)
        top = scores.topk(size, dim=1)
        self.scores[who] = top.values
        self.rows[who] = both.gather(1, top.indices)

    def pairs(self) -> Pairs:
        """Return the candidates that can still be among the k best."""
        everyone = torch.arange(len(self.rows), device=self.rows.device)
        possible = (self.rows >= 0) & (self.scores >= self.threshold(everyone)[:, None])
        who, place = possible.nonzero().unbind(1)
        return Pairs(who, self.rows[who, place], self.scores[who, place])


def tiled_products(queries: Tensor, who: Tensor, x: Tensor) -> Tensor:
    """Return the scores `(m, p)` of the queries `who` `(m,)` with `x` `(p, d)`, in tiles of QUERY_TILE queries.

    The last tile is padded with the first query, so that the shape of a product depends on p and d alone.
    """
    missing = -len(who) % QUERY_TILE
    q = queries[torch.cat([who, who[:1].expand(missing)])]
    out = torch.empty(len(q), len(x), device=q.device)
    for start in range(0, len(q), QUERY_TILE):
        torch.mm(q[start : start + QUERY_TILE], x.T, out=out[start : start + QUERY_TILE])
    return out[: len(who)]
