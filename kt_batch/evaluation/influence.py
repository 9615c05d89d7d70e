"""Measure what a source contributes to an output: make it once more, without that source in the library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.config import LARGEST_SIZE
from kt_batch.errors import MissingError, UsageError
from kt_batch.index.index import Index
from kt_batch.index.restricted import RowsOfImages, restricted
from kt_batch.maintenance.made_with import MadeWith, job_of
from kt_batch.maintenance.recompute import threads_of
from kt_batch.methods.base import LevelProvenance, Need, PatchProvenance, Resources, Result, Unchanged
from kt_batch.methods.features import to_pixels
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.retouch.fit import fit_pairs
from kt_batch.methods.table import method_named
from kt_batch.pipelines.numerics import fix_numerics
from kt_batch.pipelines.pairs.fit import pair_table
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.pipelines.translate.large import translate_image
from kt_batch.pipelines.translate.plan import TranslateJob
from kt_batch.pipelines.translate.resources import load_resources
from kt_batch.report.session import Session, find_output
from kt_batch.report.sources import follows
from kt_batch.report.usage import Matches, Shares, new_usage
from kt_batch.store.images.files import WorkingImage, image_id
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.inputs import read_input
from kt_batch.store.opening import open_paired
from kt_batch.store.paired import read_fit_summary
from kt_batch.store.run import Output, read_output

DIGITS = 6
LEAST_PAIRS = 2  # that are left when one is left out
SEVERAL = {  # fields of runs whose sources are not left out -> what such a run was made with
    "further_libraries": "several libraries",
    "allowed_sha256": "a filter of images",
    "draw": "--source",
}

Pixels = NDArray[np.float32]
Show = Callable[[str, Pixels], None]  # image id of the source that is left out, empty for none; the picture


@dataclass(frozen=True)
class SourceInfluence:
    """The change that leaving out one source makes.

    uri: Of its file; of a pair, that of the photograph before; empty where it is not known any more. share: Of the
    output, as the run records it. change: Mean absolute change of all pixels and channels, of [0, 1].
    sources_changed: Share of the patches whose best match is in another image; None for a method without patches.
    ncc_loss: By how much the mean NCC of the best matches falls; None likewise. absent: Why it could not be left out;
    then the others are None.
    """

    image_id: str
    uri: str
    share: float
    change: float | None = None
    sources_changed: float | None = None
    ncc_loss: float | None = None
    absent: str | None = None


@dataclass(frozen=True)
class InfluenceReport:
    """The influence of sources on one output; `dataclasses.asdict` gives plain values for JSON.

    sources: Those with the largest shares, the largest first. left: How many have smaller shares. ncc_mean: With all
    sources; None for a method without patches. recorded_change: Mean absolute difference of the picture that the run
    holds from the one made here with all sources, which is what rounding and another search change; None where the run
    holds it at another size.
    """

    run: str
    output: str
    input: str
    method: str
    sources: tuple[SourceInfluence, ...]
    left: int
    ncc_mean: float | None
    recorded_change: float | None


def influence(
    place: str, output: str, count: int, request: MadeWith, show: Show, progress: Progress
) -> InfluenceReport:
    """Leave out each of the sources with the largest shares of an output, and make it again in memory.

    The picture to compare with is made here too, with all sources and by the same kind of search, so that leaving out
    is the only difference. An index is held in memory as a whole.

    Args:
        place: The run.
        output: An output, as `find_output` takes it.
        count: Sources to leave out, at most.
        request: Where the library and the weights are now.
        show: Gets every picture, `(h, w, 3)` at the working size.
        progress: Is told of every picture.

    Raises:
        UsageError: The output has no sources that can be left out, or there is no such output.
        MissingError: The photograph or the library is not there any more.
        MismatchError: The run cannot be made again from what is there.
    """
    session = Session.open(place, request.libraries or None)
    named = find_output(session.run, output)
    job = _job(session, place, request)
    fix_numerics(job.threads)
    working = read_photograph(session, named, job)
    every = _sources(session, named)
    chosen = every[:count]
    made = _variants(job, [source.image_id for source in chosen])
    whole = _Picture(next(made), working, job)
    show("", whole.pixels)
    progress(Step("influence", 1, len(chosen) + 1))
    influences = []
    for known, resources in zip(chosen, made, strict=True):
        without = _Picture(resources, working, job) if resources else None
        if without:
            show(known.image_id, without.pixels)
        influences.append(_compared(known, whole, without))
        progress(Step("influence", len(influences) + 1, len(chosen) + 1))
    return InfluenceReport(
        run=session.run.location.uri,
        output=named.name,
        input=named.uri,
        method=session.run.header.method,
        sources=tuple(influences),
        left=len(every) - len(chosen),
        ncc_mean=None if whole.ncc is None else round(whole.ncc, DIGITS),
        recorded_change=_recorded_change(session, named, whole.pixels),
    )


def _job(session: Session, place: str, request: MadeWith) -> TranslateJob:
    """Return the job that made a run. Raises UsageError where its outputs have no sources that can be left out."""
    name = session.run.header.method
    if not method_named(name).needs & {Need.INDEX, Need.PAIRS}:
        raise UsageError(
            f"'{place}' is of the method {name}, which searches no library and learns from no pairs; influence leaves "
            "out images of a library or pairs."
        )
    if several := [what for field, what in SEVERAL.items() if session.run.config.get(field)]:
        raise UsageError(f"'{place}' was made with {several[0]}; influence is for runs of one whole library.")
    job = job_of(session.run, request, place, threads_of(session.run.committed.receipts.values()))
    if job.series:
        raise UsageError(
            f"The photographs of '{place}' share edits (--series), so none of them has sources of its own."
        )
    return job


def read_photograph(session: Session, output: Output, job: TranslateJob) -> WorkingImage:
    """Read the photograph of an output, at the working size.

    Raises:
        MissingError: It is gone, its bytes are others, or it is in a store that the caller did not name.
        RejectError: It cannot be read.
    """
    if not follows(session.run.location, output.uri):
        raise MissingError(f"'{output.uri}' is in a store that only the run names; influence does not ask it.")
    data = read_input(output.uri)
    if image_id(data) != output.image_id:
        raise MissingError(f"'{output.uri}' holds other bytes than '{output.name}' was made from.")
    with ImageReaderProcess() as reader:
        return reader.decode(data, job.config.working_size)


def _sources(session: Session, output: Output) -> list[SourceInfluence]:
    """Return the sources of an output with their shares, the largest first, ties by id."""
    usage = new_usage(session.provenance_kind)
    usage.add(session.provenance(output))
    uris, total = _uris(session, usage), sum(usage.weights.values()) or 1.0
    shares = sorted(usage.weights.items(), key=lambda each: (-abs(each[1]), each[0]))
    return [SourceInfluence(image, uris.get(image, ""), round(share / total, DIGITS)) for image, share in shares]


def _uris(session: Session, usage: Matches | Shares) -> dict[str, str]:
    """Return where the sources of an output are, by id, as the library or the provenance says."""
    if isinstance(usage, Shares):
        return usage.uris
    return {image: found.uris[0] for image, found in session.images(list(usage.weights)).items() if found.uris}


def _recorded_change(session: Session, output: Output, pixels: Pixels) -> float | None:
    """Return the mean absolute difference of a picture from the one in the run; None for other sizes."""
    with ImageReaderProcess() as reader:
        recorded = reader.decode(read_output(session.run, output), LARGEST_SIZE).pixels
    return _change(recorded, pixels) if recorded.shape == pixels.shape else None


def _change(one: Pixels, other: Pixels) -> float:
    return round(float(np.abs(one - other).mean(dtype=np.float64)), DIGITS)


def _variants(job: TranslateJob, sources: Sequence[str]) -> Iterator[Resources | None]:
    """Yield the resources with all sources, then those without each; None where none would be left."""
    resources = load_resources(job.config, job.sources)
    if Need.PAIRS in method_named(job.config.method).needs:
        yield resources
        yield from _without_pairs(job, resources, sources)
        return
    index = cast("Index", resources.index)
    rows = RowsOfImages(index)
    every = torch.arange(index.count)
    yield replace(resources, index=restricted(index, every))
    for source in sources:
        kept = torch.ones(index.count, dtype=torch.bool)
        kept[rows.of_image(source)] = False
        yield replace(resources, index=restricted(index, every[kept])) if kept.any() else None


def _without_pairs(job: TranslateJob, resources: Resources, sources: Sequence[str]) -> Iterator[Resources | None]:
    """Yield the resources of `retouch`, fitted again without each pair; pairs that came after the fit have no part."""
    library = open_paired(job.sources.library or "")
    config = FitConfig.model_validate(read_fit_summary(library.location, job.config.fit_digest or "").config)
    table, fitted = pair_table(library), frozenset(resources.fit.ids if resources.fit else ())
    for source in sources:
        others = [place for place, pair in enumerate(table.ids) if pair in fitted and pair != source]
        yield replace(resources, fit=fit_pairs(table.take(others), config)) if len(others) >= LEAST_PAIRS else None


class _Picture:
    """A picture made with some sources.

    pixels: `(h, w, 3)`. images: The image ids of the best matches, `(n, 8)` uint8. ncc: Their mean NCC. Both are None
    without patches; of a method with levels, they are those of the coarse one.
    """

    def __init__(self, resources: Resources | None, working: WorkingImage, job: TranslateJob) -> None:
        method = method_named(job.config.method)(job.config, resources or Resources())
        result = translate_image(method, working, job.config)
        self.pixels = pixels_of(result, working)
        provenance = result.provenance
        if isinstance(provenance, LevelProvenance):
            provenance = next(iter(provenance.levels.values()))
        self.images: Tensor | None = None
        self.ncc: float | None = None
        if isinstance(provenance, PatchProvenance):
            self.images = provenance.patch_ids[:, 0, :8]
            self.ncc = float(provenance.ncc[:, 0].double().mean())


def pixels_of(result: Result, working: WorkingImage) -> Pixels:
    """Return the picture of a result `(h, w, 3)` at the working size; an edit is applied to the working image."""
    output = result.output
    if isinstance(output, Tensor):
        return to_pixels(output)[: working.height, : working.width].clip(0, 1)
    if isinstance(output, Unchanged):
        return working.pixels
    return output.apply(working.pixels.copy(), 0, working.height).clip(0, 1)


def _compared(known: SourceInfluence, whole: _Picture, without: _Picture | None) -> SourceInfluence:
    """Return what is known of a source, with what leaving it out changes; None where nothing would be left."""
    if without is None:
        return replace(known, absent="it is the only source there is")
    changed = loss = None
    if whole.images is not None and without.images is not None:
        changed = round(float((whole.images != without.images).any(1).double().mean()), DIGITS)
        loss = round((whole.ncc or 0.0) - (without.ncc or 0.0), DIGITS)
    change = _change(whole.pixels, without.pixels)
    return replace(known, change=change, sources_changed=changed, ncc_loss=loss)
