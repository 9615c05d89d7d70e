"""The command `lut`: export an edit for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from kt_batch.cli import options
from kt_batch.cli.arguments import expand
from kt_batch.cli.output import print_summary
from kt_batch.errors import UsageError
from kt_batch.kernels.cube import CubeSize, cube
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.pipelines.pairs.fit import load_fit
from kt_batch.report.recorded_edits import read_edit
from kt_batch.report.session import find_output
from kt_batch.store import layout
from kt_batch.store.opening import open_place
from kt_batch.store.paired import PairedLibrary, find_fit
from kt_batch.store.run import Run
from kt_batch.store.targets import Inputs, Target

BASIS = ("1", "r", "g", "b", "r*r", "g*g", "b*b", "r*g", "r*b", "g*b")


SIZES: dict[str, CubeSize] = {"17": 17, "33": 33, "65": 65}


def add_lut(app: typer.Typer) -> None:
    """Give an app the command."""
    app.command("lut")(expand(lut_command))


def lut_command(
    *,
    place: options.Place,
    output: Annotated[str | None, typer.Argument(help="An output of a run, by its name or its photograph's.")] = None,
    to: Annotated[Path, typer.Option("--to", help="The file: .cube for a lookup table, .json for the map itself.")],
    size: Annotated[Literal["17", "33", "65"], typer.Option("--size", help="Points of the table to a side.")] = "33",
    force: options.Force = False,
    json: options.Json = False,
) -> int:
    """Export an edit for other programs: that of one output of a run, or the average hand of a paired library.

    kt-batch lut run photo.jpg --to photo.cube
    """
    written = write_lut(place, output, to, SIZES[size], force=force)
    print_summary(written, [f"{to}: the edit of {written['of']}"], json)
    return 0


def write_lut(place: str, output: str | None, to: Path, size: CubeSize, *, force: bool = False) -> dict[str, object]:
    """Write an edit to a file: a lookup table (.cube), or the colour map itself (.json).

    Args:
        place: A run, or a paired library: its average hand.
        output: An output of the run, as `find_output` takes it.
        to: The file.
        size: Points of the table to a side.
        force: Replace a file that is there.

    Returns:
        What was written, as JSON-able values.

    Raises:
        UsageError: The suffix is another one, the place has no such edit, or the file exists.
    """
    if to.suffix.lower() not in (".cube", ".json"):
        raise UsageError(f"--to {to} has the suffix '{to.suffix}'; allowed are .cube and .json.")
    target = Target("--to", to, Inputs(places=(place,)), force)
    target.check()
    name, coefficients = _edit_at(place, output)
    if to.suffix.lower() == ".cube":
        target.write(cube(coefficients, size).encode())
    else:
        content = {"of": name, "basis": BASIS, "map": coefficients.tolist()}
        target.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return {"of": name, "file": str(to), "size": size if to.suffix.lower() == ".cube" else None}


def _edit_at(place: str, output: str | None) -> tuple[str, NDArray[np.float64]]:
    opened = open_place(place)
    if isinstance(opened, PairedLibrary):
        if output is not None:
            raise UsageError(f"'{place}' is a paired library, whose edit is one for all; leave out '{output}'.")
        digest = find_fit(opened, FitConfig().model_dump(mode="json")).digest
        return opened.location.uri, load_fit(opened.location.uri, digest).common_map
    if not isinstance(opened, Run) or not opened.committed.parts(layout.EDITS):
        raise UsageError(f"'{place}' holds no edits; name a run of the method retouch, or a paired library.")
    if output is None:
        raise UsageError(f"'{place}' is a run; name one of its outputs, too.")
    found = find_output(opened, output)
    edit = read_edit(opened, found)
    if edit is None:
        raise UsageError(f"'{found.name}' has no edit.")
    return found.name, np.array(edit.coefficients)
