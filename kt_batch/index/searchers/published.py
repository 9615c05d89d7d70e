"""The paper's searchers as published: `hkm`, and `bhkm` with 1 to 4 Haar bands."""

from __future__ import annotations

import torch
from torch import Tensor

from kt_batch.config import SearchConfig
from kt_batch.index.index import Index
from kt_batch.index.ordering import order_by
from kt_batch.index.searchers.base import Found, SearchRequest
from kt_batch.index.searchers.candidates import best_by_score, pairs_by_leaf
from kt_batch.index.searchers.pool import CandidatePool, tiled_products
from kt_batch.kernels.haar import haar
from kt_batch.kernels.tiles import normalise, pad_rows

PATCH_TILE = 64  # patches; leaves are padded to a multiple


class PublishedSearcher:
    """Descends the tree greedily, then compares the patches of the leaves it reaches; no re-scoring.

    `hkm` compares the patches themselves. `bhkm` compares their first `bands` Haar bands, with their own norms.
    """

    def __init__(self, index: Index, config: SearchConfig) -> None:
        self._index = index
        self._leaves = config.probes
        self._bands = None if config.searcher == "hkm" else config.bands

    def find(self, request: SearchRequest) -> Found:
        """Return the best matches in the leaves that are reached, none certified."""
        index, bands, mean = self._index, self._bands, self._index.tree.mean
        leaves = _descend(index, request.keys, index.leaves_to_probe(self._leaves, request.k))
        queries = _view(haar(request.patches), mean, bands)
        pool = CandidatePool(queries, request.k)
        for leaf, who in pairs_by_leaf(leaves):
            _, _, count, first_row = index.leaf_rows(leaf)
            rows = torch.arange(first_row, first_row + count, device=queries.device)
            x = pad_rows(_view(_read_bands(index, leaf, bands).float(), mean, bands), PATCH_TILE)
            pool.offer(who, tiled_products(queries, who, x)[:, :count], rows)
        best = best_by_score(index, pool.pairs(), len(queries), request.k)
        return Found(best.rows, best.scores, torch.zeros(len(queries), dtype=torch.bool, device=queries.device))


def _read_bands(index: Index, leaf: int, bands: int | None) -> Tensor:
    """Return the first `bands` bands of a leaf, `(count, bands, C)` float16; all four where `bands` is None.

    Where the shard holds bands, the others are not read.
    """
    shard, start, count, first_row = index.leaf_rows(leaf)
    if shard.bits:
        return index.packets(torch.arange(first_row, first_row + count, device=index.device))[:, :bands]
    return torch.stack([band[start : start + count] for band in list(shard.payload.values())[:bands]], dim=1)


def _view(packets: Tensor, mean: Tensor, bands: int | None) -> Tensor:
    """Return the unit vectors that are compared: of whole patches, or of their first `bands` bands."""
    shifted = packets[:, :bands] - mean[:bands]
    return normalise((haar(shifted) if bands is None else shifted).flatten(1))


def _descend(index: Index, queries: Tensor, beam: int) -> Tensor:
    """Follow the `beam` best nodes of each level; return the leaves `(n, beam)`.

    `beam` is at most the number of leaves, so that as many are reached.
    """
    tree = index.tree
    n = len(queries)
    nodes = torch.zeros(n, 1, dtype=torch.int64, device=queries.device)
    scores = torch.zeros(n, 1, device=queries.device)
    while bool((tree.child_count[nodes.clamp(min=0)] > 0).logical_and(nodes >= 0).any()):
        nodes, scores = _descend_once(index, queries, nodes, scores, beam)
    return tree.leaf[nodes]


def _descend_once(index: Index, queries: Tensor, nodes: Tensor, scores: Tensor, beam: int) -> tuple[Tensor, Tensor]:
    """Replace nodes `(n, beam)`, -1 where there is none, by the best of their children; a leaf stays."""
    tree = index.tree
    who_parts, node_parts, score_parts = [], [], []
    for node, slots in pairs_by_leaf(nodes.reshape(-1, 1)):
        if node < 0:
            continue
        who = slots // nodes.shape[1]
        child_count = int(tree.child_count[node])
        if child_count == 0:
            children, node_scores = (
                torch.full((len(who), 1), node, device=queries.device),
                scores.flatten()[slots][:, None],
            )
        else:
            first = int(tree.first_child[node])
            children = torch.arange(first, first + child_count, device=queries.device).expand(len(who), -1)
            node_scores = tiled_products(queries, who, tree.centres_of(first, child_count))
        who_parts.append(who[:, None].expand_as(children).flatten())
        node_parts.append(children.flatten())
        score_parts.append(node_scores.flatten())
    who, children, node_scores = torch.cat(who_parts), torch.cat(node_parts), torch.cat(score_parts)
    order = order_by(who, -node_scores, children)
    who, children, node_scores = who[order], children[order], node_scores[order]
    rank = torch.arange(len(who), device=who.device) - torch.searchsorted(who, who)
    keep = rank < beam
    out_nodes = torch.full((len(queries), beam), -1, dtype=torch.int64, device=queries.device)
    out_scores = torch.full((len(queries), beam), -torch.inf, device=queries.device)
    out_nodes[who[keep], rank[keep]] = children[keep]
    out_scores[who[keep], rank[keep]] = node_scores[keep]
    return out_nodes, out_scores
