"""Images -> a knowledge library: plan, unit work, finish."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from kt_batch.config import ExtractConfig, RunOptions
from kt_batch.errors import RejectError, StorageError
from kt_batch.index.ids import hash_ids, pack_ids
from kt_batch.kernels.patches import positions, unfold
from kt_batch.methods.knowledge import encode, to_tensor
from kt_batch.models.encoder import Encoder
from kt_batch.models.layers import boxes
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.inputs import plan_items
from kt_batch.pipelines.numerics import check_numerics, fix_numerics
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.pipelines.reading import Reader
from kt_batch.pipelines.units import log_summary, reject_row, rejects_table, run_units, sum_timings
from kt_batch.runners.base import Heartbeat, Runner, no_heartbeat
from kt_batch.store.attempts import find_retry
from kt_batch.store.images.files import WorkingImage, pad_to, preview
from kt_batch.store.inputs import list_inputs
from kt_batch.store.library import write_library_summary
from kt_batch.store.locations import Location, absolute_place, open_location
from kt_batch.store.receipts import Receipt, TableRef, new_attempt, this_worker
from kt_batch.store.schemas import IMAGES, fixed_binary, patches_schema
from kt_batch.store.tables import commit_table
from kt_batch.store.units import Item, Ledger, Unit, owners

LARGEST_HALF = 65504.0 / 2  # a Haar band of a patch can be twice its largest cell, and is a float16 as well
BESIDE_VECTORS = 100_000  # bytes of an image for its preview, its rows and what Parquet adds


@dataclass(frozen=True)
class ExtractJob:
    """Everything a worker needs, small enough to send."""

    library: str
    config: ExtractConfig
    source: EncoderSource
    threads: int
    numerics: tuple[tuple[str, str], ...] | None  # of earlier receipts; None: there are none
    mix_numerics: bool
    elsewhere: frozenset[tuple[str, str]] = frozenset()  # (unit, image) where the image is another unit's
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # URIs of images planned under several


@dataclass(frozen=True)
class ExtractSummary:
    """What an extract did. `images`, `rejected` and `patches` count the whole library; seconds are of this run."""

    library: str
    images: int
    rejected: int
    patches: int
    new_images: int
    new_rejected: int
    seconds: float
    images_per_second: float
    patches_per_second: float
    stage_seconds: dict[str, float]


def extract(
    arguments: Sequence[str],
    library: str,
    config: ExtractConfig,
    source: EncoderSource,
    options: RunOptions,
    runner: Runner,
    progress: Progress,
) -> ExtractSummary:
    """Extract the images named by `arguments` into `library`, or go on where an earlier run stopped. Of those that were
    rejected the options may ask for another try.

    Raises UsageError (nothing to extract), MismatchError (a library of another configuration or numerics class),
    StorageError (no space, no such place).
    """
    started = time.perf_counter()
    library = absolute_place(library)
    location = open_location(library)
    ledger = Ledger(location)
    items = plan_items(list_inputs(arguments), progress)
    retry = find_retry(ledger, items) if options.retry_rejected else None
    check_space(location, disk_estimate(images_to_do(ledger, items), config, source), progress)
    ledger.plan(items, options.unit_size, config.model_dump(mode="json"), config.digest(), retry)
    pending = ledger.pending()
    earlier = next((r.numerics for r in ledger.receipts().values()), None)
    job = ExtractJob(
        library=library,
        config=config,
        source=source,
        threads=options.threads,
        numerics=tuple(earlier.items()) if earlier else None,
        mix_numerics=options.mix_numerics,
        elsewhere=owned_elsewhere(pending, image_owners(ledger)),
        others=other_uris(pending, ledger.units()),
    )
    fresh = run_units(runner, partial(ExtractWorker, job), pending, "extract", progress)
    receipts = list(ledger.receipts().values())
    rejected = write_library_summary(location, ledger, config)
    seconds = time.perf_counter() - started
    new_images, new_patches = sum(r.images for r in fresh), sum(r.patches for r in fresh)
    summary = ExtractSummary(
        library=library,
        images=sum(r.images for r in receipts),
        rejected=rejected,
        patches=sum(r.patches for r in receipts),
        new_images=new_images,
        new_rejected=sum(r.rejects for r in fresh),
        seconds=round(seconds, 3),
        images_per_second=round(new_images / seconds, 3),
        patches_per_second=round(new_patches / seconds, 1),
        stage_seconds=sum_timings(fresh),
    )
    return log_summary(summary)


def images_to_do(ledger: Ledger, items: Sequence[Item]) -> int:
    """How many distinct images are not done yet: planned before, or among `items`."""
    first, done = image_owners(ledger), ledger.receipts()
    finished = {image for image, unit in first.items() if unit in done}
    return len((first.keys() | {item.image_id for item in items}) - finished)


def image_owners(ledger: Ledger, new: Sequence[Unit] = ()) -> dict[str, str]:
    """For each image of the plan, and of units that may yet be planned, the unit that extracts it: the first, in plan
    order, that did not have to reject it."""
    tables = ledger.reject_tables(ledger.attempts())
    rejected = {(unit, uri) for unit, table in tables.items() for uri in table["uri"].to_pylist()}
    units = [*ledger.units(), *new]
    kept = [Unit(unit.id, tuple(i for i in unit.items if (unit.id, i.uri) not in rejected)) for unit in units]
    return owners(kept)


def owned_elsewhere(pending: Sequence[Unit], first: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """(unit, image) where a pending unit lists an image that is another unit's."""
    return frozenset(
        (unit.id, item.image_id)
        for unit in pending
        for item in unit.items
        if first.get(item.image_id, unit.id) != unit.id
    )


def other_uris(pending: Sequence[Unit], planned: Sequence[Unit]) -> dict[str, tuple[str, ...]]:
    """Every URI of each pending image that is planned under several: where to look when the first is gone."""
    wanted = {item.image_id for unit in pending for item in unit.items}
    found: dict[str, dict[str, None]] = {}
    for unit in planned:
        for item in unit.items:
            if item.image_id in wanted:
                found.setdefault(item.image_id, {})[item.uri] = None
    return {image: tuple(uris) for image, uris in found.items() if len(uris) > 1}


def check_space(location: Location, estimate: int, progress: Progress) -> None:
    """Say what the library will take at most, and raise StorageError when there is less."""
    free = location.free_bytes()
    if free is not None and estimate > free:
        raise StorageError(
            f"The library needs up to {readable_size(estimate)} more at '{location.uri}', "
            f"where {readable_size(free)} are free."
        )
    if estimate:
        room = "" if free is None else f"; {readable_size(free)} are free"
        progress(Step("plan", 0, 0, note=f"The library will take up to {readable_size(estimate)} more{room}."))


def readable_size(size: int) -> str:
    """Bytes for a person."""
    if size < 1e5:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def disk_estimate(images: int, config: ExtractConfig, source: EncoderSource) -> int:
    """Bytes that `images` square images of the working size would take: the most it can be."""
    if images == 0:
        return 0
    network = load_encoder(source).network
    channels = network.channels_at(config.encoder.layer)
    side = max(2, -(-config.encoder.size // network.geometry(config.encoder.layer).stride)) - 1
    patches = (-(-side // config.stride)) ** 2
    return images * (min(patches, config.max_patches or patches) * (8 * channels + 40) + BESIDE_VECTORS)


class ExtractWorker:
    """Loads the encoder once; turns units into committed tables."""

    def __init__(self, job: ExtractJob) -> None:
        self.job = job
        self.numerics = fix_numerics(job.threads)
        check_numerics(dict(job.numerics) if job.numerics else None, self.numerics, job.mix_numerics)
        self.encoder = load_encoder(job.source).network
        self.reader = Reader()
        self.location = open_location(job.library)
        self.ledger = Ledger(self.location)

    def __call__(self, unit: Unit, beat: Heartbeat = no_heartbeat) -> Receipt:
        """Extract one unit and commit it. An unusable image costs one reject row per URI; an image that is another
        unit's is looked at all the same, so that none is passed over in silence, but not extracted again."""
        config = self.job.config
        seconds = {"read": 0.0, "encode": 0.0, "write": 0.0}
        item_seconds: dict[str, float] = {}
        images, patches, rejects = [], [], []
        for read in self.reader.images(unit, config.encoder.size, beat, self.job.others):
            items, working, image = read.items, read.found, read.items[0].image_id
            seconds["read"] += read.seconds
            if isinstance(working, RejectError):
                rejects += [reject_row(item, "decode", working) for item in items]
                continue
            if (unit.id, image) in self.job.elsewhere:
                continue
            started = time.perf_counter()
            patches.append(image_patches(self.encoder, working, image, config))
            seconds["encode"] += time.perf_counter() - started
            images.append(_image_row(items, working, config))
            item_seconds[image] = read.seconds + time.perf_counter() - started
        beat("")
        started = time.perf_counter()
        tables = self._write(unit.id, images, patches, rejects)
        seconds["write"] += time.perf_counter() - started
        receipt = Receipt(
            unit=unit.id,
            attempt=new_attempt(),
            config_digest=config.digest(),
            tables=tables,
            images=sum(len(row["uris"]) for row in images),
            patches=sum(table.num_rows for table in patches),
            rejects=len(rejects),
            numerics=self.numerics,
            timings=seconds,
            finished=time.time(),
            worker=this_worker(),
            item_seconds=tuple(item_seconds.get(item.image_id) for item in unit.items),
        )
        return self.ledger.commit(receipt)

    def _write(
        self, unit: str, images: list[dict[str, Any]], patches: list[pa.Table], rejects: list[dict[str, str]]
    ) -> tuple[TableRef, ...]:
        location = self.location
        tables = []
        if images:
            tables.append(commit_table(location, "images", unit, pa.Table.from_pylist(images, schema=IMAGES)))
            groups = [table.num_rows for table in patches]
            tables.append(commit_table(location, "patches", unit, pa.concat_tables(patches), groups))
        if rejects:
            tables.append(commit_table(location, "rejects", unit, rejects_table(rejects)))
        return tuple(tables)


def image_patches(encoder: Encoder, working: WorkingImage, identity: str, config: ExtractConfig) -> pa.Table:
    """All patches of one image, by ascending id."""
    layer = config.encoder.layer
    geometry = encoder.geometry(layer)
    with torch.no_grad():
        features = encode(encoder, to_tensor(pad_to(working.pixels, geometry.stride)), layer)
    rows, cols = positions(features.shape[1], features.shape[2], config.stride, cover=False)
    ids = pack_ids(identity, rows.numpy(), cols.numpy())
    if config.max_patches is not None and len(ids) > config.max_patches:
        chosen = np.sort(np.argsort(hash_ids(ids, config.seed), kind="stable")[: config.max_patches])
        rows, cols, ids = rows[chosen], cols[chosen], ids[chosen]
    vectors = unfold(features.clamp(-LARGEST_HALF, LARGEST_HALF).half(), rows, cols).numpy()
    x0, x1 = boxes(cols.numpy(), geometry, working.width)
    y0, y1 = boxes(rows.numpy(), geometry, working.height)
    columns = [
        fixed_binary(ids),
        fixed_binary(np.ascontiguousarray(ids[:, :8])),
        pa.array(rows.numpy().astype(np.uint16)),
        pa.array(cols.numpy().astype(np.uint16)),
        *(pa.array(edge.astype(np.int32)) for edge in (x0, y0, x1, y1)),
        fixed_binary(vectors.astype("<f2", copy=False)),
    ]
    return pa.Table.from_arrays(columns, schema=patches_schema(features.shape[0]))


def _image_row(items: Sequence[Item], working: WorkingImage, config: ExtractConfig) -> dict[str, Any]:
    return {
        "image_id": bytes.fromhex(items[0].image_id),
        "uris": [item.uri for item in items],
        "original_width": working.original_width,
        "original_height": working.original_height,
        "width": working.width,
        "height": working.height,
        "tags": list(config.tags),
        "license": config.license,
        "attribution": config.attribution,
        "preview": preview(working.pixels),
    }
