"""The commands that build on a library: `index`, `statistics`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from kt_batch.cli import options
from kt_batch.cli.arguments import Fields, expand
from kt_batch.cli.config_file import ConfigFile, TrustConfig, save_options
from kt_batch.cli.output import print_summary
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.cli.runner import make_runner
from kt_batch.config import RunOptions
from kt_batch.errors import UsageError
from kt_batch.pipelines.index.finish import BuildSummary, build_index
from kt_batch.pipelines.index.status import IndexStatus, LibraryStatus, index_status
from kt_batch.pipelines.statistics.finish import StatisticsResult, build_statistics
from kt_batch.store.names import in_command

HOW = ("runner", "workers", "threads", "address", "mix_numerics", "log_file")
IndexRun = Annotated[
    RunOptions,
    Fields(only=HOW, panel=options.RUN_PANEL),
]
BuildRun = Annotated[
    RunOptions,
    Fields(only=(*HOW, "gpus", "anonymous", "requester_pays"), panel=options.RUN_PANEL, options=options.SWITCHES),
]

# Options that go with --status.
REPORTING = ("library", "status", "json", "config", "trust_config", "anonymous", "requester_pays")
Status = Annotated[
    bool, typer.Option("--status", help="Report what each index has grown from and how well it fits; build nothing.")
]


def add_index(app: typer.Typer) -> None:
    """Give an app the commands."""
    app.command("index")(expand(index_command))
    app.command("statistics")(expand(statistics_command))


def index_command(
    context: typer.Context,
    library: Annotated[str, typer.Argument(help="The library: a directory or s3://bucket/prefix.")],
    building: options.Building,
    how: BuildRun,
    at: options.At = None,
    fresh: options.Fresh = False,
    build_memory: options.BuildMemory = None,
    status: Status = False,
    config: ConfigFile = None,
    trust_config: TrustConfig = False,
    json: options.Json = False,
) -> int:
    """Cluster a library by BHKM, so that it can be searched.

    Where few images were added since the library was indexed, the index grows by them; --fresh builds it afresh.
    --status says of each index what it has grown from, and whether a fresh one pays.

    kt-batch index monet.lib
    """
    if status:
        _refuse_options_of_a_build(context)
        found = index_status(library)
        print_summary(asdict(found), status_lines(found), json)
        return 0
    key, memory = options.parse_key(at), options.parse_size("--build-memory", build_memory)
    with make_runner(how) as running, ProgressDisplay() as display:
        summary = build_index(library, building, how, running, display, key, fresh=fresh, memory=memory)
    save_options(library, "index", context.params)
    print_summary(asdict(summary), index_lines(summary), json)
    return 0


def _refuse_options_of_a_build(context: typer.Context) -> None:
    """Raise UsageError where a command that only reports was given options of a build."""
    given = [name for name in sorted(context.params) if name not in REPORTING and not options.is_default(context, name)]
    if given:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"--status reports all indexes and builds none: leave {names} out.")


def statistics_command(
    library: Annotated[str, typer.Argument(help="The library: a directory or s3://bucket/prefix.")],
    how: IndexRun,
    at: options.At = None,
    json: options.Json = False,
) -> int:
    """Compute count, channel means and second moments of a library's cells, of each image and of all.

    kt-batch statistics monet.lib
    """
    key = options.parse_key(at)
    with make_runner(how) as running, ProgressDisplay() as display:
        summary = build_statistics(library, how, running, display, key)
    print_summary(asdict(summary), statistics_lines(summary), json)
    return 0


def statistics_lines(summary: StatisticsResult) -> list[str]:
    """Return the summary for a person."""
    state = f"computed in {summary.seconds:.1f} s" if summary.made else "nothing to do: they were computed already"
    return [
        f"{summary.library}: statistics {summary.statistics} of {summary.key}, {state}",
        f"  {summary.count:,} cells of {summary.channels} channels, of {summary.images} images",
    ]


def index_lines(summary: BuildSummary) -> list[str]:
    """Return the summary for a person."""
    state = f"built in {summary.seconds:.1f} s" if summary.built else "nothing to do: it was built already"
    preset = " --preset painting" if summary.for_painting else ""
    merged = f"{summary.merged_share:.1%} merged"
    grown = f"  grown from {summary.generation} by {summary.new_patches:,} patches" if summary.generation else ""
    return [
        f"{summary.library}: index {summary.index} of {summary.key}, {state}",
        *([grown] if grown else []),
        f"  {summary.patches:,} {summary.match_space} patches, {merged}, {summary.leaves} leaves",
        f"  next: kt-batch translate PHOTOS --library {in_command(summary.library)}{preset} --out RUN",
    ]


def status_lines(status: LibraryStatus) -> list[str]:
    """Return the state of a library's indexes for a person."""
    lines = [f"{status.library}: {_indexes(len(status.indexes))}"]
    for index in status.indexes:
        lines += [f"  {index.index} of {index.key}, {index.match_space}, {index.state}: {_origin(index)}"]
        lines += [f"    {index.advice}"] if index.advice else []
    return lines


def _indexes(number: int) -> str:
    return f"{number} {'index' if number == 1 else 'indexes'}"


def _origin(index: IndexStatus) -> str:
    if index.generation is None:
        return f"fresh, {index.patches:,} patches" + ("" if index.can_grow else ", cannot grow")
    drift = "" if index.drift is None else f", drift {index.drift:.3f}"
    return f"grown from {index.generation} by {index.new_patches:,} patches ({index.share:.1%}){drift}"
