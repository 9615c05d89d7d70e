"""Filters of the images of a library: by tag, licence, image id, or an SQL condition over the table `images`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kt_batch.errors import UsageError
from kt_batch.store import layout
from kt_batch.store.library import Library
from kt_batch.store.schemas import IMAGES
from kt_batch.store.tables import read_table

COLUMNS = [name for name in IMAGES.names if name != "preview"]
SHOWN = 10  # tags or licences in a message

# A condition reads the table that is given to it and nothing else, and writes nothing.
SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "threads": 1,  # else this thread may wait for another one, and does not see Ctrl-C
    "lock_configuration": "true",
}


@dataclass(frozen=True)
class ImageFilter:
    """The images that a caller allows: those that fit each kind of condition that is given.

    tags: Of which an image has one or more. licenses: One of which is the image's. images: Image ids. where: An SQL
    condition over the columns of `images` but `preview`.
    """

    tags: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    where: str | None = None

    def __bool__(self) -> bool:
        return bool(self.tags or self.licenses or self.images or self.where is not None)


EVERY_IMAGE = ImageFilter()


def allowed_images(libraries: Sequence[Library], chosen: ImageFilter) -> tuple[bytes, ...]:
    """Return the image ids of each library that a filter allows, ascending, 8 bytes each.

    Raises:
        UsageError: It allows no image, the condition is wrong, or an image id is none or in no library.
    """
    for image in chosen.images:
        if not re.fullmatch("[0-9a-f]{16}", image):
            raise UsageError(f"--only-image {image} is no image id; one has 16 hex digits, as in explain --json.")
    tables = [_images(library) for library in libraries]
    found = tuple(_allowed(table, chosen) for table in tables)
    every = pa.concat_tables(tables)
    known = set(every["image_id"].to_pylist())
    if missing := [image for image in chosen.images if bytes.fromhex(image) not in known]:
        raise UsageError(f"The image {missing[0]} is in none of the libraries: {_places(libraries)}.")
    if not any(found):
        raise UsageError(
            f"The filter leaves none of the {len(known)} images of {_places(libraries)}; tags there are "
            f"{_some(pc.list_flatten(every['tags']))}, licences {_some(every['license'])}."
        )
    return found


def _images(library: Library) -> pa.Table:
    parts = library.committed.parts(layout.IMAGES).values()
    schema = pa.schema([IMAGES.field(name) for name in COLUMNS])
    return pa.concat_tables([schema.empty_table(), *(read_table(library.location, part, COLUMNS) for part in parts)])


def _allowed(table: pa.Table, chosen: ImageFilter) -> bytes:
    fits = np.ones(table.num_rows, bool)
    if chosen.tags:
        fits &= _has_tag(table["tags"].combine_chunks(), chosen.tags)
    if chosen.licenses:
        fits &= np.isin(np.array(table["license"].to_pylist(), object), chosen.licenses)
    if chosen.images:
        wanted = {bytes.fromhex(image) for image in chosen.images}
        fits &= np.array([image in wanted for image in table["image_id"].to_pylist()], bool)
    if chosen.where is not None:
        fits &= _where(table, chosen.where)
    images = table["image_id"].filter(pa.array(fits)).to_pylist()
    return b"".join(sorted(set(images)))


def _has_tag(tags: pa.ListArray, wanted: Sequence[str]) -> NDArray[np.bool_]:
    """Tell of each list whether it holds one of the wanted tags."""
    fits = np.zeros(len(tags), bool)
    one = pc.is_in(pc.list_flatten(tags), pa.array(wanted, pa.string()))
    fits[pc.list_parent_indices(tags).filter(one).to_numpy()] = True
    return fits


def _where(table: pa.Table, condition: str) -> NDArray[np.bool_]:
    """Tell of each row whether it fits an SQL condition, which sees the table as `images` and no file.

    Raises:
        UsageError: DuckDB does not understand it.
        KeyboardInterrupt: Ctrl-C was pressed, of which DuckDB makes an error of its own.
    """
    import duckdb  # not where libraries are only searched

    numbered = table.append_column("row_number", pa.array(np.arange(table.num_rows)))
    fits = np.zeros(table.num_rows, bool)
    try:
        with duckdb.connect(config=SETTINGS) as connection:
            connection.register("images", numbered)
            found = connection.table("images").filter(condition).project("row_number").fetchall()
    except (duckdb.Error, RuntimeError) as error:
        reason = str(error).partition("\n")[0].strip().rstrip(".")
        if type(error) is RuntimeError and "interrupted" in reason:
            raise KeyboardInterrupt from error
        raise UsageError(
            f"--where {condition!r} cannot be evaluated over the columns {', '.join(COLUMNS)}: {reason}."
        ) from error
    fits[[number for (number,) in found]] = True
    return fits


def _places(libraries: Sequence[Library]) -> str:
    return ", ".join(f"'{library.location.uri}'" for library in libraries)


def _some(values: pa.ChunkedArray) -> str:
    texts = sorted(text for text in values.unique().to_pylist() if text)
    return ", ".join(texts[:SHOWN]) + (f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else "") or "none"
