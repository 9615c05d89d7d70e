"""The commands that check, clean and report on libraries and runs: `verify`, `gc` and `report`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kt_batch.cli import options
from kt_batch.cli.output import counted, print_summary
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.errors import StorageError
from kt_batch.maintenance.gc import GcSummary, gc
from kt_batch.maintenance.verify import verify
from kt_batch.report.run_report import RunReport, duration, report_page, run_report

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


def add_maintenance(app: typer.Typer) -> None:
    """Give an app the commands of this module."""
    app.command("verify")(verify_command)
    app.command("gc")(gc_command)
    app.command("report")(report_command)


def verify_command(place: options.Place, digest: Digest = False, json: options.Json = False) -> int:
    """Read back everything that a library or a run holds.

    Exits with 1 if something is missing or damaged. The digest depends on inputs and options alone, not on workers,
    unit size or interruptions.

    kt-batch verify run
    """
    with ProgressDisplay() as display:
        found = verify(place, display)
    if digest and found.digest and not found.faults:
        typer.echo(found.digest)
        return 0
    state = "all there" if not found.faults else counted(len(found.faults), "fault")
    pending = f", {found.pending} units not done yet" if found.pending else ""
    lines = [f"{found.place}: {found.kind}, {counted(found.files, 'file')}, {found.bytes:,} bytes: {state}{pending}"]
    lines += [f"  {fault}" for fault in found.faults]
    beside = ((found.orphans, "that nothing committed names (kt-batch gc lists them)"), (found.foreign, "of others"))
    lines += [f"  beside them {counted(number, 'file')} {what}" for number, what in beside if number]
    lines += [f"  digest {found.digest}"] if found.digest else []
    print_summary(asdict(found), lines, json)
    return 1 if found.faults else 0


def gc_command(place: options.Place, delete: Delete = False, force: Force = False, json: options.Json = False) -> int:
    """List, or remove, the files of a library or a run that nothing committed names.

    Lost or killed attempts leave them behind. --delete removes them, unless work there is not finished: the newest
    files of a worker have no receipt yet. Files whose names are not kt-batch's are counted and stay.

    kt-batch gc run --delete
    """
    with ProgressDisplay() as display:
        found = gc(place, display, delete=delete, force=force)
    print_summary(asdict(found), _gc_lines(found), json)
    return 0


def _gc_lines(found: GcSummary) -> list[str]:
    state = "removed" if found.deleted else "to remove with --delete"
    lines = [f"{found.place}: {found.kind}, {counted(len(found.orphans), 'file')}, {found.bytes:,} bytes: {state}"]
    lines += [f"  {orphan.name} ({orphan.bytes:,} bytes)" for orphan in found.orphans]
    lines += [f"  {counted(found.foreign, 'file')} of others: left alone"] if found.foreign else []
    if (found.pending or found.unfinished) and not found.deleted:
        lines.append(
            f"  not finished there: units {found.pending}, indexes {found.unfinished}; these files may be theirs, so "
            "finish them first"
        )
    return lines


def report_command(
    place: options.Place,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report to this file as a page.")] = None,
    json: options.Json = False,
) -> int:
    """Report progress, rates, slowest images, rejects and workers of a library or a run.

    kt-batch report run --html report.html
    """
    found = run_report(place)
    lines = report_lines(found)
    if html is not None:
        try:
            html.write_text(report_page(found), encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise StorageError(f"'{html}' cannot be written: {error.strerror}.") from error
        lines.append(f"  Open {html}")
    print_summary(asdict(found), lines, json)
    return 0


def report_lines(found: RunReport) -> list[str]:
    """Return the report for a person."""
    units, images = found.units, found.images
    again = f", {images.elsewhere} listed again" if images.elsewhere else ""
    lines = [
        f"{found.place}: {found.kind}, {units.done} of {units.planned} units done",
        f"  {images.done} images done, {images.pending} pending, {images.rejected} rejected{again}",
    ]
    if found.throughput:
        spent = duration(found.throughput.working_seconds)
        lines.append(f"  {found.throughput.images_per_second:.3g} images/s over {spent} of work")
    if any(asdict(found.unrecorded).values()):
        missing = ", ".join(f"{name} in {count} units" for name, count in asdict(found.unrecorded).items() if count)
        lines.append(f"  not recorded: {missing}")
    tables = {
        "seconds by stage": [f"{stage.share:6.1%}  {duration(stage.seconds)}  {stage.stage}" for stage in found.stages],
        "slowest images": [f"{duration(image.seconds):>8}  {image.name}" for image in found.slowest],
        "rejects": [f"{entry.count:6}  {entry.reason}, such as {entry.uri}" for entry in found.rejects],
        "workers": [
            f"{share.units:6} units, {share.images} images  {share.worker or 'not recorded'}"
            + ("" if share.images_per_second is None else f"  {share.images_per_second:.3g} images/s")
            for share in found.workers
        ],
    }
    for title, rows in tables.items():
        lines += [f"  {title}", *(f"    {row}" for row in rows)] if rows else []
    return lines
