"""The paper's statistics swap as a way to edit a photograph after pairs of edits, for `evaluate pairs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import cast

import numpy as np
import pyarrow as pa
from torch import Tensor

from kt_batch.config import EncoderConfig, ExtractConfig, IndexConfig
from kt_batch.evaluation.colour_maps import nearest_pairs
from kt_batch.evaluation.pairs import OtherMethod, folds
from kt_batch.kernels.sizes import fit
from kt_batch.methods.base import Resources
from kt_batch.methods.features import decode, encode, to_pixels, to_tensor
from kt_batch.methods.full_size_swap import colour_maps
from kt_batch.methods.knowledge import KnowledgeConfig, KnowledgeTransfer
from kt_batch.methods.retouch.fit import PairTable
from kt_batch.models.weights import EncoderSource, LoadedDecoder, LoadedEncoder, load_decoder
from kt_batch.pipelines.encoders import new_encoder
from kt_batch.pipelines.extract.worker import image_patches
from kt_batch.pipelines.single import index_in_memory
from kt_batch.store.images.files import WorkingImage, pad_to, resized

SIZE = 512  # long side at which photographs are encoded, in pixels
INDEX = IndexConfig(max_leaf=4096, merge=1.0, iterations=2, sample=4096)  # used once, so it must be made quickly
KEPT = 24  # images whose patches are in memory, 13 MB each
DECODED, APPLIED = "statistics swap, decoded", "statistics swap, at full size"


class StatisticsSwap:
    """Edits a photograph after finished photographs, with the statistics swap of the paper (eq. 7).

    The library of a photograph is the *after* images of the five pairs outside its fold whose descriptors are nearest,
    at a long side of 512 pixels or as they are: relu3_1 of kt-vgg, every patch, in a coarse tree in memory of which
    8 leaves are searched; one match for each patch, alpha 1. Both forms of an edit come from one search: the decoded
    picture as published, and what the swap does to colours, applied to the photograph's own pixels.
    """

    def __init__(self, table: PairTable, after: Callable[[str], np.ndarray]) -> None:
        """Take the pairs, and what returns the photograph after, `(H, W, 3)` float32 in [0, 1], of a pair's id."""
        self._table, self._after = table, after
        self._fold_of = {table.ids[place]: fold for fold in folds(table.ids, table.photographs) for place in fold}
        encoder, config = new_encoder(EncoderSource(), "relu3_1", SIZE)
        self._encoder: LoadedEncoder = encoder
        self._encoding: EncoderConfig = config
        self._decoder: LoadedDecoder = load_decoder(encoder, "kt-vgg", config.layer, None)
        self._patches = lru_cache(KEPT)(self._patches_after)
        self._edited: tuple[str, np.ndarray, np.ndarray] | None = None

    def methods(self) -> Mapping[str, OtherMethod]:
        """Return both forms by name, as `evaluate_pairs` takes other methods."""
        return {
            DECODED: lambda pair, before: self._both(pair, before)[0],
            APPLIED: lambda pair, before: self._both(pair, before)[1],
        }

    def _both(self, pair: str, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._edited is None or self._edited[0] != pair:
            self._edited = (pair, *self._edit(pair, before))
        return self._edited[1:]

    def _edit(self, pair: str, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the decoded picture and the photograph with the swap's colours, both of the size of `before`."""
        height, width = before.shape[:2]
        columns, rows = fit(width, height, SIZE)
        image = to_tensor(pad_to(resized(before, columns, rows), self._encoder.network.geometry("relu3_1").stride))
        swapped = cast("Tensor", self._method(pair).translate(image).output)
        features = encode(self._encoder.network, image, self._encoding.layer)
        plain = decode(self._decoder.network, features, features)
        decoded = resized(np.ascontiguousarray(to_pixels(swapped)[:rows, :columns]), width, height)
        return decoded, colour_maps(plain, swapped, SIZE).apply(before.copy(), 0, height)

    def _method(self, pair: str) -> KnowledgeTransfer:
        """Return the method with the library of a photograph."""
        rest = self._table.take(place for place in range(len(self._table.ids)) if place not in self._fold_of[pair])
        own = self._table.descriptors[self._table.ids.index(pair)]
        library = pa.concat_tables(self._patches(rest.ids[place]) for place in sorted(nearest_pairs(rest, own)))
        index = index_in_memory(library, self._encoder.network.channels_at(self._encoding.layer), INDEX)
        config = KnowledgeConfig(encoder=self._encoding, decoder_sha256=self._decoder.sha256, swap="statistics")
        return KnowledgeTransfer(config, Resources(self._encoder.network, self._decoder.network, index))

    def _patches_after(self, pair: str) -> pa.Table:
        after = self._after(pair)
        height, width = after.shape[:2]
        working = WorkingImage(resized(after, *fit(width, height, SIZE)), width, height)
        return image_patches(self._encoder.network, working, pair, ExtractConfig(encoder=self._encoding))
