"""Measure the paper's Tables 1 and 2, and make its Figs. 12 and 13.

Nine libraries of one to three images are searched with the patches of the same photographs. Table 1 compares traverse,
PQ and the paper's search; Table 2 compares HKM, BHKM with one to four bands, and PQ. Recall, NCC ratio and an exact
search in large products are added, since the paper's patch-by-patch traverse is a weak baseline. The paper's machine
had a GTX 1080 Ti, so only ratios compare with its figures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from kt_batch.config import EncoderConfig, IndexConfig, SearchConfig
from kt_batch.errors import UsageError
from kt_batch.evaluation.models import working_images
from kt_batch.index.ids import pack_ids
from kt_batch.index.index import Index, build_in_memory
from kt_batch.index.search import Search, find
from kt_batch.kernels.haar import haar
from kt_batch.kernels.patches import positions, unfold
from kt_batch.kernels.tiles import canonical_scores, normalise
from kt_batch.methods.base import Resources
from kt_batch.methods.features import encode, to_pixels, to_tensor
from kt_batch.methods.knowledge import KnowledgeConfig, KnowledgeTransfer
from kt_batch.models.weights import EncoderSource, LoadedDecoder, LoadedEncoder, load_decoder, load_encoder
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.store.images.files import encode as encode_image
from kt_batch.store.images.files import pad_to

LIBRARY_SIZES = (1, 1, 1, 2, 2, 2, 3, 3, 3)
CLUSTERS = (16, 8)  # K1 and K2, which the paper does not state
TRAVERSED = 256  # queries of the traverse
PAPER_SECONDS_PER_PATCH = {
    "traverse": 3.981e-3, "pq": 2.911e-5, "hkm": 6.531e-5,
    "bhkm 1": 5.042e-5, "bhkm 2": 5.807e-5, "bhkm 3": 6.564e-5, "bhkm 4": 7.377e-5,
}  # fmt: skip
SEARCHES = {
    "exact": SearchConfig(searcher="exact"),
    "pq": SearchConfig(searcher="pq"),
    "hkm": SearchConfig(searcher="hkm", probes=1),
    **{f"bhkm {bands}": SearchConfig(searcher="bhkm", bands=bands, probes=1) for bands in (1, 2, 3, 4)},
    "tree": SearchConfig(),
}
FIGURES = {"fig12": ("exact", "pq", "tree"), "fig13": ("hkm", "bhkm 1", "bhkm 2", "bhkm 3", "bhkm 4", "pq")}


@dataclass(frozen=True)
class PaperFigures:
    """One searcher at one layer: means over all libraries and photographs.

    `paper` is the published time in seconds per patch; None: the paper has none.
    """

    layer: str
    searcher: str
    seconds_per_patch: float
    seconds_per_image: float
    recall: float
    ncc_ratio: float
    paper: float | None


def bench_paper(
    paintings: Sequence[str],
    photographs: Sequence[str],
    source: EncoderSource,
    layers: Sequence[str],
    decoders: Sequence[str],
    threads: int,
    progress: Progress,
) -> tuple[list[PaperFigures], dict[str, bytes]]:
    """Measure the tables and make the figures.

    Args:
        paintings: Images of the libraries, at least six.
        photographs: Images whose patches are the queries; the first is in the figures.
        source: The encoder.
        layers: Where it is cut.
        decoders: A weight file for each layer; empty: the encoder's own.
        threads: Of this process.
        progress: Called after every row.

    Returns:
        The rows, and the figures as PNG by file name: a column for each searcher of FIGURES, geometric swap above,
        statistics swap below.

    Raises:
        UsageError: If there are fewer than six paintings, or not as many decoders as layers.
    """
    torch.set_num_threads(threads)
    loaded = load_encoder(source)
    layer_decoders = _load_decoders(loaded, source.name, layers, decoders)
    styles = [to_tensor(pad_to(image.pixels, 8)) for image in working_images(paintings, 512, held_out=False)]
    contents = [to_tensor(pad_to(image.pixels, 8)) for image in working_images(photographs, 512, held_out=False)]
    if len(styles) < 6:
        raise UsageError(f"nine libraries of up to three images need at least six paintings, not {len(styles)}.")
    rows: list[PaperFigures] = []
    sheets: dict[str, bytes] = {}
    for layer in layers:
        libraries = [
            _library(loaded, [styles[(number + i) % len(styles)] for i in range(size)], layer)
            for number, size in enumerate(LIBRARY_SIZES)
        ]
        rows += _measure_layer(loaded, layer, libraries, contents, progress)
        for figure, names in FIGURES.items():
            sheet = _sheet(loaded, layer_decoders[layer], layer, libraries[-1], contents[0], names)
            sheets[f"{figure}-{layer}.png"] = sheet
    return rows, sheets


def _measure_layer(
    loaded: LoadedEncoder, layer: str, libraries: Sequence[Index], contents: Sequence[Tensor], progress: Progress
) -> Iterator[PaperFigures]:
    queries = [_patches(loaded, image, layer) for image in contents]
    prepared_queries = [_prepare(index, some) for index in libraries for some in queries]
    for number, name in enumerate(("traverse", *SEARCHES), start=1):
        row = _figures(layer, name, prepared_queries)
        progress(Step(layer, number, len(SEARCHES) + 1, note=_in_words(row)))
        yield row


def _load_decoders(
    loaded: LoadedEncoder, name: str, layers: Sequence[str], files: Sequence[str]
) -> dict[str, LoadedDecoder]:
    if files and len(files) != len(layers):
        raise UsageError(f"{len(layers)} layers need as many decoders, or none; {len(files)} were given.")
    paths: Sequence[str | None] = files or [None] * len(layers)
    return {layer: load_decoder(loaded, name, layer, path) for layer, path in zip(layers, paths, strict=True)}


def _patches(loaded: LoadedEncoder, image: Tensor, layer: str) -> Tensor:
    features = encode(loaded.network, image, layer).detach()
    return unfold(features, *positions(features.shape[1], features.shape[2], 1, cover=True))


def _library(loaded: LoadedEncoder, images: Sequence[Tensor], layer: str) -> Index:
    packets, ids = [], []
    for number, image in enumerate(images):
        features = encode(loaded.network, image, layer).detach()
        rows, cols = positions(features.shape[1], features.shape[2], 1, cover=True)
        packets.append(haar(unfold(features, rows, cols)).half())
        ids.append(pack_ids(f"{number:016x}", rows.numpy(), cols.numpy()))
    config = IndexConfig(clusters=CLUSTERS, merge=1.0, payload="float16")  # bhkm reads single bands
    return build_in_memory(torch.cat(packets), np.concatenate(ids), config)


@dataclass(frozen=True)
class _Prepared:
    """A library, the raw patches `(n, 4, C)` of a photograph, and their exact scores `(n,)` float64."""

    index: Index
    queries: Tensor
    best: Tensor


def _prepare(index: Index, queries: Tensor) -> _Prepared:
    return _Prepared(index, queries, find(index, queries, SEARCHES["exact"]).scores[:, 0])


def _figures(layer: str, name: str, prepared_queries: Sequence[_Prepared]) -> PaperFigures:
    seconds, patches = 0.0, 0
    hits, ratios = [], []
    for each in prepared_queries:
        queries = each.queries[:TRAVERSED] if name == "traverse" else each.queries
        vectors = normalise(haar(queries).flatten(1))
        if name == "traverse":
            rows, spent = _traverse(each.index, vectors)
        else:
            search = Search(each.index, SEARCHES[name])
            search.find(queries[:8])  # what is built once for a library is not searching
            started = time.perf_counter()
            rows = search.find(queries).rows[:, 0]
            spent = time.perf_counter() - started
        seconds, patches = seconds + spent, patches + len(queries)
        scores, best = canonical_scores(vectors, each.index.keys(rows)), each.best[: len(queries)]
        hits.append(float((scores >= best - 1e-9).double().mean()))
        ratios.append(float(scores.mean() / best.mean()))
    per_image = sum(len(each.queries) for each in prepared_queries) / len(prepared_queries)
    return PaperFigures(
        layer=layer,
        searcher=name,
        seconds_per_patch=seconds / patches,
        seconds_per_image=seconds / patches * per_image,
        recall=round(float(np.mean(hits)), 4),
        ncc_ratio=round(float(np.mean(ratios)), 5),
        paper=PAPER_SECONDS_PER_PATCH.get(name),
    )


def _in_words(row: PaperFigures) -> str:
    return f"{row.layer} {row.searcher}: {row.seconds_per_patch:.2e} s/patch, recall {row.recall:.4f}"


def _traverse(index: Index, vectors: Tensor) -> tuple[Tensor, float]:
    """Compare each patch by itself with the whole library, as the paper's baseline does; return rows and seconds."""
    library = index.keys(torch.arange(index.count))
    started = time.perf_counter()
    rows = torch.stack([(library @ vector).argmax() for vector in vectors])
    return rows, time.perf_counter() - started


def _sheet(
    loaded: LoadedEncoder, decoder: LoadedDecoder, layer: str, index: Index, image: Tensor, names: Sequence[str]
) -> bytes:
    rows = []
    for swap in ("geometric", "statistics"):
        pictures = []
        for name in names:
            config = KnowledgeConfig.model_validate(
                {
                    "encoder": EncoderConfig.model_validate({"weights_sha256": loaded.sha256, "layer": layer}),
                    "decoder_sha256": decoder.sha256,
                    "search": SEARCHES[name],
                    "swap": swap,
                }
            )
            method = KnowledgeTransfer(config, Resources(loaded.network, decoder.network, index))
            pictures.append(to_pixels(cast("Tensor", method.translate(image).output)))
        rows.append(np.concatenate(pictures, axis=1))
    return encode_image(np.concatenate(rows, axis=0), "png", 95)
