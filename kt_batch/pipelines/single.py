"""One photograph after a few paintings, in one process: no Ray, no library on disk."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from kt_batch.config import ExtractConfig, IndexConfig, TranslateConfig
from kt_batch.errors import RejectError, UsageError
from kt_batch.index.index import build_in_memory
from kt_batch.kernels.haar import haar
from kt_batch.methods.knowledge import KnowledgeTransfer, to_pixels, to_tensor
from kt_batch.models.weights import LoadedDecoder, LoadedEncoder
from kt_batch.pipelines.extract.worker import image_patches
from kt_batch.pipelines.numerics import fix_numerics
from kt_batch.store.images.files import WorkingImage, decode, encode, image_id, pad_to
from kt_batch.store.inputs import list_inputs, read_input
from kt_batch.store.schemas import from_fixed_binary, patch_vectors

MAX_PAINTINGS = 16


@dataclass(frozen=True)
class SingleSummary:
    """What `try` did: the share of the photograph's patches that each painting gave, and where the seconds went."""

    ncc_mean: float
    shares: dict[str, float]
    patches: int
    seconds: float
    stage_seconds: dict[str, float]


def translate_one(
    photo: str,
    paintings: Sequence[str],
    encoder: LoadedEncoder,
    decoder: LoadedDecoder,
    config: TranslateConfig,
    index_config: IndexConfig,
    threads: int,
) -> tuple[bytes, SingleSummary]:
    """The photograph re-rendered after the paintings, as file bytes of `config.format`.

    Raises RejectError when an image cannot be used, UsageError for too many paintings (extract a library instead).
    """
    started = time.perf_counter()
    fix_numerics(threads)
    _, working = _read_image(photo, config.encoder.size)
    inputs = list_inputs(paintings)
    if len(inputs) > MAX_PAINTINGS:
        raise UsageError(
            f"`try` takes up to {MAX_PAINTINGS} paintings, not {len(inputs)}; for more, extract a library and index it."
        )
    seconds: dict[str, float] = {}
    tables, names = [], {}
    for source in inputs:
        identity, painting = _read_image(source.uri, config.encoder.size)
        if identity not in names:
            names[identity] = source.uri
            tables.append(image_patches(encoder.network, painting, identity, ExtractConfig(encoder=config.encoder)))
    library = pa.concat_tables(tables)
    seconds["extract"] = time.perf_counter() - started
    since = time.perf_counter()
    patches = patch_vectors(library, encoder.network.channels_at(config.encoder.layer))
    packets = haar(torch.from_numpy(np.array(patches)).float()).half()
    index = build_in_memory(packets, from_fixed_binary(library["patch_id"], "u1", (12,)), index_config)
    seconds["index"] = time.perf_counter() - since
    stride = encoder.network.geometry(config.encoder.layer).stride
    method = KnowledgeTransfer(encoder.network, decoder.network, index, config)
    found = method.translate(to_tensor(pad_to(working.pixels, stride)))
    pixels = to_pixels(found.image)[: working.height, : working.width]
    matched = found.patch_ids[:, 0, :8].numpy()
    counts = Counter(bytes(row).hex() for row in matched)
    summary = SingleSummary(
        ncc_mean=round(float(found.ncc[:, 0].double().mean()), 6),
        shares={names[identity]: round(n / len(matched), 4) for identity, n in counts.most_common()},
        patches=len(matched),
        seconds=round(time.perf_counter() - started, 3),
        stage_seconds={stage: round(spent, 3) for stage, spent in (seconds | found.seconds).items()},
    )
    return encode(pixels, config.format, config.quality), summary


def _read_image(uri: str, size: int) -> tuple[str, WorkingImage]:
    """Image id and working image. Raises RejectError, which names the file."""
    data = read_input(uri)
    try:
        return image_id(data), decode(data, size)
    except RejectError as error:
        raise RejectError(error.reason, f"'{uri}' cannot be used: {error.message}") from error
