"""Re-render one photograph after a few paintings in one process: no Ray, no library on disk."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from kt_batch.config import ExtractConfig, IndexConfig
from kt_batch.errors import RejectError, UsageError
from kt_batch.index.ids import unpack_ids
from kt_batch.index.index import Index, build_in_memory
from kt_batch.kernels.haar import haar
from kt_batch.methods.base import PatchProvenance, Resources
from kt_batch.methods.features import timed, to_tensor
from kt_batch.methods.knowledge import KnowledgeConfig, KnowledgeTransfer
from kt_batch.models.encoder import Encoder
from kt_batch.models.weights import LoadedDecoder, LoadedEncoder
from kt_batch.pipelines.extract.worker import image_patches
from kt_batch.pipelines.inputs import find_images
from kt_batch.pipelines.numerics import fix_numerics
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.worker import encoded
from kt_batch.store.images.files import WorkingImage, decode, image_id, pad_to
from kt_batch.store.images.metadata.read import blocks_of
from kt_batch.store.images.rgb_spaces import RgbSpaces
from kt_batch.store.inputs import Input, read_input
from kt_batch.store.passed_over import Kinds
from kt_batch.store.schemas import from_fixed_binary, patch_vectors

MAX_PAINTINGS = 16


@dataclass(frozen=True)
class SingleSummary:
    """The summary of `try`. shares: URI of a painting -> share of the photograph's patches that it gave. passed_over:
    Libraries and runs below the named folders. passed_over_files: Files that are no images, by kind.
    """

    ncc_mean: float
    shares: dict[str, float]
    patches: int
    seconds: float
    stage_seconds: dict[str, float]
    passed_over: tuple[str, ...] = ()
    passed_over_files: Kinds = field(default_factory=dict)


def translate_one(
    photo: str,
    paintings: Sequence[str],
    encoder: LoadedEncoder,
    decoder: LoadedDecoder,
    config: KnowledgeConfig,
    index_config: IndexConfig,
    threads: int,
) -> tuple[bytes, SingleSummary]:
    """Re-render one photograph after paintings.

    Args:
        photo: A path or URI.
        paintings: Paths, globs or URIs of up to MAX_PAINTINGS images.
        encoder: The encoder that `config` names.
        decoder: Its decoder.
        config: How the photograph is translated; it names no index.
        index_config: How the paintings' patches are indexed, in memory.
        threads: Threads to compute on.

    Returns:
        The bytes of a file of `config.format`, and a summary.

    Raises:
        RejectError: An image cannot be used.
        UsageError: There are too many paintings.
    """
    started = time.perf_counter()
    fix_numerics(threads)
    _, working = _read_image(photo, config.encoder.size, metadata=True)
    seconds: dict[str, float] = {}
    with timed(seconds, "extract"):
        found = find_images(paintings, (), no_progress)
        names, library = _extract(found.inputs, encoder.network, config)
    with timed(seconds, "index"):
        index = index_in_memory(library, encoder.network.channels_at(config.encoder.layer), index_config)
    method = KnowledgeTransfer(config, Resources(encoder.network, decoder.network, index))
    result = method.translate(to_tensor(pad_to(working.pixels, method.stride)))
    sources = cast("PatchProvenance", result.provenance)
    counts = Counter(bytes(image).hex() for image in unpack_ids(sources.patch_ids[:, 0].numpy())[0])
    summary = SingleSummary(
        ncc_mean=round(float(sources.ncc[:, 0].double().mean()), 6),
        shares={names[identity]: round(n / counts.total(), 4) for identity, n in counts.most_common()},
        patches=counts.total(),
        seconds=round(time.perf_counter() - started, 3),
        stage_seconds={stage: round(spent, 3) for stage, spent in (seconds | result.seconds).items()},
        passed_over=tuple(found.ours),
        passed_over_files=found.passed_over,
    )
    return encoded(cast("Tensor", result.output), working, config, RgbSpaces()), summary


def _extract(inputs: Sequence[Input], encoder: Encoder, config: KnowledgeConfig) -> tuple[dict[str, str], pa.Table]:
    """Return the URI of each painting by image id, and the patches of all."""
    if len(inputs) > MAX_PAINTINGS:
        raise UsageError(
            f"`try` takes up to {MAX_PAINTINGS} paintings, not {len(inputs)}; for more, extract a library and index it."
        )
    tables, names = [], {}
    for source in inputs:
        identity, painting = _read_image(source.uri, config.encoder.size)
        if identity not in names:
            names[identity] = source.uri
            tables.append(image_patches(encoder, painting, identity, ExtractConfig(encoder=config.encoder)))
    return names, pa.concat_tables(tables)


def index_in_memory(library: pa.Table, channels: int, config: IndexConfig) -> Index:
    """Return an index of patches of `channels` channels, which is nowhere on disk."""
    patches = patch_vectors(library, channels)
    packets = haar(torch.from_numpy(np.array(patches)).float()).half()
    return build_in_memory(packets, from_fixed_binary(library["patch_id"], "u1", (12,)), config)


def _read_image(uri: str, size: int, metadata: bool = False) -> tuple[str, WorkingImage]:
    """Return image id and working image. Raises RejectError, which names the file."""
    data = read_input(uri)
    try:
        working = decode(data, size)
        return image_id(data), replace(working, blocks=blocks_of(data)) if metadata else working
    except RejectError as error:
        raise RejectError(error.reason, f"'{uri}' cannot be used: {error.message}") from error
