"""The paper's method: match every patch in a library's index, swap, decode."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.config import TranslateConfig
from kt_batch.errors import WeightsError
from kt_batch.index.index import Index
from kt_batch.index.search import Matches, Search
from kt_batch.index.threads import parallel_map
from kt_batch.kernels.colour import luminance, preserve_colour
from kt_batch.kernels.patches import positions, unfold
from kt_batch.kernels.swap import blend, geometric_swap, statistics_swap, top_k_weights
from kt_batch.kernels.tiles import canonical_scores, normalise
from kt_batch.models.decoder import Decoder
from kt_batch.models.encoder import Encoder

TOGETHER = 1024  # matches compared at a time


@dataclass(frozen=True)
class Translation:
    """One translated image and where it came from.

    image `(3, H, W)` RGB in [0, 1], as large as what went in; rows and cols `(n,)` of the query patches; patch_ids,
    scores and certified as in `index.search.Matches`; ncc and weights `(n, k)`; seconds per stage.
    """

    image: Tensor
    rows: Tensor
    cols: Tensor
    patch_ids: Tensor
    scores: Tensor
    certified: Tensor
    ncc: Tensor
    weights: Tensor
    seconds: dict[str, float]


class KnowledgeTransfer:
    """Translates images with one encoder, one decoder and one index; nothing is kept between two images."""

    def __init__(self, encoder: Encoder, decoder: Decoder, index: Index, config: TranslateConfig) -> None:
        self.encoder = encoder
        self.decoder = decoder
        self.index = index
        self.config = config
        self.search = Search(index, config.search)
        self.layer = config.encoder.layer

    @torch.no_grad()
    def translate(self, image: Tensor) -> Translation:
        """image: `(3, H, W)` RGB in [0, 1], H and W multiples of the layer's stride and at least twice it."""
        seconds: dict[str, float] = {}
        with _timed(seconds, "encode"):
            features = encode(self.encoder, image, self.layer)
        height, width = features.shape[1:]
        rows, cols = positions(height, width, self.config.query_stride, cover=True, device=features.device)
        queries = unfold(features, rows, cols)
        with _timed(seconds, "search"):
            matches = self.search.search(queries)
        with _timed(seconds, "swap"):
            ncc = match_ncc(queries, matches)
            weights = top_k_weights(ncc, self.config.temperature)
            matched = blend(matches.values, weights)
            swapped = self._swap(image, features, queries, matched, rows, cols)
            mixed = features + self.config.alpha * (swapped - features)
        with _timed(seconds, "decode"):
            # The photograph keeps its own fine details; painted anew, it loses them.
            weight = 1 - self.config.alpha if self.config.swap == "geometric" else 1.0
            result = decode(self.decoder, mixed, features, weight)
            if self.config.preserve_colour:
                result = preserve_colour(result, image)
        ids, scores, certified = matches.patch_ids, matches.scores, matches.certified  # values are large
        return Translation(result, rows, cols, ids, scores, certified, ncc, weights, seconds)

    def _swap(
        self, image: Tensor, features: Tensor, queries: Tensor, matched: Tensor, rows: Tensor, cols: Tensor
    ) -> Tensor:
        height, width = features.shape[1:]
        if self.config.swap == "geometric":
            return geometric_swap(matched, rows, cols, height, width)
        guide = torch.nn.functional.adaptive_avg_pool2d(luminance(image)[None], (height, width))[0]
        swapped = statistics_swap(features, queries, matched, rows, cols, self.index.tree.deviation, guide)
        # An affine map can lead below zero, where no decoder has ever seen an activation; a code may have any sign.
        return swapped if self.layer in self.encoder.codes else swapped.clamp_(min=0)


def match_ncc(queries: Tensor, matches: Matches) -> Tensor:
    """Return the NCC `(n, k)` of raw query patches `(n, 4, C)` and their matches, whatever the match space."""
    n, k = matches.scores.shape
    values = matches.values.flatten(0, 1).flatten(1)
    ncc = torch.empty(n * k, device=queries.device)

    def compare(part: Tensor) -> None:
        query = normalise(queries.index_select(0, part // k).flatten(1))
        ncc[part] = canonical_scores(query, normalise(values[part])).float()

    with parallel_map() as each:  # a part at a time stays in a core's cache
        each(compare, torch.arange(n * k, device=queries.device).split(TOGETHER))
    return ncc.view(n, k)


def encode(encoder: Encoder, image: Tensor, layer: str) -> Tensor:
    """One image `(3, H, W)` -> float32 features `(C, h, w)`; never batched, so that its bytes depend on it alone.

    Raises WeightsError when they are not finite, which images, whose pixels are, cannot be the cause of.
    """
    batch = image[None].contiguous(memory_format=torch.channels_last)
    features = encoder.encode(batch, layer)[0].contiguous()
    if not features.isfinite().all():
        raise WeightsError(f"With these weights the encoder's {layer} holds NaN or infinity; take other weights.")
    return features


def decode(decoder: Decoder, features: Tensor, own: Tensor | None = None, detail_weight: float = 1.0) -> Tensor:
    """One feature map `(C, h, w)` -> image `(3, H, W)` in [0, 1], with the details of `own`: see Decoder.forward."""
    maps = [None if m is None else m[None].contiguous(memory_format=torch.channels_last) for m in (features, own)]
    return decoder.decode(cast("Tensor", maps[0]), maps[1], detail_weight)[0].contiguous()


def to_tensor(pixels: NDArray[np.float32]) -> Tensor:
    """`(H, W, 3)` -> `(3, H, W)`, sharing memory."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def to_pixels(image: Tensor) -> NDArray[np.float32]:
    """`(3, H, W)` -> `(H, W, 3)`."""
    return image.permute(1, 2, 0).contiguous().numpy()


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started
