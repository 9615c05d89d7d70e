"""Small pictures, and libraries and runs of them made by the real pipelines."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from kt_batch.config import EncoderConfig, ExtractConfig, IndexConfig, RunOptions
from kt_batch.methods.knowledge import KnowledgeConfig, KnowledgeTransfer
from kt_batch.methods.table import advised
from kt_batch.models.weights import EncoderSource, load_decoder, load_encoder
from kt_batch.pipelines.extract.finish import ExtractSummary, extract
from kt_batch.pipelines.extract.plan import ExtractRequest
from kt_batch.pipelines.index.finish import BuildSummary, build_index
from kt_batch.pipelines.progress import Progress, no_progress
from kt_batch.pipelines.translate.finish import TranslateSummary, translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, Sources, choose
from kt_batch.runners.base import Runner
from kt_batch.runners.local import LocalRunner
from kt_batch.store.locations import Location, absolute_place, open_location
from kt_batch.store.receipts import TableRef
from kt_batch.store.tables import read_table
from kt_batch.store.units import Ledger

SIZE = 64
TREE = IndexConfig(fan_out=4, max_leaf=64)


def draw(path: Path, seed: int, width: int = 72, height: int = 56) -> Path:
    """Write smooth coloured waves with a little noise as a PNG."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 12.0
    waves = [np.sin(x * a + y * b + c) for a, b, c in random.uniform(0.3, 1.6, (3, 3))]
    pixels = 127 + 90 * np.stack(waves, axis=-1) + random.normal(0, 8, (height, width, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, "PNG")
    return path


def draw_all(folder: Path, seeds: Sequence[int]) -> Path:
    """Write `<seed>.png` for each seed; return the folder."""
    for seed in seeds:
        draw(folder / f"{seed}.png", seed)
    return folder


@cache
def shipped_sha256() -> tuple[str, str]:
    """Return the content ids of the shipped encoder and of its decoder at relu3_1; loading them takes 30 ms."""
    encoder = load_encoder(EncoderSource())
    return encoder.sha256, load_decoder(encoder, "kt-vgg", "relu3_1", None).sha256


def encoder_config(size: int = SIZE) -> EncoderConfig:
    return EncoderConfig(weights_sha256=shipped_sha256()[0], size=size)


def extracted(
    images: Sequence[Path | str],
    library: Path | str,
    runner: Runner | None = None,
    options: RunOptions | None = None,
    progress: Progress = no_progress,
    **config: Any,
) -> ExtractSummary:
    """Extract with one thread in this process by default; `config` are ExtractConfig fields."""
    settings = ExtractConfig.model_validate({"encoder": encoder_config(), **config})
    options = options or RunOptions(threads=1, unit_size=2)
    arguments = [str(image) for image in images]
    request = ExtractRequest(arguments, str(library), settings, EncoderSource(), options)
    return extract(request, runner or LocalRunner(), progress)


def indexed(
    library: Path | str, runner: Runner | None = None, config: IndexConfig = TREE, options: RunOptions | None = None
) -> BuildSummary:
    """Index a library in the same way."""
    return build_index(str(library), config, options or RunOptions(threads=1), runner or LocalRunner(), no_progress)


def painted_library(paintings: Path | str, library: Path | str, size: int = SIZE) -> None:
    """Extract and index pictures for the method painting, in the same way."""
    encoder = encoder_config(size).model_copy(update={"layer": "relu4_1"})
    extracted([paintings], library, encoder=encoder, keep_images=True)
    indexed(library)


def translate_request(library: Path | str, run: Path | str, index: str, **config: Any) -> TranslateRequest:
    """Return a request of one thread without images.

    `config` are fields of KnowledgeConfig, `mix_numerics`, and `cache`.
    """
    mix, cache = bool(config.pop("mix_numerics", False)), str(config.pop("cache", f"{run}-cache"))
    identity = {"encoder": encoder_config(), "decoder_sha256": shipped_sha256()[1], "index_digest": index}
    return TranslateRequest(
        images=(),
        run=absolute_place(str(run)),
        config=KnowledgeConfig.model_validate({**advised(KnowledgeTransfer), **identity, **config}),
        sources=Sources(library=absolute_place(str(library)), encoder=EncoderSource(), cache=cache),
        options=RunOptions(threads=1, mix_numerics=mix),
    )


def translated(
    images: Sequence[Path | str],
    request: TranslateRequest,
    runner: Runner | None = None,
    unit_size: int = 2,
    progress: Progress = no_progress,
) -> TranslateSummary:
    """Translate in the same way."""
    options = request.options.model_copy(update={"unit_size": unit_size})
    named = replace(request, images=[str(image) for image in images], options=options)
    return translate(named, runner or LocalRunner(), progress)


def translated_after(
    choice: Choice,
    photos: Path | str,
    run: Path | str,
    method: str = "knowledge",
    options: RunOptions | None = None,
    **settings: Any,
) -> TranslateSummary:
    """Translate photographs after what `choice` names, in the same way; `settings` are those of the method."""
    config, sources = choose(method, settings, choice)
    request = TranslateRequest([str(photos)], str(run), config, sources, options or RunOptions(threads=1, unit_size=2))
    return translate(request, LocalRunner(), no_progress)


# ---- files on disk ---------------------------------------------------------------------------------------------------


def parts(place: Path | str, kind: str) -> list[TableRef]:
    """Return the committed parts of one kind in plan order."""
    receipts = Ledger(open_location(str(place))).receipts().values()
    return [table for receipt in receipts for table in receipt.tables if table.kind == kind]


def device_of(place: Path | str) -> set[str]:
    """Return the devices that the receipts of a place name."""
    return {receipt.numerics["device"] for receipt in Ledger(open_location(str(place))).receipts().values()}


def rows(place: Path | str, kind: str) -> list[dict[str, Any]]:
    """Return all rows of one kind of table, sorted, independent of order and units."""
    location = open_location(str(place))
    tables = [read_table(location, part, verify=True) for part in parts(place, kind)]
    found = [row for table in tables for row in table.to_pylist()]
    return sorted(found, key=lambda row: [repr(value) for value in row.values()])


def column(place: Path | str, kind: str, name: str) -> list[Any]:
    """Return one column of a table, sorted."""
    location = open_location(str(place))
    tables = [read_table(location, part, [name]) for part in parts(place, kind)]
    return sorted(value for table in tables for value in table[name].to_pylist())


def patches(place: Path | str) -> pa.Table:
    """Return the patches of a library by ascending id."""
    location = open_location(str(place))
    table = pa.concat_tables(read_table(location, part, verify=True) for part in parts(place, "patches"))
    return table.sort_by("patch_id").combine_chunks()


def hashes(place: Path | str, folder: str = "") -> dict[str, str]:
    """Map the name of every file below a folder of a place to its SHA-256."""
    location: Location = open_location(str(place))
    return {name: hashlib.sha256(location.read_bytes(name)).hexdigest() for name in location.list(folder)}


def results(run: Path | str) -> tuple[dict[str, str], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the image hashes, the provenance and the rejects of a run."""
    return hashes(run, "images"), rows(run, "provenance"), rows(run, "rejects")
