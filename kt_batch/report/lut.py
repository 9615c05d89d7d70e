"""Export an edit for other programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kt_batch.errors import UsageError
from kt_batch.kernels.cube import CubeSize, cube
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.retouch.fit import Fit
from kt_batch.report.recorded_edits import read_edit
from kt_batch.report.session import find_output
from kt_batch.store import layout
from kt_batch.store.opening import open_place
from kt_batch.store.paired import PairedLibrary, find_fit, read_fit_arrays
from kt_batch.store.run import Run
from kt_batch.store.targets import Inputs, Target

BASIS = ("1", "r", "g", "b", "r*r", "g*g", "b*b", "r*g", "r*b", "g*b")


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
        fit = Fit.from_arrays(read_fit_arrays(opened.location, find_fit(opened, FitConfig().digest())))
        return opened.location.uri, fit.common_map
    if not isinstance(opened, Run) or not opened.committed.parts(layout.EDITS):
        raise UsageError(f"'{place}' holds no edits; name a run of the method retouch, or a paired library.")
    if output is None:
        raise UsageError(f"'{place}' is a run; name one of its outputs, too.")
    found = find_output(opened, output)
    edit = read_edit(opened, found)
    if edit is None:
        raise UsageError(f"'{found.name}' has no edit.")
    return found.name, np.array(edit.coefficients)
