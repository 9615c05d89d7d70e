"""A run's library, and the library's images by id."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kt_batch.config import LARGEST_SIZE, Layer
from kt_batch.errors import DamagedError, MismatchError, MissingError, UsageError
from kt_batch.kernels.sizes import fit
from kt_batch.models.layers import VGG19_LAYERS, Geometry, boxes, geometry, layers_up_to
from kt_batch.redaction import redacted
from kt_batch.store import layout
from kt_batch.store.documents import MOST_BYTES, read_document
from kt_batch.store.indexes import read_index_summaries, read_index_summary
from kt_batch.store.library import Library
from kt_batch.store.locations import Location
from kt_batch.store.opening import open_library
from kt_batch.store.places import origin_of
from kt_batch.store.run import Run
from kt_batch.store.schemas import IMAGE_ID
from kt_batch.store.tables import read_schema, read_table

PLAIN_COLUMNS = (
    "image_id", "original_width", "original_height", "width", "height", "license", "attribution", "tags",
)  # fmt: skip


@dataclass(frozen=True)
class Box:
    """Pixels [x0, x1) x [y0, y1)."""

    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True)
class SourceImage:
    """An image of a library.

    width, height: of the working image. original_width, original_height: of the file, EXIF-oriented. preview: a JPEG;
    empty unless it was requested.
    """

    image_id: str
    uris: tuple[str, ...]
    original_width: int
    original_height: int
    width: int
    height: int
    license: str
    attribution: str
    preview: bytes = b""
    tags: Sequence[str] = ()

    def in_file(self, box: Box) -> Box:
        """Map a box of the working image to the file's own pixels.

        It is mapped outward, to all pixels that it touches.
        """
        x0, x1 = _outward(box.x0, box.x1, self.width, self.original_width)
        y0, y1 = _outward(box.y0, box.y1, self.height, self.original_height)
        return Box(x0, y0, x1, y1)


def _outward(low: int, high: int, working: int, original: int) -> tuple[int, int]:
    return low * original // working, -(-high * original // working)


def further_places(run: Run) -> tuple[str, ...]:
    """Return the libraries beside the first one, as the run names them.

    Raises:
        DamagedError: `run.json` is not the summary of a run.
    """
    if not run.header.further_libraries:
        return ()
    try:
        named = read_document(run.location, layout.RUN_SUMMARY, _most_summary_bytes(run)).get("libraries")
    except MissingError:
        return tuple(_libraries_in_provenance(run)[1:])
    count = len(run.header.further_libraries) + 1
    if not isinstance(named, list) or len(named) != count or not all(isinstance(each, str) for each in named):
        raise DamagedError(f"'{layout.RUN_SUMMARY}' at '{run.location.uri}' does not name {count} libraries.")
    return tuple(named[1:])


def further_libraries(run: Run, places: Sequence[str] = ()) -> list[Library]:
    """Open the libraries that a run searched beside the first one, in their order.

    They are where the run says, or at the further `places` when all libraries have moved.

    Raises:
        UsageError: there are other places than libraries, or `library_of` raises it.
        MissingError, MismatchError: as `library_of`.
        DamagedError: the run does not name its libraries.
    """
    digests = [each.index_digest for each in run.header.further_libraries]
    if places and len(places) != 1 + len(digests):
        raise UsageError(
            f"'{run.location.uri}' was made from {1 + len(digests)} libraries, and --library names {len(places)}; name "
            "all of them in the order of the run, or none."
        )
    further = places[1:] or [trusted(run, place) for place in further_places(run)]
    if len(further) != len(digests):
        raise DamagedError(f"'{run.location.uri}' does not name {1 + len(digests)} libraries.")
    return [_open_holding(run, place, digest) for place, digest in zip(further, digests, strict=True)]


def named_files(run: Run, key: str) -> tuple[str, ...]:
    """Return the files or the place that `run.json` names under a key; none where there is no `run.json` yet.

    Raises:
        DamagedError: `run.json` is not the summary of a run.
    """
    try:
        named = read_document(run.location, layout.RUN_SUMMARY, _most_summary_bytes(run)).get(key, [])
    except MissingError:
        return ()
    found = [named] if isinstance(named, str) else named
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise DamagedError(f"'{layout.RUN_SUMMARY}' at '{run.location.uri}' does not name files as `{key}`.")
    return tuple(found)


def named_library(run: Run) -> str | None:
    """Return the library as the run names it, of several the first one; None when it names none.

    The name is in `run.json` and in provenance per patch. An unfinished run has the second alone.

    Raises:
        DamagedError: `run.json` is not the summary of a run.
    """
    try:
        summary = read_document(run.location, layout.RUN_SUMMARY, _most_summary_bytes(run))
    except MissingError:
        return _library_in_provenance(run)
    name = summary.get("library", 0)
    if name is not None and not isinstance(name, str):
        raise DamagedError(f"'{layout.RUN_SUMMARY}' at '{run.location.uri}' is not the summary of a run.")
    return name


def _most_summary_bytes(run: Run) -> int:
    """Return a bound for the size of `run.json`, which lists every output: six bytes for each character, and more."""
    items = (item for unit in run.committed.ledger.units() for item in unit.items)
    return MOST_BYTES + sum(6 * (len(item.uri) + len(item.name) + len(item.output)) + 1024 for item in items)


def _library_in_provenance(run: Run) -> str | None:
    return next(iter(_libraries_in_provenance(run)), None)


def _libraries_in_provenance(run: Run) -> list[str]:
    """Return the libraries that the first part of provenance names, in their order, those without a match included."""
    for part in run.committed.parts(layout.PROVENANCE).values():
        if "library" not in read_schema(run.location, part).names:
            return []
        chunks = read_table(run.location, part, ["library"])["library"].chunks
        return list(dict.fromkeys(str(name) for chunk in chunks for name in chunk.dictionary.to_pylist()))
    return []


def library_of(run: Run, library: str | None = None) -> Library:
    """Open the library that a run used.

    It is where the run says, or at `library` when it has moved. A library that has grown since is still the run's,
    because ids follow from content; it must hold the index that the run names.

    Raises:
        MissingError: the run names no library, or there is none.
        MismatchError: another library is there.
        UsageError: the run names one in a store that the caller did not name.
    """
    return _open_holding(run, library or trusted_library(run), run.header.index_digest)


def _open_holding(run: Run, place: str, wanted: str | None) -> Library:
    """Open a library that a run used, which must hold the index `wanted`."""
    try:
        opened = open_library(place)
    except MissingError as error:
        raise MissingError(f"The library of '{run.location.uri}' is not at '{place}'; say where it is now.") from error
    if wanted is not None and read_index_summary(opened.location, wanted) is None:
        there = ", ".join(summary.digest for summary in read_index_summaries(opened.location)) or "none"
        raise MismatchError(
            f"'{place}' does not have the index {wanted} of '{run.location.uri}', only {there}: it is another library, "
            "or gc --old-indexes has removed the index."
        )
    return opened


def trusted_library(run: Run) -> str:
    """Return the library as the run names it, where it may be read without asking.

    Raises:
        MissingError: the run names no library.
        UsageError: the run names one in a store that the caller did not name.
    """
    place = named_library(run)
    if place is None:
        raise MissingError(f"'{run.location.uri}' names no library.")
    return trusted(run, place)


def trusted(run: Run, place: str, what: str = "the library", option: str = "--library") -> str:
    """Return a place that a run names. Raises UsageError when it may not be read without asking."""
    if not follows(run.location, place):
        raise UsageError(
            f"'{run.location.uri}' names {what} '{redacted(place)}', in a store that you did not name; nothing "
            f"was sent there; give {option} if you trust it."
        )
    return place


def follows(location: Location, uri: str) -> bool:
    """Tell whether a place that the files of a library or a run name may be read without asking.

    They may come from a stranger. A file of this machine may be read. A store learns from a request who asks, so it
    must be the bucket that the caller has named.
    """
    return origin_of(uri) in (None, origin_of(location.uri))


def layer_geometry(layer: Layer) -> Geometry:
    """Return what a cell of `layer` sees.

    It is the same for every encoder, as all have the shape of VGG-19.
    """
    return geometry(layers_up_to(VGG19_LAYERS, layer))


def level_geometry(level: str) -> Geometry:
    """Return what a cell of a level sees: a layer, or a layer at a working size, `relu3_1@512`."""
    return geometry(layers_up_to(VGG19_LAYERS, level.partition("@")[0]))


def cells_of(run: Run) -> Geometry:
    """Return what a cell of the run's layer sees.

    Raises:
        MismatchError: the run's method has no encoder.
    """
    if run.header.encoder is None:
        raise MismatchError(
            f"The method '{run.header.method}' of '{run.location.uri}' has no encoder, and so no cells."
        )
    return layer_geometry(run.header.encoder.layer)


def patch_box(row: int, col: int, width: int, height: int, cells: Geometry) -> Box:
    """Return the pixels that a patch sees of a working image.

    row, col: top-left cell of the patch. width, height: pixels of the working image.

    Raises:
        DamagedError: there is no such patch.
    """
    (x0, x1), (y0, y1) = boxes(np.array([col]), cells, width), boxes(np.array([row]), cells, height)
    if x0[0] >= x1[0] or y0[0] >= y1[0]:
        raise DamagedError(f"Provenance names the patch at cell {row}, {col} of an image of {width} x {height} pixels.")
    return Box(int(x0[0]), int(y0[0]), int(x1[0]), int(y1[0]))


def source_images(
    library: Library, ids: Collection[str], *, previews: bool = False, scale: int | None = None
) -> dict[str, SourceImage]:
    """Return a library's images with these ids (16 hex digits), by id.

    Unknown ids are left out. Only the parts that hold the images are read.

    Args:
        library: The library.
        ids: The images.
        previews: Whether they are to have previews.
        scale: Long side of the working images whose sizes are wanted; None for those of the library's base key.
    """
    wanted = set(ids)
    uris: dict[str, set[str]] = {image_id: set() for image_id in wanted}
    holding: set[str] = set()  # all units of an image: the first one may have rejected it
    for unit in library.committed.ledger.units():
        for item in unit.items:
            if item.image_id in wanted:
                uris[item.image_id].add(item.uri)
                holding.add(unit.id)
    columns = [*PLAIN_COLUMNS, "preview"] if previews else PLAIN_COLUMNS
    raw = pa.array([bytes.fromhex(image_id) for image_id in sorted(wanted)], IMAGE_ID)
    images = {}
    for unit_id, part in library.committed.parts(layout.IMAGES).items():
        if unit_id not in holding:
            continue
        table = read_table(library.location, part, columns)
        for row in table.filter(pc.is_in(table["image_id"], raw)).to_pylist():
            image_id = row.pop("image_id").hex()
            _check_sizes(row, f"{library.location.uri}/{part.name}")
            if scale is not None:
                row["width"], row["height"] = fit(row["original_width"], row["original_height"], scale)
            images[image_id] = SourceImage(image_id=image_id, uris=tuple(sorted(uris[image_id])), **row)
    return images


def _check_sizes(row: Mapping[str, Any], where: str) -> None:
    """Raise DamagedError when an image has sizes that no working image, or no file, has."""
    for name in ("width", "height", "original_width", "original_height"):
        most = 2**31 - 1 if name.startswith("original") else LARGEST_SIZE
        if not 1 <= row[name] <= most:
            raise DamagedError(f"{where} holds an image with {name} {row[name]}; allowed is 1 to {most}")
