"""The commands that check, clean and report on libraries and runs: `verify`, `gc` and `report`."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from kt_batch.cli import options
from kt_batch.cli.arguments import expand
from kt_batch.cli.output import counted, print_lines, print_summary
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.cli.rejects import LINES
from kt_batch.errors import UsageError
from kt_batch.maintenance.cache import CacheSummary, gc_cache
from kt_batch.maintenance.gc import GcSummary, gc
from kt_batch.maintenance.made_with import AS_RECORDED, MadeWith
from kt_batch.maintenance.recompute import Recompute, RecomputeSummary
from kt_batch.maintenance.recompute import recompute as recompute_images
from kt_batch.maintenance.verify import verify
from kt_batch.report.page_files import page_start
from kt_batch.report.recorded_edits import REVIEW_BELOW, Review
from kt_batch.report.run_report import TEMPLATE, RunReport, duration, report_page, run_report
from kt_batch.store.image_filters import ImageFilter
from kt_batch.store.targets import Inputs, Target

Digest = Annotated[
    bool, typer.Option("--digest", help="Print only the digest, unless something is missing or damaged.")
]
Delete = Annotated[bool, typer.Option("--delete", help="Remove the listed files; without it nothing is removed.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Also remove files that may belong to work under way; only if no process works there."
    ),
]
OldIndexes = Annotated[
    bool,
    typer.Option(
        "--old-indexes",
        help="Also the indexes of earlier states of a library that no index of its present state needs.",
    ),
]
MaybePlace = Annotated[str | None, typer.Argument(help="A library or a run: a directory or s3://bucket/prefix.")]
Cache = Annotated[bool, typer.Option("--cache", help="The staged index shards, instead of a place.")]
CacheDir = Annotated[str | None, typer.Option("--cache-dir", help="The cache folder; default: that of this user.")]


def add_maintenance(app: typer.Typer) -> None:
    """Give an app the commands of this module."""
    app.command("verify")(expand(verify_command))
    app.command("gc")(gc_command)
    app.command("report")(report_command)


SEEDS = 2**32
AS_MADE = "With --recompute: as the place was made with."


class MadeOptions(options.Options):
    """Options of what a place was made with, where it does not say that itself."""

    library: tuple[str, ...] = Field(
        (),
        description="With --recompute: where a run's library is now, if it moved; of several, one for each, in order.",
    )
    style: tuple[str, ...] = Field(
        (), description="With --recompute: the style images of a run, where it used only some of them."
    )
    only_tag: tuple[str, ...] = Field((), description=AS_MADE)
    only_license: tuple[str, ...] = Field((), description=AS_MADE)
    only_image: tuple[str, ...] = Field((), description=AS_MADE)
    where: str | None = Field(None, description=AS_MADE)
    encoder_weights: str | None = Field(None, description=AS_MADE)
    decoder_weights: str | None = Field(None, description=AS_MADE)
    mask: str | None = Field(None, description="With --recompute: where a run's label images are now, if they moved.")
    bank: tuple[str, ...] = Field(
        (),
        description="With --recompute: where a run's filter banks are now, if they moved: all, in any order.",
    )
    network: str | None = Field(None, description="With --recompute: where the network of the filter banks is now.")

    def given(self) -> MadeWith:
        """Return what is given."""
        only = ImageFilter(self.only_tag, self.only_license, self.only_image, self.where)
        return MadeWith(
            libraries=self.library,
            only=only,
            styles=self.style,
            encoder_weights=self.encoder_weights,
            decoder_weights=self.decoder_weights,
            mask=self.mask,
            banks=self.bank,
            network=self.network,
        )


Again = Annotated[int, typer.Option("--recompute", min=0, help="Also do N images once more, and compare.")]


def verify_command(
    *,
    place: options.Place,
    digest: Digest = False,
    recompute: Again = 0,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Seed of the choice of images; default: another one each time.")
    ] = None,
    made: MadeOptions,
    json: options.Json = False,
) -> int:
    """Read back everything that a library or a run holds.

    Exits with 1 if something is missing, damaged or, with --recompute, made of something else than it says. The digest
    depends on inputs and options alone, not on workers, unit size or interruptions.

    kt-batch verify run
    """
    chosen = secrets.randbelow(SEEDS) if seed is None else seed  # nobody can know which images to leave alone
    request = Recompute(recompute, chosen, made.given())
    if not recompute and request.made != AS_RECORDED:
        raise UsageError("Options that say what a place was made with go with --recompute N; add it or leave them out.")
    with ProgressDisplay() as display:
        summary = verify(place, display)
        again = recompute_images(place, request, display) if recompute and not summary.faults else None
    if digest and summary.digest and not summary.faults:
        print_lines([summary.digest])
        return 0
    state = "all there" if not summary.faults else counted(len(summary.faults), "fault")
    pending = f", {summary.pending} units not done yet" if summary.pending else ""
    lines = [
        f"{summary.place}: {summary.kind}, {counted(summary.files, 'file')}, {summary.bytes:,} bytes: {state}{pending}"
    ]
    lines += [f"  {fault}" for fault in summary.faults]
    leftovers = (
        (summary.orphans, "that nothing committed names (kt-batch gc lists them)"),
        (summary.foreign, "of others"),
        (summary.unplanned, "among them that pretend to be receipts of units in no plan"),
    )
    lines += [f"  beside them {counted(number, 'file')} {what}" for number, what in leftovers if number]
    lines += [f"  digest {summary.digest}"] if summary.digest else []
    lines += _recompute_lines(again) if again else []
    print_summary({**asdict(summary), "recompute": asdict(again) if again else None}, lines, json)
    return 1 if summary.faults or (again and (again.different or not again.checked)) else 0


def _recompute_lines(again: RecomputeSummary) -> list[str]:
    equal = f"{len(again.equal)} equal" + (f", {len(again.close)} equal within 1/255" if again.close else "")
    done = f"{counted(again.checked, 'image')} done once more (--seed {again.seed})"
    lines = [f"  {done}: {equal}, {len(again.different)} different"]
    lines += [f"    different: {name}" for name in again.different]
    if again.absent:
        lines.append(f"    {counted(len(again.absent), 'image')} cannot be read any more, such as {again.absent[0]}")
    return lines


def gc_command(
    place: MaybePlace = None,
    delete: Delete = False,
    force: Force = False,
    old_indexes: OldIndexes = False,
    cache: Cache = False,
    cache_dir: CacheDir = None,
    json: options.Json = False,
) -> int:
    """List, or remove, the files of a library or a run that nothing committed names.

    Lost or killed attempts leave them behind. --delete removes them, unless work there is not finished: the newest
    files of a worker have no receipt yet. Files whose names are not kt-batch's are counted and stay.

    --old-indexes also lists or removes indexes of earlier states of a library, and their shards that no other index
    names. Runs that were made with them keep their pictures; explain and verify --recompute need the index.

    --cache lists or removes the staged index shards of this user on this machine instead; those in use stay.

    kt-batch gc run --delete

    kt-batch gc --cache --delete
    """
    if cache == (place is not None):
        raise UsageError("gc takes either the place of a library or a run, or --cache.")
    if old_indexes and cache:
        raise UsageError("--old-indexes belongs to a library, not to --cache.")
    if cache_dir is not None and not cache:
        raise UsageError("--cache-dir belongs to --cache.")
    if place is None:
        staged = gc_cache(cache_dir, delete=delete)
        print_summary(asdict(staged), _cache_lines(staged), json)
        return 0
    with ProgressDisplay() as display:
        summary = gc(place, display, delete=delete, force=force, old_indexes=old_indexes)
    print_summary(asdict(summary), _gc_lines(summary), json)
    return 0


def _cache_lines(summary: CacheSummary) -> list[str]:
    if summary.folder is None:
        return ["There is no cache folder."]
    state = "removed" if summary.deleted else "to remove with --delete"
    lines = [f"{summary.folder}: cache, {counted(len(summary.shards), 'shard')}, {summary.bytes:,} bytes: {state}"]
    lines += [f"  {shard.sha256} ({shard.bytes:,} bytes)" for shard in summary.shards]
    return lines + ([f"  {counted(summary.in_use, 'shard')} in use: left alone"] if summary.in_use else [])


def _gc_lines(summary: GcSummary) -> list[str]:
    state = "removed" if summary.deleted else "to remove with --delete"
    lines = [
        f"{summary.place}: {summary.kind}, {counted(len(summary.orphans), 'file')}, {summary.bytes:,} bytes: {state}"
    ]
    lines += [f"  {orphan.name} ({orphan.bytes:,} bytes)" for orphan in summary.orphans]
    lines += [f"  old index {digest}" for digest in summary.old_indexes]
    lines += [f"  {counted(summary.foreign, 'file')} of others: left alone"] if summary.foreign else []
    if (summary.pending or summary.unfinished) and not summary.deleted:
        lines.append(
            f"  not finished there: units {summary.pending}, indexes {summary.unfinished}; these files may be theirs, "
            "so finish them first"
        )
    return lines


def report_command(
    place: options.Place,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report to this file as a page.")] = None,
    review_below: options.ReviewBelow = None,
    log: Annotated[
        Path | None,
        typer.Option("--log", help="The --log-file of a run with --index-memory: report what its owners were asked."),
    ] = None,
    force: options.Force = False,
    json: options.Json = False,
) -> int:
    """Report progress, doubtful edits, rates, slowest images, rejects and workers of a library or a run.

    kt-batch report run --html report.html
    """
    report = run_report(place, REVIEW_BELOW if review_below is None else review_below, log)
    if review_below is not None and report.review is None:
        raise UsageError(f"--review-below has no effect on '{place}', which records no edits; leave it out.")
    lines = report_lines(report)
    if html is not None:
        target = Target("--html", html, Inputs(files=[log], places=[place]), force, begins=page_start(TEMPLATE))
        target.write(report_page(report).encode(errors="backslashreplace"))
        lines.append(f"  Open {html}")
    print_summary(asdict(report), lines, json)
    return 0


def report_lines(report: RunReport) -> list[str]:
    """Return the report for a person."""
    units, images = report.units, report.images
    again = f", {images.elsewhere} listed again" if images.elsewhere else ""
    lines = [
        f"{report.place}: {report.kind}, {units.done} of {units.planned} units done",
        f"  {images.done} images done, {images.pending} pending, {images.rejected} rejected{again}",
    ]
    if report.review:
        lines.append(review_line(report.review))
    if report.throughput:
        spent = duration(report.throughput.working_seconds)
        lines.append(f"  {report.throughput.images_per_second:.3g} images/s over {spent} of work")
    if any(asdict(report.unrecorded).values()):
        missing = ", ".join(f"{name} in {count} units" for name, count in asdict(report.unrecorded).items() if count)
        lines.append(f"  not recorded: {missing}")
    tables = {
        "seconds by stage": [
            f"{stage.share:6.1%}  {duration(stage.seconds)}  {stage.stage}" for stage in report.stages
        ],
        "slowest images": [f"{duration(image.seconds):>8}  {image.name}" for image in report.slowest],
        "rejects": [f"{entry.count:6}  {entry.reason}, such as {entry.uri}" for entry in report.rejects],
        "rejected inputs": [f"{entry.name}: {entry.reason}, {entry.message}" for entry in report.rejected[:LINES]],
        "workers": [
            f"{share.units:6} units, {share.images} images  {share.worker or 'not recorded'}"
            + ("" if share.images_per_second is None else f"  {share.images_per_second:.3g} images/s")
            for share in report.workers
        ],
        "owners of the index": [
            f"{share.owner:6}  {share.index_bytes / 1e9:.3g} GB, {share.queries:,} queries, {share.visits:,} visits of "
            f"leaves, {share.bytes / 1e6:.3g} MB of messages, waited for {duration(share.seconds)}"
            + (f", {share.lost:,} requests lost with a process" if share.lost else "")
            for share in report.owners
        ],
    }
    for title, rows in tables.items():
        lines += [f"  {title}", *(f"    {row}" for row in rows)] if rows else []
    return lines


def review_line(review: Review) -> str:
    """Return how many edits are doubtful, and the first of them."""
    line = f"  {review.count} of {counted(review.edits, 'edit')} with a confidence below {review.below:g}"
    return f"{line}; look at {review.first[0].name} first" if review.first else line
