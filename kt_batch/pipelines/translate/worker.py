"""Translate one unit of images: run the method on each, store the images, commit their provenance."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import BinaryIO, TypeAlias

from torch import Tensor

from kt_batch.config import MethodConfig
from kt_batch.errors import Reason, RejectError
from kt_batch.methods.base import LevelProvenance, Method, Need, PatchProvenance, Resources, Result
from kt_batch.methods.checkpoints import kept_by
from kt_batch.methods.features import to_pixels
from kt_batch.methods.steps import watched
from kt_batch.methods.styles import region_choices
from kt_batch.methods.table import method_named
from kt_batch.pipelines.numerics import check_numerics, fix_numerics, search_device
from kt_batch.pipelines.reading import BackgroundExecutor, Read, Reader
from kt_batch.pipelines.translate.beside import Beside, Wanted, one_by_one
from kt_batch.pipelines.translate.checkpoints import UnitCheckpoints
from kt_batch.pipelines.translate.full_size import FullSizeWriter
from kt_batch.pipelines.translate.large import translate_image
from kt_batch.pipelines.translate.libraries import holder_of
from kt_batch.pipelines.translate.masks import Regions, by_mask
from kt_batch.pipelines.translate.metadata import of_picture, space_of_profile
from kt_batch.pipelines.translate.one_source import OneSource
from kt_batch.pipelines.translate.outputs import About, Output, Outputs, open_outputs
from kt_batch.pipelines.translate.owners import open_served
from kt_batch.pipelines.translate.placement import placement_of
from kt_batch.pipelines.translate.plan import TranslateJob
from kt_batch.pipelines.translate.provenance import (
    EditRows,
    LevelRows,
    Libraries,
    PatchRows,
    ProvenanceRows,
    SourceRows,
)
from kt_batch.pipelines.translate.resources import content_of_library, load_resources, source_uris
from kt_batch.pipelines.translate.series_edits import Shared, SharedEdits, key_of
from kt_batch.pipelines.translate.step_events import StepEvents
from kt_batch.pipelines.units import UnitLog, rejects_table
from kt_batch.runners.base import Heartbeat, no_heartbeat
from kt_batch.store import layout
from kt_batch.store.images.conversion import OUTPUT_PROFILES
from kt_batch.store.images.files import WorkingImage
from kt_batch.store.images.rgb_spaces import RgbSpaces
from kt_batch.store.images.writers import encode_in, encode_picture
from kt_batch.store.locations import check_kernel, open_location
from kt_batch.store.plans import Item, Unit
from kt_batch.store.receipts import Receipt, ShardRef, TableRef
from kt_batch.store.tables import commit_row_groups, commit_table
from kt_batch.store.units import Ledger

Encoded: TypeAlias = bytes | BinaryIO
Stored: TypeAlias = dict[str, Output | RejectError]  # an item's name -> its output, or why it has none

Tables: TypeAlias = "tuple[ProvenanceRows | None, EditRows]"


class TranslateWorker:
    """Loads what the method needs once and turns units into images, provenance and a receipt."""

    def __init__(self, job: TranslateJob) -> None:
        self.job = job
        self.location = open_location(job.run)
        check_kernel(self.location, job.kernel)
        self.placement = placement_of(job)
        self.numerics = fix_numerics(job.threads, self.placement.named(search_device(job.config.searcher)))
        check_numerics(dict(job.numerics) if job.numerics else None, self.numerics, job.mix_numerics)
        served = open_served(job.owned, self.numerics)
        resources = load_resources(job.config, job.sources, self.placement, served)
        places = (job.sources.library or "", *job.sources.further)
        self.one_source = OneSource(job.config, resources, places, job.positions) if job.config.draw else None
        self.method = self._made(resources)
        self.reader = Reader()
        self.ledger = Ledger(self.location)
        self.background = BackgroundExecutor()
        self.spaces = RgbSpaces()
        self.library = content_of_library(job.config, job.sources)
        holder = self.one_source.number if self.one_source else holder_of(resources.images)
        self.libraries = Libraries(places, holder)
        self.full_size = FullSizeWriter(job.config, self.spaces, self.library)
        self.uris = source_uris(job.config, job.sources)
        self.series = SharedEdits(job.series, job.config) if job.series else None
        # With masks an image may have any number of results, and they are not held together.
        waits = bool(job.owned) and Need.INDEX in self.method.needs and job.sources.masks is None
        self.each_image = Beside() if waits else one_by_one

    def _made(self, resources: Resources) -> Method:
        if self.one_source:  # its methods say what all others would: stages and stride
            return self.one_source.method(self.one_source.sources[0])
        return method_named(self.job.config.method)(self.job.config, resources)

    def __call__(self, unit: Unit, beat: Heartbeat = no_heartbeat) -> Receipt:
        """Translate one unit and commit it.

        An unusable image costs one reject row per output that it would have had. An image whose outputs exist is read
        all the same, so that a fault of its file is reported.
        """
        log = UnitLog.of_stages(("read", *self.method.stages, "write"))
        belongs = {"config": self.job.config.digest(), "numerics": self.numerics}
        checkpoints = UnitCheckpoints(self.location, unit.id, belongs, beat)
        with open_outputs(self.job, self.location, unit, self.library) as outputs:
            receipt = self._do(unit, outputs, log, beat, checkpoints)
        checkpoints.remove()
        return receipt

    def _do(self, unit: Unit, outputs: Outputs, log: UnitLog, beat: Heartbeat, checkpoints: UnitCheckpoints) -> Receipt:
        stored: list[Future[Stored]] = []
        rows: ProvenanceRows | None = None
        edits = EditRows(self.job.sources.library or "", self.job.config.shares_edits)
        shared = self._shared(unit, log)
        readable = unit if shared is None else replace(unit, items=shared.items)
        reads = self.reader.images(readable, self.job.config.working_size, beat, metadata=True)
        wanted = self._wanted(unit, reads, outputs, log)
        with closing(self.each_image(wanted, partial(self._results, shared, log, (beat, checkpoints)))) as translated:
            for image, results in translated:
                began = time.perf_counter()
                for result, items in results:
                    log.add(result.seconds)
                    started = time.perf_counter()
                    rows = rows or self._new_rows(result)
                    for item in items:
                        rows.add(item, item.output_path(self.job.config.format), result.provenance)
                        edits.add(item.output_path(self.job.config.format), result.edit)
                    encode, size = self._encoding(result, image.working, items)
                    log.pictures(image.working, size, items)
                    put = partial(_put_images, outputs, items, About(size, result.provenance))
                    self._store_soon(stored, image.image, (encode, put), beat, image.read.isolated)
                    log.add({"write": time.perf_counter() - started})
                log.item_seconds[image.image] = image.read.seconds + time.perf_counter() - began
        beat("")
        started = time.perf_counter()
        made = self._settle(unit, stored, (rows, edits), log)
        beat("")
        shard = outputs.finish()
        tables = self._write(unit.id, rows, edits, log.rejects)
        log.add({"write": time.perf_counter() - started})
        return self.ledger.commit(self._receipt(unit, log, (tables, shard), made, rows))

    def _shared(self, unit: Unit, log: UnitLog) -> Shared | None:
        """Return what series say about a unit, and reject the photographs that could not be described."""
        if self.series is None:
            return None
        shared = self.series.of_unit(unit)
        for items, reject in shared.rejected.values():
            log.reject(items, reject)
        return shared

    def _wanted(self, unit: Unit, reads: Iterable[Read], outputs: Outputs, log: UnitLog) -> Iterator[Wanted]:
        """Yield the images of which outputs are to be made; reject those that cannot be read."""
        for read in reads:
            log.add({"read": read.seconds})
            if isinstance(read.result, RejectError):
                log.reject(read.items, read.result)
            elif missing := self._to_make(unit, read.items, outputs, log):
                yield Wanted(read, missing)

    def _results(
        self, shared: Shared | None, log: UnitLog, watchers: tuple[Heartbeat, UnitCheckpoints], wanted: Wanted
    ) -> Iterator[tuple[Result, list[Item]]]:
        """Yield the result for the items of an image, in their order; copies in several folders may be in series.

        Items without a usable mask are rejected. shared: What series say about the unit.
        """
        beat, checkpoints = watchers
        working, image, method = wanted.working, wanted.image, self.method
        if self.one_source:
            source = log.sources[image] = self.one_source.draw(image, working)
            method = self.one_source.method(source)
        steps, states = StepEvents(image, beat), checkpoints.of(image)
        for regions, named in self._regions(working, wanted.items, log):
            for key, group in groupby(named, key=key_of if shared else lambda _: None):
                result = shared.results.get(key) if shared and key else None
                if result is None:
                    with watched(steps), kept_by(states):  # not around the yield: another thread may drop the generator
                        result = translate_image(method, working, self.job.config, self.placement.device, regions)
                yield result, list(group)

    def _regions(
        self, working: WorkingImage, items: Sequence[Item], log: UnitLog
    ) -> Iterator[tuple[Regions | None, Sequence[Item]]]:
        """Yield the regions of masks with the items that have them, and reject the items without a usable mask."""
        masks = self.job.sources.masks
        if masks is None:
            yield None, items
            return
        for regions, named in by_mask(masks, items, working, region_choices(self.job.config)):
            if isinstance(regions, RejectError):
                log.reject(named, regions)
            else:
                yield regions, named

    def _to_make(self, unit: Unit, items: Sequence[Item], outputs: Outputs, log: UnitLog) -> list[Item]:
        """Return the items of an image whose outputs are to be made; reject those that cannot have one."""
        missing = []
        for item in items:
            if (unit.id, item.name) in self.job.already_written:
                continue
            path = item.output_path(self.job.config.format)
            if (unit.id, item.name) in self.job.changed:
                log.reject([item], RejectError(Reason.CHANGED, self._why_changed(item)))
            elif refusal := outputs.refusal(item):
                why = f"'{self.location.uri}' takes no output called '{path}': {refusal}."
                log.reject([item], RejectError(Reason.NAME_REFUSED, why))
            else:
                missing.append(item)
        return missing

    def _why_changed(self, item: Item) -> str:
        path = item.output_path(self.job.config.format)
        if self.job.config.output == "files":
            return f"'{path}' was made from other bytes than '{item.uri}' holds: translate it into another run."
        return (
            f"'{path}' was made, or is planned, from other bytes than '{item.uri}' holds: translate it into another "
            "run, or use --retry-rejected where it was not made."
        )

    def _settle(self, unit: Unit, stored: Sequence[Future[Stored]], tables: Tables, log: UnitLog) -> dict[str, Output]:
        """Wait for all outputs and return them; reject those that could not be stored."""
        results = {name: result for images in stored for name, result in images.result().items()}
        refused = {name: result for name, result in results.items() if isinstance(result, RejectError)}
        items = [item for item in unit.items if item.name in refused]
        for item in items:
            log.reject([item], refused[item.name])
        names = {item.output_path(self.job.config.format) for item in items}
        for rows in tables:
            if rows:
                rows.remove(names)
        return {name: result for name, result in results.items() if not isinstance(result, RejectError)}

    def _new_rows(self, result: Result) -> ProvenanceRows:
        if isinstance(result.provenance, LevelProvenance):
            return LevelRows(self.libraries, tuple(result.provenance.levels))
        if isinstance(result.provenance, PatchProvenance):
            return PatchRows(self.libraries)
        return SourceRows(dict(self.uris))

    def _encoding(
        self, result: Result, working: WorkingImage, items: Sequence[Item]
    ) -> tuple[Callable[[], Encoded], tuple[int, int]]:
        """Return what encodes the picture of a result, or edits the photograph at its full size, and its size."""
        if not isinstance(result.output, Tensor):
            size = working.original_width, working.original_height
            return partial(self.full_size.write, items, result.output), size
        encode = partial(encoded, result.output.cpu(), working, self.job.config, self.spaces, self.library)
        return encode, (working.width, working.height)

    def _store_soon(
        self,
        stored: list[Future[Stored]],
        image: str,
        work: tuple[Callable[[], Encoded], Callable[[Future[Encoded]], Stored]],
        beat: Heartbeat,
        isolated: bool,
    ) -> None:
        """Encode and store an image while the next one is translated: one at a time, so that memory stays bounded.

        Re-raises the previous image's error. In isolation mode, run serially: a process that encoding ends must be lost
        over this image. `work` encodes it, and stores what was encoded.
        """
        if stored:
            stored[-1].result()
        encode, put = work
        encoding = self.background.submit(image, encode)
        if isolated:
            encoding.exception()
        beat("")  # from here on, a fault of the store is not the image's
        stored.append(self.background.submit(image, put, encoding))
        if isolated:
            stored[-1].result()

    def _write(
        self, unit: str, rows: ProvenanceRows | None, edits: EditRows, rejects: list[dict[str, str]]
    ) -> tuple[TableRef, ...]:
        tables = []
        if rows and rows.names:
            groups = rows.row_groups()
            tables.append(commit_row_groups(self.location, "provenance", unit, rows.schema, groups, rows.levels))
        if edits.rows:
            tables.append(commit_table(self.location, layout.EDITS, unit, edits.table()))
        if rejects:
            tables.append(commit_table(self.location, "rejects", unit, rejects_table(rejects)))
        return tuple(tables)

    def _receipt(
        self,
        unit: Unit,
        log: UnitLog,
        files: tuple[tuple[TableRef, ...], ShardRef | None],
        outputs: dict[str, Output],
        rows: ProvenanceRows | None,
    ) -> Receipt:
        # A unit without an output has matched nothing; its sums are those of no patch.
        nothing = None if rows and rows.names else PatchRows(self.libraries)
        patches = rows if isinstance(rows, PatchRows | LevelRows) else nothing
        tables, shard = files
        return log.receipt(
            unit,
            self.job.config.digest(),
            self.numerics,
            tables,
            outputs=tuple(outputs.get(item.name) for item in unit.items),
            sources=log.sources_of(unit, outputs),
            images=len(outputs),
            patches=patches.patches if patches else 0,
            ncc_sum=patches.ncc_sum if patches else None,
            certified=patches.certified if patches else None,
            shard=shard,
        )


def _put_images(outputs: Outputs, items: Sequence[Item], about: About, encoding: Future[Encoded]) -> Stored:
    try:
        encoded = encoding.result()
    except RejectError as error:
        return dict.fromkeys((item.name for item in items), error.with_traceback(None))
    with io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded as file:
        return {item.name: outputs.put(item, file, about) for item in items}


def encoded(output: Tensor, working: WorkingImage, config: MethodConfig, spaces: RgbSpaces, library: str = "") -> bytes:
    """Return the file of the image that a method made of a working image, without its padding.

    `library` names the library by its content, for the metadata.
    """
    pixels = to_pixels(output)[: working.height, : working.width]
    space = None if config.output_space != "input" else spaces.for_output("input", working.own)
    profile = space.profile if space else OUTPUT_PROFILES[config.output_space or "srgb"]
    said = space_of_profile(config, profile)
    blocks = of_picture(working.blocks, config, working.width, working.height, said, library)
    if space:
        return encode_in(pixels, space, config.format, config.quality, config.depth, blocks)
    return encode_picture(pixels, config.format, config.quality, config.output_space, config.depth, blocks)
