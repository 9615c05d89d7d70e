"""SQL over a library or a run: DuckDB views of what is committed."""

# ruff: noqa: S608  # `_text` quotes every value that enters a statement

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import pyarrow as pa

from kt_batch.errors import StorageError
from kt_batch.models.layers import PADDED, Geometry
from kt_batch.report.session import Session
from kt_batch.report.sources import level_geometry
from kt_batch.store import layout
from kt_batch.store.committed import Committed
from kt_batch.store.indexes import read_index_summaries
from kt_batch.store.library import Library
from kt_batch.store.locations import Location
from kt_batch.store.opening import Opened, open_place
from kt_batch.store.paired import PairedLibrary
from kt_batch.store.run import Run
from kt_batch.store.schemas import (
    EDITS,
    IMAGES,
    LEVELS,
    MEMBERS,
    PAIRS,
    PLAN,
    PROVENANCE,
    REJECTS,
    SHARES,
    WORKING,
    patches_schema,
)
from kt_batch.text import is_visible

if TYPE_CHECKING:
    import duckdb

# DuckDB must not load or fetch extensions because a name looks like an address.
SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}

_TYPES = {
    "string": "VARCHAR",
    "binary": "BLOB",
    "bool": "BOOLEAN",
    "uint8": "UTINYINT",
    "uint16": "USMALLINT",
    "uint32": "UINTEGER",
    "int32": "INTEGER",
    "halffloat": "FLOAT",
    "float": "FLOAT",
}

# Per output, from the view `provenance`: NULL for provenance per source.
_SHARED = """\
SELECT DISTINCT output, NULL::BIGINT AS patches, NULL::DOUBLE AS ncc_mean, NULL::DOUBLE AS certified_share
  FROM provenance"""

Naming = Callable[[Location, str], str]  # returns the name by which DuckDB opens a file


def connect(place: str) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB with views over a library or a run.

    A library has `images`, `patches`, `rejects` (those that no later attempt has superseded), `members` (merged patch
    -> kept patch, of each index of the current snapshot) and `image_uris` (image id -> every URI and name planned for
    it).

    A run has `provenance` (per patch or per source, as its method makes it), `rejects` and `outputs`; `patches`,
    `ncc_mean` and `certified_share` of an output are NULL for provenance per source, and of the coarse level for a
    method with levels, whose `provenance` and `sources` have a column `level`. A run with provenance per patch
    and a library at hand also has `sources`: provenance with each source's URIs, licence, and box, both in the working
    image (x0 ..) and outward in the file's own EXIF-oriented pixels (file_x0 ..).
    A run that records edits also has `edits`.

    Ids are BLOBs, as in the tables: `hex(image_id)` prints one, `unhex('...')` reads one. Parts are read in place;
    close the connection when done.

    Raises:
        MissingError: `place` is neither a library nor a run.
        StorageError: a part is missing or not readable as Parquet.
    """
    import duckdb  # 12 MB that the other commands need not hold

    opened = open_place(place)
    connection = duckdb.connect(config=SETTINGS)
    mounted: dict[str, str] = {}

    def naming(location: Location, name: str) -> str:
        path = location.local_path(name)
        if path is not None:
            return _no_pattern(str(path))
        if location.uri not in mounted:
            from kt_batch.report.mount import LocationFiles  # imports fsspec, which only object storage needs

            mounted[location.uri] = f"ktbatch{len(mounted)}"
            connection.register_filesystem(LocationFiles(mounted[location.uri], location))
        return f"{mounted[location.uri]}://{name}"

    try:
        for statement in _statements(opened, naming):
            connection.execute(statement)
    except duckdb.Error as error:
        connection.close()
        reason = str(error).partition("\n\nLINE")[0].strip().rpartition("\n")[2]
        raise StorageError(f"The tables of '{place}' cannot be read: {reason}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def sql(place: str) -> str:
    """Return the same views as statements for a DuckDB shell.

    The shell needs none of our code; for s3:// it needs its own httpfs.
    """
    return "\n\n".join(_statements(open_place(place), _plain_name)) + "\n"


def _plain_name(location: Location, name: str) -> str:
    path = location.local_path(name)
    return _no_pattern(f"{location.uri}/{name}" if path is None else str(path))


def _no_pattern(path: str) -> str:
    """Escape a path so that DuckDB does not take it for a pattern."""
    return re.sub(r"[*?\[]", r"[\g<0>]", path)


def _statements(place: Opened, naming: Naming) -> list[str]:
    if isinstance(place, PairedLibrary):
        views = _paired_views(place, naming)
    else:
        views = _library_views(place, naming) if isinstance(place, Library) else _run_views(place, naming)
    return [f"CREATE OR REPLACE VIEW {name} AS\n{query};" for name, query in views.items()]


def _paired_views(library: PairedLibrary, naming: Naming) -> dict[str, str]:
    return {
        "pairs": _parts(library.committed, layout.PAIRS, PAIRS, naming),
        "rejects": _rejects(library.committed, naming),
    }


# ---- libraries -------------------------------------------------------------------------------------------------------


def _library_views(library: Library, naming: Naming) -> dict[str, str]:
    channels = library.channels if library.committed.parts(layout.PATCHES) else 1
    views = {
        "images": _images(library, naming),
        "patches": _parts(library.committed, layout.PATCHES, patches_schema(channels), naming),
        "rejects": _rejects(library.committed, naming),
        "members": _members(library, naming),
        "image_uris": f"SELECT DISTINCT image_id, uri, name FROM ({_plan(library.committed, naming)})",
    }
    for key in library.config.keys[1:]:
        width = library.channels_at(key) if library.parts_at(key) else 1
        parts = [part.name for part in library.parts_at(key).values()]
        views[f"patches_{key.layer}_{key.scale}"] = _files(library.location, parts, patches_schema(width), naming)
    if library.config.keep_images:
        views["working"] = _parts(library.committed, layout.WORKING, WORKING, naming)
    return views


def _images(library: Library, naming: Naming) -> str:
    return _parts(library.committed, layout.IMAGES, IMAGES, naming)


def _members(library: Library, naming: Naming) -> str:
    """Select the members of all indexes of the current snapshot."""
    current = [
        summary.digest
        for summary in read_index_summaries(library.location)
        if summary.snapshot == library.committed.snapshot
    ]
    return "\nUNION ALL\n".join(
        f"SELECT {_text(digest)} AS index_digest, * FROM "
        f"({_files(library.location, [layout.members_path(digest)], MEMBERS, naming)})"
        for digest in current
    ) or _files(library.location, [], pa.schema([("index_digest", pa.string()), *MEMBERS]), naming)


# ---- runs ------------------------------------------------------------------------------------------------------------


def _run_views(run: Run, naming: Naming) -> dict[str, str]:
    session = Session(run)
    per_source = session.provenance_kind == "sources"
    matches = LEVELS if session.levels else PROVENANCE
    views = {
        "provenance": _parts(run.committed, layout.PROVENANCE, SHARES if per_source else matches, naming),
        "rejects": _rejects(run.committed, naming),
        "outputs": _outputs(run, _SHARED if per_source else _matched(session.levels), naming),
    }
    if run.committed.parts(layout.EDITS):
        views["edits"] = _parts(run.committed, layout.EDITS, EDITS, naming)
    if not per_source and session.libraries:  # only boxes and URIs need the library
        views["sources"] = _sources(session, session.libraries, naming)
    return views


def _matched(levels: Sequence[str]) -> str:
    """Select, per output, sums over best matches in the view `provenance`; of the coarse level where it has levels."""
    coarse = f" AND level = {_text(levels[0])}" if levels else ""
    return f"""\
SELECT output, count(*) AS patches, avg(ncc::DOUBLE) AS ncc_mean, avg(certified::INTEGER) AS certified_share
  FROM provenance WHERE rank = 0{coarse} GROUP BY output"""


def _outputs(run: Run, per_output: str, naming: Naming) -> str:
    """Select each output's input, and what `per_output` says of its provenance."""
    units = ", ".join(_text(unit) for unit in sorted(run.committed.receipts)) or "NULL"
    without = [
        f"({_text(unit.id)}, {_text(item.uri)})"
        for unit, receipt in run.committed.attempts
        for item, output in zip(unit.items, receipt.outputs if receipt else (), strict=False)
        if output is None
    ]
    others = f" AND (lower(hex(unit)), uri) NOT IN ({', '.join(without)})" if without else ""
    return f"""\
SELECT output, uri, name, image_id, patches, ncc_mean, certified_share
FROM (
  {per_output}
)
JOIN (
  SELECT {_output_name(run)} AS output, uri, name, image_id
  FROM ({_plan(run.committed, naming)}) WHERE lower(hex(unit)) IN ({units}){others}
) USING (output)
ORDER BY output"""


def _output_name(run: Run) -> str:
    """Express `Item.output_path` in SQL.

    The rare paths that are not simply the name with a suffix are listed one by one.
    """
    suffix = run.header.format
    paths = {
        (item.name, item.image_id, item.output_path(suffix))
        for unit in run.committed.ledger.units()
        for item in unit.items
    }
    cases = "".join(
        f" WHEN name = {_text(name)} AND lower(hex(image_id)) = {_text(image)} THEN {_text(path)}"
        for name, image, path in sorted(paths)
        if path != layout.output_path(f"{name}.{suffix}")
    )
    plain = f"{_text(layout.output_path(''))} || name || '.{suffix}'"
    return f"CASE{cases} ELSE {plain} END" if cases else plain


def _sources(session: Session, libraries: Sequence[Library], naming: Naming) -> str:
    of_levels = [f"{_boxed(level_geometry(level))}\n  WHERE level = {_text(level)}" for level in session.levels]
    boxed = "\n  UNION ALL\n".join(of_levels or [_boxed(session.cells)])
    level = "level, " if session.levels else ""
    sizes = _working_sizes(session.source_scale)
    images = _first_of_each([_images(library, naming) for library in libraries])
    plans = "\nUNION ALL\n".join(_plan(library.committed, naming) for library in libraries)
    return f"""\
WITH image AS (
  SELECT image_id AS source_image_id, {sizes}, original_width, original_height, license, attribution
  FROM ({images})
), uris AS (
  SELECT image_id AS source_image_id, list(DISTINCT uri ORDER BY uri) AS uris
  FROM ({plans}) GROUP BY image_id
), boxed AS (
{boxed}
)
SELECT output, {level}row, col, rank, weight, ncc, certified, source_image_id, source_row, source_col, uris,
  x0, y0, x1, y1,
  {_first_pixel("x0", "width")} AS file_x0, {_first_pixel("y0", "height")} AS file_y0,
  {_past_pixel("x1", "width")} AS file_x1, {_past_pixel("y1", "height")} AS file_y1,
  license, attribution
FROM boxed"""


def _first_of_each(images: Sequence[str]) -> str:
    """Select each image once, from the first of several selections that has it."""
    if len(images) == 1:
        return images[0]
    numbered = "\nUNION ALL\n".join(f"SELECT *, {number} AS number FROM ({rows})" for number, rows in enumerate(images))
    first = "row_number() OVER (PARTITION BY image_id ORDER BY number) = 1"
    return f"SELECT * EXCLUDE (number) FROM ({numbered}) QUALIFY {first}"


def _boxed(cells: Geometry) -> str:
    return f"""\
  SELECT * EXCLUDE (library), {_interval("x", "source_col", "width", cells)},
    {_interval("y", "source_row", "height", cells)}
  FROM provenance JOIN image USING (source_image_id) JOIN uris USING (source_image_id)"""


def _working_sizes(scale: int | None) -> str:
    """Select the size of the working images at a scale, as `store.images.rasters.fit` computes it."""
    if scale is None:
        return "width, height"

    def side(one: str, other: str, longer: str) -> str:
        shorter = f"greatest(1, (2 * {one}::BIGINT * {scale} + {other}) // (2 * {other}::BIGINT))"
        return f"CASE WHEN greatest({one}, {other}) <= {scale} THEN {one} WHEN {longer} THEN {scale} ELSE {shorter} END"

    width, height = "original_width", "original_height"
    return (
        f"({side(width, height, f'{width} >= {height}')})::INTEGER AS width, "
        f"({side(height, width, f'{height} > {width}')})::INTEGER AS height"
    )


def _interval(axis: str, cell: str, length: str, cells: Geometry) -> str:
    """Express `models.layers.boxes` in SQL, with the numbers of this layer."""
    low, high = cells.interval(0, 2)
    start, end = f"{cells.stride} * {cell}::INTEGER", f"{length}::INTEGER"
    padded = f"({end} + {PADDED - 1}) // {PADDED} * {PADDED}"
    mirrored = f"2 * {end} - 1 - least({start} + ({high}), {padded})"
    return f"greatest(least({start} + ({low}), {mirrored}), 0) AS {axis}0, least({start} + ({high}), {end}) AS {axis}1"


def _first_pixel(edge: str, length: str) -> str:
    """Express the lower edge of `SourceImage.in_file` in SQL: rounded down."""
    return f"({edge} * original_{length}::BIGINT // {length})::INTEGER"


def _past_pixel(edge: str, length: str) -> str:
    """Express the upper edge of `SourceImage.in_file` in SQL: rounded up."""
    return f"(({edge} * original_{length}::BIGINT + {length} - 1) // {length})::INTEGER"


# ---- files -----------------------------------------------------------------------------------------------------------


def _parts(committed: Committed, kind: str, schema: pa.Schema, naming: Naming) -> str:
    return _files(committed.location, [part.name for part in committed.parts(kind).values()], schema, naming)


def _rejects(committed: Committed, naming: Naming) -> str:
    """Select the rejects that no later attempt has superseded."""
    whole, filtered = [], []
    for unit, part in committed.parts(layout.REJECTS).items():
        superseded = committed.rejects.superseded.get(unit, frozenset())
        if not superseded:
            whole.append(part.name)
        elif len(superseded) < part.rows:
            uris = ", ".join(_text(uri) for uri in sorted(superseded))
            one = _files(committed.location, [part.name], REJECTS, naming)
            filtered.append(f"SELECT * FROM ({one}) WHERE uri NOT IN ({uris})")
    return "\nUNION ALL\n".join([_files(committed.location, whole, REJECTS, naming), *filtered])


def _plan(committed: Committed, naming: Naming) -> str:
    names = [name for name in committed.location.list(layout.PLAN) if layout.is_plan(name)]
    return _files(committed.location, names, PLAN, naming)


def _files(location: Location, names: Sequence[str], schema: pa.Schema, naming: Naming) -> str:
    """Select from files of one schema.

    Without files, the query has the same columns and no rows.
    """
    if not names:
        return f"SELECT {_columns(schema)} WHERE false"
    files = ",\n  ".join(_text(naming(location, name)) for name in names)
    return f"SELECT * FROM read_parquet([\n  {files}\n], hive_partitioning = false)"


def _columns(fields: Iterable[pa.Field]) -> str:
    return ", ".join(f'NULL::{_duckdb_type(field.type)} AS "{field.name}"' for field in fields)


def _duckdb_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_duckdb_type(kind.value_type)}[]"
    if pa.types.is_dictionary(kind):
        return _duckdb_type(kind.value_type)
    return "BLOB" if pa.types.is_fixed_size_binary(kind) else _TYPES[str(kind)]


def _text(value: str) -> str:
    """Return a string as an SQL expression of visible characters; the others are written by number."""
    parts = []
    for visible, run in groupby(value, is_visible):
        text = "".join(run)
        parts += ["'" + text.replace("'", "''") + "'"] if visible else [f"chr({ord(each)})" for each in text]
    return f"({' || '.join(parts)})" if len(parts) > 1 else "".join(parts) or "''"
