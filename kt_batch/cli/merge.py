"""The command `merge`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from kt_batch.cli import options
from kt_batch.cli.arguments import Fields, expand
from kt_batch.cli.config_file import ConfigFile, TrustConfig, save_options
from kt_batch.cli.output import counted, print_summary
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.config import RunOptions
from kt_batch.pipelines.merge.finish import MergeRequest, MergeSummary
from kt_batch.pipelines.merge.finish import merge as merge_libraries
from kt_batch.pipelines.progress import readable_size
from kt_batch.store.names import in_command

Libraries = Annotated[
    list[str], typer.Argument(help="The libraries to join, two or more; of an image in several the first one counts.")
]
Into = Annotated[str, typer.Option("--into", help="The new library: a directory or s3://bucket/prefix.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Report what would be done, and write nothing.")]
How = Annotated[
    RunOptions,
    Fields(only=("mix_numerics", "anonymous", "requester_pays"), panel=options.RUN_PANEL, options=options.SWITCHES),
]


def add_merge(app: typer.Typer) -> None:
    """Give an app the command."""
    app.command("merge")(expand(merge_command))


def merge_command(
    context: typer.Context,
    *,
    libraries: Libraries,
    into: Into,
    how: How,
    dry_run: DryRun = False,
    config: ConfigFile = None,
    trust_config: TrustConfig = False,
    json: options.Json = False,
) -> int:
    """Join knowledge libraries into a new one, without encoding their images again. Run it again to continue.

    They may differ in tags, licence and attribution alone, which each image keeps.

    kt-batch merge monet.lib turner.lib --into both.lib
    """
    request = MergeRequest(libraries, into, how.mix_numerics, dry_run)
    with ProgressDisplay() as display:
        summary = merge_libraries(request, display)
    if not dry_run:
        save_options(into, "merge", context.params)
    print_summary(asdict(summary), merge_lines(summary), json)
    return 0


def merge_lines(summary: MergeSummary) -> list[str]:
    """Return the summary for a person."""
    patches = "" if summary.patches is None else f", {summary.patches:,} patches"
    lines = [f"{summary.library}: a dry run, nothing was written there"] if summary.dry_run else []
    shared = f" ({summary.shared} of them in several libraries, taken once)" if summary.shared else ""
    counts = f"{counted(summary.images, 'image')}{shared}{patches}, {summary.rejected} rejected"
    lines.append(f"  {counts}" if summary.dry_run else f"{summary.library}: {counts}")
    units = f"{summary.new_units} of {counted(summary.units, 'unit')}, up to {readable_size(summary.bytes)}"
    if summary.new_units:
        lines.append(f"  to do: {units}" if summary.dry_run else f"  taken over: {units} in {summary.seconds:.1f} s")
    else:
        lines.append("  nothing to do: everything was taken over already")
    return lines if summary.dry_run else [*lines, f"  next: kt-batch index {in_command(summary.library)}"]
