"""Images + an indexed library -> translated images with their provenance: plan, unit work, finish."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kt_batch.config import RunOptions, TranslateConfig
from kt_batch.errors import DamagedError, MismatchError, RejectError, UsageError
from kt_batch.index.index import Index
from kt_batch.index.shards import open_shard
from kt_batch.index.tree import Tree
from kt_batch.methods.knowledge import KnowledgeTransfer, to_pixels, to_tensor
from kt_batch.models.weights import EncoderSource, load_decoder, load_encoder
from kt_batch.pipelines.common import (
    Heartbeat,
    Progress,
    Runner,
    log_summary,
    no_heartbeat,
    plan_items,
    reject_row,
    rejects_table,
    run_units,
    sum_timings,
    unreadable_id,
)
from kt_batch.pipelines.numerics import check_numerics, fix_numerics, search_device
from kt_batch.pipelines.reading import BackgroundExecutor, Reader
from kt_batch.pipelines.translate.provenance import Provenance
from kt_batch.store.attempts import find_retry
from kt_batch.store.images.files import encode, pad_to
from kt_batch.store.indexes import IndexSummary, read_index_summary, shard_path
from kt_batch.store.inputs import Input, list_inputs, output_name
from kt_batch.store.locations import Location, absolute_place, open_location
from kt_batch.store.receipts import Receipt, TableRef, new_attempt, this_worker
from kt_batch.store.run import write_run_summary
from kt_batch.store.tables import commit_table
from kt_batch.store.units import Attempt, Item, Ledger, Unit

_Stored = dict[str, tuple[str, int]]  # of an item's name, SHA-256 and bytes of its output
IN_MEMORY = 64 << 20  # bytes of an index that every worker holds for itself; of larger ones a node holds one, mapped


@dataclass(frozen=True)
class TranslateJob:
    """Everything a worker needs, small enough to send."""

    library: str
    run: str
    config: TranslateConfig
    source: EncoderSource
    decoder_path: str | None
    cache: str
    threads: int
    numerics: tuple[tuple[str, str], ...] | None
    mix_numerics: bool
    name_conflicts: frozenset[str] = frozenset()  # names that were planned for more than one image
    elsewhere: frozenset[tuple[str, str]] = frozenset()  # (unit, name) where another unit has made the output


@dataclass(frozen=True)
class TranslateSummary:
    """What a translate did. Counts are of the whole run; `new_images`, rates and seconds are of this call."""

    run: str
    library: str
    index: str
    images: int
    rejected: int
    patches: int
    ncc_mean: float | None
    certified_share: float | None
    new_images: int
    new_rejected: int
    seconds: float
    images_per_second: float
    patches_per_second: float
    stage_seconds: dict[str, float]


def translate(
    arguments: Sequence[str],
    job: TranslateJob,
    options: RunOptions,
    runner: Runner,
    progress: Progress,
) -> TranslateSummary:
    """Translate the images named by `arguments` into the run, or go on where an earlier call stopped. Of those that
    were rejected the options may ask for another try.

    Raises UsageError (nothing to translate, outputs that exclude each other), MismatchError (a run of another
    configuration or numerics class, or that holds the output of another image under one of these names).
    """
    started = time.perf_counter()
    location = open_location(job.run)
    ledger = Ledger(location)
    items = plan_items(exclude_outputs(list_inputs(arguments), location), progress)
    check_outputs(ledger, items, job.config.format)
    content = job.config.model_dump(mode="json")
    retry = find_retry(ledger, items) if options.retry_rejected else None
    units = ledger.plan(items, options.unit_size, content, job.config.digest(), retry)
    earlier = next((r.numerics for r in ledger.receipts().values()), None)
    job = replace(
        job,
        numerics=tuple(earlier.items()) if earlier else None,
        name_conflicts=find_name_conflicts(units),
        elsewhere=find_already_written(ledger.attempts()),
    )
    fresh = run_units(runner, partial(TranslateWorker, job), ledger.pending(), "translate", progress)
    totals = write_run_summary(location, ledger, job.config, job.library)
    receipts = list(ledger.receipts().values())
    seconds = time.perf_counter() - started
    new_images, new_patches = sum(r.images for r in fresh), sum(r.patches for r in fresh)
    summary = TranslateSummary(
        run=job.run,
        library=job.library,
        index=job.config.index_digest,
        images=sum(r.images for r in receipts),
        rejected=totals.rejects,
        patches=sum(r.patches for r in receipts),
        ncc_mean=totals.ncc_mean,
        certified_share=totals.certified_share,
        new_images=new_images,
        new_rejected=sum(r.rejects for r in fresh),
        seconds=round(seconds, 3),
        images_per_second=round(new_images / seconds, 3),
        patches_per_second=round(new_patches / seconds, 1),
        stage_seconds=sum_timings(fresh),
    )
    return log_summary(summary)


def exclude_outputs(inputs: Sequence[Input], run: Location) -> list[Input]:
    """The inputs that are not the run's own files. Raises UsageError when none is left."""
    own = absolute_place(run.uri.removeprefix("file://")) if run.uri.startswith("file://") else run.uri
    kept = [source for source in inputs if not source.uri.startswith(f"{own}/")]
    if not kept:
        raise UsageError(f"All inputs lie in the run itself, '{own}'; name the photographs.")
    return kept


def check_outputs(ledger: Ledger, items: Sequence[Item], image_format: str) -> None:
    """Refuse what would be stuck half-way: an image whose output's name is taken by that of another image, and an
    output that would have to be a file and a directory at once. What was rejected may come back mended: it has none.

    Raises MismatchError, UsageError.
    """
    receipts = ledger.receipts()
    waiting = {item.name: item for unit in ledger.units() if unit.id not in receipts for item in unit.items}
    made = {
        item.name: item.image_id
        for unit in ledger.units()
        if unit.id in receipts
        for item, output in zip(unit.items, receipts[unit.id].outputs, strict=False)
        if output
    }
    for item in items:
        other = made.get(item.name, item.image_id) != item.image_id
        if other and item.image_id != unreadable_id(item.uri):  # one that cannot be read now is a reject
            raise MismatchError(
                f"'{output_name(item.name, image_format)}' was made from other bytes than '{item.uri}' holds now: the "
                "file was changed, or another one goes by its name; translate it into another run."
            )
        planned = waiting.get(item.name, item)
        if planned.image_id != item.image_id and planned.uri != item.uri:
            raise MismatchError(
                f"'{output_name(item.name, image_format)}' is planned for '{planned.uri}', which is not done yet; "
                f"translate '{item.uri}' into another run."
            )
    files = {output_name(name, image_format) for name in [*made, *(item.name for item in items)]}
    for file in sorted(files):
        folders = accumulate(file.split("/")[:-1], "{}/{}".format)
        blocking = next((folder for folder in folders if folder in files), None)
        if blocking:
            raise UsageError(f"The outputs '{blocking}' and '{file}' cannot both exist; give them separate runs.")


def find_name_conflicts(units: Sequence[Unit]) -> frozenset[str]:
    """Names that stand for different images in different units: their files were changed while the run was made."""
    first: dict[str, str] = {}
    items = [item for unit in units for item in unit.items]
    return frozenset(item.name for item in items if first.setdefault(item.name, item.image_id) != item.image_id)


def find_already_written(attempts: Sequence[Attempt]) -> frozenset[tuple[str, str]]:
    """(unit, name) where a pending unit lists an output that a committed one has made: its image could not be read for
    a while, and is the same again."""
    made = {
        (item.image_id, item.name)
        for unit, receipt in attempts
        for item, output in zip(unit.items, receipt.outputs if receipt else (), strict=False)
        if output
    }
    pending = [unit for unit, receipt in attempts if receipt is None]
    return frozenset((u.id, i.name) for u in pending for i in u.items if (i.image_id, i.name) in made)


def open_index(library: Location, summary: IndexSummary, cache: Path) -> Index:
    """Open an index for searching; its shards are mapped from the library itself or from `cache`, and read as one where
    they are small."""
    name = f"index/{summary.digest}/tree.safetensors"
    data = library.read_bytes(name)
    if hashlib.sha256(data).hexdigest() != summary.tree_sha256:
        raise DamagedError(f"'{name}' at '{library.uri}' does not have the content that index.json says.")
    shards = [open_shard(shard_path(library, shard, cache)) for shard in summary.shards]
    index = Index(Tree.from_bytes(data), shards)
    return index.in_one_piece() if sum(shard.bytes for shard in summary.shards) <= IN_MEMORY else index


def default_cache() -> str:
    """Where indexes from object storage are staged unless --cache-dir says otherwise."""
    return str(Path(tempfile.gettempdir()) / "kt-batch-cache")


class TranslateWorker:
    """Loads models and index once; turns units into images, provenance and a receipt."""

    def __init__(self, job: TranslateJob) -> None:
        self.job = job
        self.numerics = fix_numerics(job.threads, search_device(job.config.search.searcher))
        check_numerics(dict(job.numerics) if job.numerics else None, self.numerics, job.mix_numerics)
        encoder = load_encoder(job.source)
        layer = job.config.encoder.layer
        decoder = load_decoder(encoder, job.source.name, layer, job.decoder_path)
        library = open_location(job.library)
        summary = read_index_summary(library, job.config.index_digest)
        if summary is None:
            raise DamagedError(f"The index {job.config.index_digest} of '{job.library}' is gone.")
        index = open_index(library, summary, Path(job.cache))
        self.reader = Reader()
        self.method = KnowledgeTransfer(encoder.network, decoder.network, index, job.config)
        self.stride = encoder.network.geometry(layer).stride
        self.location = open_location(job.run)
        self.ledger = Ledger(self.location)
        self.background = BackgroundExecutor()

    def __call__(self, unit: Unit, beat: Heartbeat = no_heartbeat) -> Receipt:
        """Translate one unit and commit it. An unusable image costs one reject row per output it would have had; one
        whose outputs are there already is looked at all the same."""
        config = self.job.config
        stored: list[Future[_Stored]] = []
        provenance = Provenance()
        rejects: list[dict[str, str]] = []
        seconds = dict.fromkeys(("read", "encode", "search", "swap", "decode", "write"), 0.0)
        item_seconds: dict[str, float] = {}
        patches = 0
        for read in self.reader.images(unit, config.encoder.size, beat):
            seconds["read"] += read.seconds
            if isinstance(read.found, RejectError):
                rejects += [reject_row(item, "decode", read.found) for item in read.items]
                continue
            missing = [item for item in read.items if (unit.id, item.name) not in self.job.elsewhere]
            if not missing:
                continue
            began = time.perf_counter()
            found = self.method.translate(to_tensor(pad_to(read.found.pixels, self.stride)))
            for stage, spent in found.seconds.items():
                seconds[stage] += spent
            started = time.perf_counter()
            for item in missing:
                provenance.add(output_name(item.name, config.format), found)
            pixels = to_pixels(found.image)[: read.found.height, : read.found.width]
            self._store_soon(stored, missing, pixels, beat, read.isolated)
            patches += len(found.rows) * len(missing)
            seconds["write"] += time.perf_counter() - started
            item_seconds[missing[0].image_id] = read.seconds + time.perf_counter() - began
        beat("")
        started = time.perf_counter()
        outputs = {name: output for images in stored for name, output in images.result().items()}
        refs = self._write(unit.id, provenance, rejects)
        seconds["write"] += time.perf_counter() - started
        receipt = Receipt(
            unit=unit.id,
            attempt=new_attempt(),
            config_digest=config.digest(),
            tables=refs,
            outputs=tuple(outputs.get(item.name) for item in unit.items),
            images=len(outputs),
            patches=patches,
            rejects=len(rejects),
            ncc_sum=provenance.ncc_sum,
            certified=provenance.certified,
            numerics=self.numerics,
            timings=seconds,
            finished=time.time(),
            worker=this_worker(),
            item_seconds=tuple(item_seconds.get(item.image_id) for item in unit.items),
        )
        return self.ledger.commit(receipt)

    def _store_soon(
        self,
        stored: list[Future[_Stored]],
        items: Sequence[Item],
        pixels: NDArray[np.float32],
        beat: Heartbeat,
        isolated: bool,
    ) -> None:
        """Have an image made into files, durably, while the next one is worked on: one at a time, so that memory stays
        bounded, and what went wrong with the one before is raised here. With care nothing is done beside anything: a
        process that its encoding ends is to be lost over this image."""
        if stored:
            stored[-1].result()
        image, config = items[0].image_id, self.job.config
        encoding = self.background.submit(image, encode, pixels, config.format, config.quality)
        if isolated:
            encoding.result()
        beat("")  # trouble with the store from here on is not the image's
        stored.append(self.background.submit(image, lambda: self._put_images(items, encoding.result())))
        if isolated:
            stored[-1].result()

    def _put_images(self, items: Sequence[Item], data: bytes) -> _Stored:
        return {item.name: self._put_image(item, data) for item in items}

    def _put_image(self, item: Item, data: bytes) -> tuple[str, int]:
        """Put-if-absent at the final name; what is there already is read back and must be the same image, or one of
        another numerics class where that is allowed and nothing but this image can have been there."""
        name = output_name(item.name, self.job.config.format)
        sha256 = hashlib.sha256(data).hexdigest()
        if self.location.put_if_absent(name, data):
            return sha256, len(data)
        there = self.location.read_bytes(name)
        found = hashlib.sha256(there).hexdigest()
        if found != sha256 and (not self.job.mix_numerics or item.name in self.job.name_conflicts):
            raise DamagedError(
                f"'{name}' at '{self.location.uri}' is there already with other content, in no receipt of this run; "
                "remove it and start again."
            )
        return found, len(there)

    def _write(self, unit: str, provenance: Provenance, rejects: list[dict[str, str]]) -> tuple[TableRef, ...]:
        refs = []
        if provenance.names:
            table = provenance.table(self.job.library)
            refs.append(commit_table(self.location, "provenance", unit, table, provenance.groups))
        if rejects:
            refs.append(commit_table(self.location, "rejects", unit, rejects_table(rejects)))
        return tuple(refs)
