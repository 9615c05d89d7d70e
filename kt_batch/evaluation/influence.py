"""Measure what a source contributes to an output: make it once more, without that source in the library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kt_batch.config import LARGEST_SIZE
from kt_batch.errors import MissingError, UsageError
from kt_batch.evaluation.left_out import By, Kind, Part, Variant, kind_of, parts_of, variants
from kt_batch.kernels.patches import pixel_shares
from kt_batch.maintenance.made_with import MadeWith, job_of
from kt_batch.maintenance.recompute import threads_of
from kt_batch.methods.base import LevelProvenance, PatchProvenance, Result, Unchanged
from kt_batch.methods.features import to_pixels
from kt_batch.methods.styles import region_choices
from kt_batch.methods.table import method_named
from kt_batch.pipelines.numerics import fix_numerics
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.pipelines.translate.large import translate_image, working_pixels
from kt_batch.pipelines.translate.masks import Regions, read_regions
from kt_batch.pipelines.translate.plan import TranslateJob
from kt_batch.report.session import Session, find_output
from kt_batch.report.sources import follows
from kt_batch.store.images.files import WorkingImage, image_id
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.inputs import read_input
from kt_batch.store.plans import Item
from kt_batch.store.run import Output, read_output

DIGITS = 6

Pixels = NDArray[np.float32]
Show = Callable[[str, Pixels], None]  # id of the part that is left out, empty for none; the picture


@dataclass(frozen=True)
class Question:
    """The question: what each part of an output contributes. count: Parts to leave out, at most. by: What a part is."""

    output: str
    count: int
    by: By = "source"


@dataclass(frozen=True)
class SourceInfluence:
    """The change that leaving out one part makes.

    id: Of an image or a pair, the content id of a bank, or the place of a library. uri: Of its file; of a pair, that of
    the photograph before; empty where it is not known any more. share: Of the output, as the run records it; of
    patches, the share of its pixels. change: Mean absolute change of all pixels and channels, of [0, 1].
    sources_changed: Share of the pixels whose patches have their best match in another image; None for a method without
    patches. ncc_loss: By how much the mean NCC of the best matches falls; None likewise. absent: Why it could not be
    left out; then the others are None.
    """

    id: str
    uri: str
    share: float
    change: float | None = None
    sources_changed: float | None = None
    ncc_loss: float | None = None
    absent: str | None = None


@dataclass(frozen=True)
class InfluenceReport:
    """The influence of parts on one output; `dataclasses.asdict` gives plain values for JSON.

    left_out: What the parts are. sources: Those with the largest shares, the largest first. left: How many have smaller
    shares. ncc_mean: With all parts; None for a method without patches. recorded_change: Mean absolute difference of
    the picture that the run holds from the one made here with all parts, which is what rounding and another search
    change; None where the run holds it at another size.
    """

    run: str
    output: str
    input: str
    method: str
    left_out: Kind
    sources: tuple[SourceInfluence, ...]
    left: int
    ncc_mean: float | None
    recorded_change: float | None


def influence(place: str, question: Question, request: MadeWith, show: Show, progress: Progress) -> InfluenceReport:
    """Leave out each of the parts with the largest shares of an output, and make it again in memory.

    The picture to compare with is made here too, with all parts and by the same kind of search, so that leaving out is
    the only difference. Indexes are held in memory as a whole.

    Args:
        place: The run.
        question: The output, as `find_output` takes it, and what is left out.
        request: Where libraries, banks and weights are now.
        show: Gets every picture, `(h, w, 3)` at the working size.
        progress: Is told of every picture.

    Raises:
        UsageError: The output has no parts that can be left out, or there is no such output.
        MissingError: The photograph, a library or a bank is not there any more.
        MismatchError: The run cannot be made again from what is there.
        RejectError: The photograph or its label image cannot be read.
    """
    session = Session.open(place, request.libraries or None)
    named = find_output(session.run, question.output)
    kind = kind_of(session, question.by)
    job = _job(session, place, request)
    fix_numerics(job.threads)
    working = read_photograph(session, named, job)
    regions = _regions(named, working, job)
    every = parts_of(session, named, kind, job)
    chosen = every[: question.count]
    made = (_picture(each, working, regions) for each in variants(job, kind, [part.id for part in chosen]))
    whole = cast("_Picture", next(made))  # nothing is left out of it
    show("", whole.pixels)
    progress(Step("influence", 1, len(chosen) + 1))
    influences = []
    for part, without in zip(chosen, made, strict=True):
        if not isinstance(without, str):
            show(part.id, without.pixels)
        influences.append(_compared(part, whole, without))
        progress(Step("influence", len(influences) + 1, len(chosen) + 1))
    return InfluenceReport(
        run=session.run.location.uri,
        output=named.name,
        input=named.uri,
        method=session.run.header.method,
        left_out=kind,
        sources=tuple(influences),
        left=len(every) - len(chosen),
        ncc_mean=None if whole.ncc is None else round(whole.ncc, DIGITS),
        recorded_change=_recorded_change(session, named, whole.pixels),
    )


def _job(session: Session, place: str, request: MadeWith) -> TranslateJob:
    """Return the job that made a run. Raises UsageError where its outputs have no sources that can be left out."""
    if session.run.config.get("draw"):
        raise UsageError(f"'{place}' was made with --source: each photograph has one source, and none to replace it.")
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


def _regions(output: Output, working: WorkingImage, job: TranslateJob) -> Regions | None:
    """Return the regions of a photograph with a label image; None without. Raises RejectError for an unusable one."""
    if job.sources.masks is None:
        return None
    item = Item(output.image_id, output.uri, output.input_name, output.name)
    return read_regions(job.sources.masks.mask_of(item), working, region_choices(job.config))


def _recorded_change(session: Session, output: Output, pixels: Pixels) -> float | None:
    """Return the mean absolute difference of a picture from the one in the run; None for other sizes."""
    with ImageReaderProcess() as reader:
        recorded = reader.decode(read_output(session.run, output), LARGEST_SIZE).pixels
    return _change(recorded, pixels) if recorded.shape == pixels.shape else None


def _change(one: Pixels, other: Pixels) -> float:
    return round(float(np.abs(one - other).mean(dtype=np.float64)), DIGITS)


@dataclass(frozen=True)
class _Picture:
    """A picture made with some parts.

    pixels: `(h, w, 3)`. images: The image ids of the best matches, `(n, 8)` uint8. areas: The share of the pixels that
    each stands for, `(n,)`. ncc: Their mean NCC. The last three are None without patches; of a method with levels, they
    are those of the coarse one.
    """

    pixels: Pixels
    images: Tensor | None = None
    areas: Tensor | None = None
    ncc: float | None = None


def _picture(variant: Variant, working: WorkingImage, regions: Regions | None) -> _Picture | str:
    """Return the picture that a variant makes, or why there is none."""
    if isinstance(variant, str):
        return variant
    config, resources = variant
    method = method_named(config.method)(config, resources)
    result = translate_image(method, working, config, regions=regions)
    pixels, found = pixels_of(result, working), result.provenance
    stride = method.stride
    if isinstance(found, LevelProvenance):
        found = next(iter(found.levels.values()))
    if not isinstance(found, PatchProvenance):
        return _Picture(pixels)
    height, width = working_pixels(method, working, config).shape[:2]
    areas = pixel_shares(found.rows, found.cols, stride, (height, width))
    return _Picture(pixels, found.patch_ids[:, 0, :8], areas, float(found.ncc[:, 0].double().mean()))


def pixels_of(result: Result, working: WorkingImage) -> Pixels:
    """Return the picture of a result `(h, w, 3)` at the working size; an edit is applied to the working image."""
    output = result.output
    if isinstance(output, Tensor):
        return to_pixels(output)[: working.height, : working.width].clip(0, 1)
    if isinstance(output, Unchanged):
        return working.pixels
    return output.apply(working.pixels.copy(), 0, working.height).clip(0, 1)


def _compared(part: Part, whole: _Picture, without: _Picture | str) -> SourceInfluence:
    """Return what is known of a part, with what leaving it out changes, or why it cannot be left out."""
    share = round(part.share, DIGITS)
    if isinstance(without, str):
        return SourceInfluence(part.id, part.uri, share, absent=without)
    changed = loss = None
    if whole.images is not None and without.images is not None and whole.areas is not None:
        changed = round(float(whole.areas[(whole.images != without.images).any(1)].sum()), DIGITS)
        loss = round((whole.ncc or 0.0) - (without.ncc or 0.0), DIGITS)
    change = _change(whole.pixels, without.pixels)
    return SourceInfluence(part.id, part.uri, share, change, changed, loss)
