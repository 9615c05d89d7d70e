"""The command `index`."""

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
from kt_batch.pipelines.index.finish import BuildSummary, build_index

IndexRun = Annotated[
    RunOptions,
    Fields(only=("runner", "workers", "threads", "address", "mix_numerics", "log_file"), panel=options.RUN_PANEL),
]


def add_index(app: typer.Typer) -> None:
    """Give an app the command."""
    app.command("index")(expand(index_command))


def index_command(
    context: typer.Context,
    library: Annotated[str, typer.Argument(help="The library: a directory or s3://bucket/prefix.")],
    building: options.Building,
    how: IndexRun,
    at: options.At = None,
    config: ConfigFile = None,
    trust_config: TrustConfig = False,
    json: options.Json = False,
) -> int:
    """Cluster a library by BHKM, so that it can be searched.

    kt-batch index monet.lib
    """
    key = options.parse_key(at)
    with make_runner(how) as running, ProgressDisplay() as display:
        summary = build_index(library, building, how, running, display, key)
    save_options(library, "index", context.params)
    print_summary(asdict(summary), index_lines(summary), json)
    return 0


def index_lines(summary: BuildSummary) -> list[str]:
    """Return the summary for a person."""
    state = f"built in {summary.seconds:.1f} s" if summary.built else "nothing to do: it was built already"
    return [
        f"{summary.library}: index {summary.index} of {summary.key}, {state}",
        f"  {summary.patches:,} patches, {summary.merged_share:.1%} merged, {summary.leaves} leaves",
        f"  next: kt-batch translate PHOTOS --library {summary.library} --out RUN",
    ]
