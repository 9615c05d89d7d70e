"""One opened run for everything that reports on it.

Each file of the run and of its library is read once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kt_batch.config import LARGEST_SIZE
from kt_batch.errors import DamagedError, MismatchError, StorageError, UsageError
from kt_batch.kernels.sizes import fit, padded
from kt_batch.models.layers import Geometry
from kt_batch.report.contributions import (
    Contribution,
    Explanation,
    LevelSources,
    SourceShare,
    covering,
    patch_contributions,
    source_shares,
)
from kt_batch.report.pictures import ncc_cells
from kt_batch.report.recorded_edits import read_edit
from kt_batch.report.sources import (
    SourceImage,
    cells_of,
    further_libraries,
    level_geometry,
    library_of,
    named_library,
    source_images,
)
from kt_batch.store import layout
from kt_batch.store.images.headers import MAX_PIXELS, declared_size
from kt_batch.store.indexes import read_index_summary
from kt_batch.store.input_names import input_name
from kt_batch.store.library import Library
from kt_batch.store.opening import open_run
from kt_batch.store.output_shards import sample_key
from kt_batch.store.run import Output, Run, open_output, provenance_of
from kt_batch.store.schemas import ProvenanceKind, provenance_kind
from kt_batch.store.tables import read_schema

SHOWN = 5  # candidates in a message
KEPT_TABLES = 16  # provenance of outputs in memory


class Session:
    """An opened run, its library, and what was read of both."""

    def __init__(self, run: Run, library: str | Sequence[str] | None = None) -> None:
        """Take an opened run; `library` is where its library is now, or its libraries are, if they have moved."""
        self.run = run
        self._places = (library,) if isinstance(library, str) else tuple(library or ())
        self._tables: OrderedDict[tuple[str, str | None], pa.Table] = OrderedDict()
        self._sizes: dict[str, tuple[int, int]] = {}
        self._images: dict[tuple[str, bool], SourceImage | None] = {}

    @classmethod
    def open(cls, place: str, library: str | Sequence[str] | None = None) -> Session:
        """Open the run at a path or URI.

        Raises:
            MissingError: nothing was ever planned there.
            UsageError: it is a library.
        """
        return cls(open_run(place), library)

    # ---- the library -------------------------------------------------------------------------------------------------

    @cached_property
    def named_library(self) -> str | None:
        """Return the library as the run names it; None where it names none."""
        return named_library(self.run)

    @cached_property
    def required_library(self) -> Library:
        """Return the run's library, of several the first one.

        Raises:
            MissingError: the run names none, or it is not there.
            MismatchError: another library is there.
            UsageError: the run names one in a store that the caller did not name.
        """
        return library_of(self.run, self._places[0] if self._places else None)

    @cached_property
    def library(self) -> Library | None:
        """Return the run's library; None where the run names none, or it is not at hand or must be asked for.

        Raises:
            MissingError, MismatchError: the library is not at the place that the caller named.
        """
        if self._places:
            return self.required_library
        try:
            return self.required_library if self.named_library else None
        except (StorageError, MismatchError, UsageError):
            return None

    @cached_property
    def required_libraries(self) -> list[Library]:
        """Return all libraries of the run, the first one first; raise as `required_library` does.

        Raises:
            UsageError: also where the caller names some of several libraries.
        """
        return [self.required_library, *further_libraries(self.run, self._places)]

    @cached_property
    def libraries(self) -> list[Library]:
        """Return the run's libraries; none where not all are at hand, or one must be asked for."""
        if self.library is None:
            return []
        try:
            return self.required_libraries
        except (StorageError, MismatchError, UsageError):
            return []

    @cached_property
    def source_scale(self) -> int | None:
        """Return the scale of the patches that the run searched; None for that of the library's base key."""
        digest = self.run.header.index_digest
        if self.library is None or digest is None:
            return None
        summary = read_index_summary(self.library.location, digest)
        return summary.scale if summary else None

    def images(self, ids: Collection[str], *, previews: bool = False) -> dict[str, SourceImage]:
        """Return images of the libraries with these ids, by id; one in several as the first of them describes it.

        Those not at hand are left out.
        """
        missing = [image_id for image_id in ids if (image_id, previews) not in self._images]
        for library in self.libraries if missing else ():
            fetched = source_images(library, missing, previews=previews, scale=self.source_scale) if missing else {}
            self._images.update({(image_id, previews): fetched.get(image_id) for image_id in missing})
            missing = [image_id for image_id in missing if image_id not in fetched]
        known = ((image_id, self._images.get((image_id, previews))) for image_id in ids)
        return {image_id: image for image_id, image in known if image is not None}

    # ---- provenance --------------------------------------------------------------------------------------------------

    @cached_property
    def provenance_kind(self) -> ProvenanceKind:
        """Return the kind of the run's provenance. Before the first result, a method with an index matches patches."""
        part = next(iter(self.run.committed.parts(layout.PROVENANCE).values()), None)
        if part is not None:
            return provenance_kind(read_schema(self.run.location, part))
        return "patches" if self.run.header.index_digest else "sources"

    @cached_property
    def levels(self) -> tuple[str, ...]:
        """Return the levels of the run's outputs, from coarse to fine; none where its method has no levels.

        Raises:
            DamagedError: parts have different ones.
        """
        parts = self.run.committed.parts(layout.PROVENANCE).values()
        found = {part.levels for part in parts}
        if len(found) > 1:
            raise DamagedError(f"'{self.run.location.uri}' has parts of provenance with different levels.")
        return next(iter(found), ())

    def provenance(self, output: Output, level: str | None = None) -> pa.Table:
        """Return the provenance of one output at a level; without `level`, at the coarse one."""
        level = level or next(iter(self.levels), None)
        key = (output.name, level)
        table = self._tables.pop(key, None)
        if table is None:
            table = provenance_of(self.run, output, level)
        self._tables[key] = table
        if len(self._tables) > KEPT_TABLES:
            self._tables.popitem(last=False)
        return table

    @cached_property
    def cells(self) -> Geometry:
        """Return what a cell of the run's layer sees; of a method with levels, of the coarse one.

        Raises:
            MismatchError: the run's method has no encoder.
        """
        return level_geometry(self.levels[0]) if self.levels else cells_of(self.run)

    # ---- outputs -----------------------------------------------------------------------------------------------------

    def image_size(self, output: Output) -> tuple[int, int]:
        """Return the width and the height of an output.

        Raises:
            DamagedError: the file is not an image.
        """
        if output.name not in self._sizes:
            self._sizes[output.name] = _image_size(self.run, output)
        return self._sizes[output.name]

    def working_size(self, output: Output) -> tuple[int, int]:
        """Return the width and the height of an output's working image; an edit's output may be larger."""
        encoder = self.run.header.encoder
        width, height = self.image_size(output)
        return fit(width, height, encoder.size) if encoder else (width, height)

    def cell_shape(self, output: Output) -> tuple[int, int]:
        """Return the rows and the columns of an output's cells; the last ones may lie in its padding."""
        width, height = self.working_size(output)
        stride = self.cells.stride
        return padded(height, stride) // stride, padded(width, stride) // stride

    def ncc_cells(self, output: Output) -> NDArray[np.float64]:
        """Return the NCC of the best matches of an output on its cells, (h, w) float64.

        Raises:
            DamagedError: there is no match, or one lies outside the output.
        """
        table, shape = self.provenance(output), self.cell_shape(output)
        with self.naming(output):
            return ncc_cells(table, shape)

    @contextmanager
    def naming(self, output: Output) -> Iterator[None]:
        """Name the file of an output's provenance in errors about its content."""
        try:
            yield
        except DamagedError as error:
            raise DamagedError(f"'{output.part.name}' at '{self.run.location.uri}' cannot be shown: {error}") from error

    def explain(self, output: str, x: int, y: int) -> Explanation:
        """Explain pixel (x, y) of an output.

        `find_output` says how an output may be named.

        Raises:
            UsageError: there is no such output or pixel.
            MissingError: patches come from a library that is not there.
            MismatchError: another library is there.
        """
        named = find_output(self.run, output)
        width, height = self.image_size(named)
        if not (0 <= x < width and 0 <= y < height):
            raise UsageError(
                f"'{named.name}' has {width} x {height} pixels, so there is none at {x},{y}; "
                f"allowed is 0,0 to {width - 1},{height - 1}."
            )
        table = self.provenance(named)
        kind = provenance_kind(table)
        patches = kind == "patches"
        row, col = self._cell(named, x, y, self.cells) if patches else (None, None)
        levels = tuple(self._at_level(named, x, y, level) for level in self.levels)
        edit = None if patches else read_edit(self.run, named)
        painted = self.working_size(named)
        named_elsewhere = edit.library if edit else self.named_library
        return Explanation(
            run=self.run.location.uri,
            method=self.run.header.method,
            output=named.name,
            input=named.uri,
            library=self.required_libraries[0].location.uri if patches else named_elsewhere,
            x=x,
            y=y,
            width=width,
            height=height,
            kind=kind,
            cell_row=row,
            cell_col=col,
            contributions=levels[0].contributions if levels else self._matches(named, x, y) if patches else (),
            sources=() if patches else self._shares(table),
            edit=edit,
            levels=levels,
            enlarged_from=painted if levels and painted != (width, height) else None,
        )

    def _cell(self, output: Output, x: int, y: int, cells: Geometry) -> tuple[int, int]:
        """Return the row and the column of the cell under a pixel of an output."""
        (width, height), (across, down) = self.image_size(output), self.working_size(output)
        return y * down // height // cells.stride, x * across // width // cells.stride

    def _matches(self, output: Output, x: int, y: int, level: str | None = None) -> tuple[Contribution, ...]:
        cells = level_geometry(level) if level else self.cells
        rows = covering(self.provenance(output, level), *self._cell(output, x, y, cells))
        images = self.images({entry["source_image_id"].hex() for entry in rows})
        library = "', '".join(library.location.uri for library in self.required_libraries)
        with self.naming(output):
            return tuple(patch_contributions(rows, images, cells, library))

    def _at_level(self, output: Output, x: int, y: int, level: str) -> LevelSources:
        cell = self._cell(output, x, y, level_geometry(level))
        return LevelSources(level, *cell, self._matches(output, x, y, level))

    def _shares(self, provenance: pa.Table) -> tuple[SourceShare, ...]:
        images = self.images({image_id.hex() for image_id in provenance["source_image_id"].to_pylist()})
        return source_shares(provenance, images)


def find_output(run: Run, wanted: str) -> Output:
    """Return the output that `wanted` names.

    That is the output's path with or without its directory, the input's name, its key in a shard, or a suffix of one of
    the paths or names that only one output has.

    Raises:
        UsageError: `wanted` names no output or several; the message lists candidates.
    """
    outputs = run.outputs
    for name in (wanted, layout.output_path(wanted)):
        if name in outputs:
            return outputs[name]
    names = (wanted, input_name(wanted))  # as it is printed, and as its file is called
    named = [output for output in outputs.values() if output.input_name in names or _is_sample(output, wanted)]
    if len(named) == 1:
        return named[0]
    rejected = next((each for each in run.committed.rejects.listed() if each.name in names or each.uri == wanted), None)
    if rejected is not None:
        raise UsageError(
            f"There is no picture of '{rejected.name}' in '{run.location.uri}': it was rejected ({rejected.reason}, "
            f"at the stage {rejected.stage}): {rejected.message}"
        )
    ends = (wanted, f"{wanted}.{run.header.format}")
    candidates = [name for name in outputs if wanted and name.endswith(ends)]
    if len(candidates) == 1:
        return outputs[candidates[0]]
    count = f"{len(candidates)} outputs end in" if candidates else "no output is called"
    shown = candidates or [name for name in outputs if wanted.lower() in name.lower()] or list(outputs)
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    raise UsageError(
        f"In '{run.location.uri}' {count} {wanted!r}; there are: {', '.join(shown[:SHOWN]) or 'none at all'}{more}."
    )


def _is_sample(output: Output, wanted: str) -> bool:
    """Tell whether `wanted` is the key of an output in a shard, with or without what follows the key."""
    return output.shard is not None and sample_key(output.name) == wanted.partition(".")[0]


def _image_size(run: Run, output: Output) -> tuple[int, int]:
    """Read width and height from the header of an output's file."""
    try:
        with open_output(run, output) as file:
            width, height = declared_size(file)
    except (OSError, ValueError) as error:
        raise DamagedError(f"'{output.name}' at '{run.location.uri}' is not an image.") from error
    edits = run.header.index_digest is None or run.header.full_size
    if edits and 1 <= width * height <= MAX_PIXELS:
        return width, height  # perhaps a photograph at its full size
    if not (1 <= width <= LARGEST_SIZE and 1 <= height <= LARGEST_SIZE):
        raise DamagedError(
            f"'{output.name}' at '{run.location.uri}' claims {width} x {height} pixels; allowed are at most "
            f"{LARGEST_SIZE} a side."
        )
    return width, height
