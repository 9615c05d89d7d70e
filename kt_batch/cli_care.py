"""The commands that look after what lies on disk: `verify`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from kt_batch import options
from kt_batch.console import ProgressDisplay
from kt_batch.pipelines.verify import verify
from kt_batch.start import print_summary

Place = Annotated[str, typer.Argument(help="A library or a run: a directory or s3://bucket/prefix.")]


def verify_command(place: Place, json: options.Json = False) -> int:
    """Read back everything a library or a run says it holds; exits with 1 where something is missing or damaged.

    The digest is the same for the same inputs and options, whatever workers, unit size or interruptions there were.

    kt-batch verify run
    """
    with ProgressDisplay() as display:
        found = verify(place, display)
    state = "all there" if not found.faults else f"{len(found.faults)} faults"
    pending = f", {found.pending} units not done yet" if found.pending else ""
    lines = [f"{found.place}: {found.kind}, {found.files} files, {found.bytes:,} bytes: {state}{pending}"]
    lines += [f"  {fault}" for fault in found.faults]
    lines += [f"  digest {found.digest}"] if found.digest else []
    print_summary(asdict(found), lines, json)
    return 1 if found.faults else 0
