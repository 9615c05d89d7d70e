"""Commit the parts of an index, and open a finished one.

`index.json` is the commit and is written last. `store/layout.py` names all files.
"""

from __future__ import annotations

import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Self, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kt_batch.config import LARGEST_SIZE, SMALLEST_SIZE, IndexConfig, Layer, MatchSpace, ScaleKey
from kt_batch.errors import DamagedError, MismatchError, MissingError
from kt_batch.store import layout
from kt_batch.store.documents import MOST_BYTES, read_document
from kt_batch.store.library import Library
from kt_batch.store.locations import Location, read_bounded
from kt_batch.store.names import in_command
from kt_batch.store.parquet import ParquetReader
from kt_batch.store.receipts import Receipt, parse_receipt
from kt_batch.store.units import READERS

INDEX_FORMAT = "kt-batch-index/3"
GROWING_FORMAT = "kt-batch-index/4"  # as 3, of an index that lists its parts or has grown
LEAVES_FORMAT = "kt-batch-index/5"  # as 4, with the statistics of its leaves in a file
FORMATS = (INDEX_FORMAT, GROWING_FORMAT, LEAVES_FORMAT)
READ_FORMATS = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
LARGEST_BLOB = 4 << 30  # bytes of the nodes of a cluster, or of all clusters

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class ShardRef(BaseModel):
    """One shard, by content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    bytes: Count

    @property
    def path(self) -> str:
        """Its name in the library."""
        return layout.shard_path(self.sha256)


class FileRef(ShardRef):
    """A file that is staged, verified and mapped as a shard is, and has a name of its own."""

    name: str

    @property
    def path(self) -> str:
        """Its name in the library."""
        return self.name


class GrownFrom(BaseModel):
    """The generation of a grown index. patches, kept: Its own. shards: How many of the index's first ones are its."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: Hex16
    patches: Count
    kept: Count
    shards: Annotated[int, Field(ge=1, lt=2**63)]


class IndexSummary(BaseModel):
    """The content of `index.json`.

    scale: Of the key whose patches are indexed; absent for the library's base key.
    leaves_sha256, leaves_bytes: Of the statistics of the leaves; absent in formats 3 and 4.
    parts_sha256: Of the list of the parts that a fresh index covers; absent in format 3, and in a grown index.
    generation: What a grown index has grown from; absent for a fresh one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = INDEX_FORMAT
    digest: Hex16
    config: IndexConfig
    snapshot: str
    layer: str
    scale: Annotated[int, Field(ge=SMALLEST_SIZE, le=LARGEST_SIZE)] | None = Field(
        None, exclude_if=lambda scale: scale is None
    )
    channels: Count
    patches: Count
    kept: Count
    leaves: Count
    tree_sha256: Sha256
    tree_bytes: Count
    leaves_sha256: Sha256 | None = Field(None, exclude_if=lambda sha256: sha256 is None)
    leaves_bytes: Count | None = Field(None, exclude_if=lambda count: count is None)
    members_sha256: Sha256
    parts_sha256: Sha256 | None = Field(None, exclude_if=lambda sha256: sha256 is None)
    shards: tuple[ShardRef, ...] = Field(min_length=1)
    generation: GrownFrom | None = Field(None, exclude_if=lambda generation: generation is None)
    numerics: dict[str, str]

    @model_validator(mode="after")
    def _check_key(self) -> Self:
        if self.scale is not None:
            ScaleKey.parse(f"{self.layer}@{self.scale}")
        return self

    @model_validator(mode="after")
    def _check_growth(self) -> Self:
        if self.format == INDEX_FORMAT and (self.parts_sha256 or self.generation):
            raise ValueError(f"an index of format {INDEX_FORMAT} lists no parts and has no generation")
        if self.generation and (self.generation.patches > self.patches or self.generation.kept > self.kept):
            raise ValueError("the generation has more patches than the index")
        if self.generation and self.generation.shards > len(self.shards):
            raise ValueError("the generation has more shards than the index")
        return self

    @model_validator(mode="after")
    def _check_leaves(self) -> Self:
        wanted = self.format == LEAVES_FORMAT
        there = (self.leaves_sha256 is not None, self.leaves_bytes is not None)
        if self.format in FORMATS and there != (wanted, wanted):
            raise ValueError(f"an index has the statistics of its leaves if it is of format {LEAVES_FORMAT}")
        return self

    @property
    def tree(self) -> FileRef:
        """The file of its tree."""
        return FileRef(name=layout.tree_path(self.digest), sha256=self.tree_sha256, bytes=self.tree_bytes)

    @property
    def leaf_statistics(self) -> FileRef | None:
        """The file of the statistics of its leaves; None in formats 3 and 4."""
        if self.leaves_sha256 is None or self.leaves_bytes is None:
            return None
        return FileRef(name=layout.leaves_path(self.digest), sha256=self.leaves_sha256, bytes=self.leaves_bytes)

    def key(self, library: Library) -> ScaleKey:
        """Return the key whose patches are indexed."""
        return library.config.base if self.scale is None else ScaleKey(cast("Layer", self.layer), self.scale)


def index_digest(config: IndexConfig, snapshot: str, key: ScaleKey | None = None, generation: str | None = None) -> str:
    """Return an index's name: 16 hex digits of configuration, snapshot, key and generation.

    The base key and the generation of a fresh index are None, and are left out.
    """
    name = f"{INDEX_FORMAT}:{config.digest()}:{snapshot}" + (f":{key}" if key else "")
    name += f":grown:{generation}" if generation else ""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def put_blob(location: Location, folder: str, data: bytes) -> tuple[str, int]:
    """Store bytes under `folder/<sha256>`, unless they are there.

    Returns:
        SHA-256 and number of bytes.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    location.put_if_absent(layout.blob_path(folder, sha256), data)
    return sha256, len(data)


def put_file(location: Location, folder: str, path: Path) -> tuple[str, int]:
    """Store a local file under `folder/<sha256>`, unless it is there.

    The file must not be written to afterwards.

    Returns:
        SHA-256 and number of bytes.
    """
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size
    location.put_content(layout.blob_path(folder, sha256), path)
    return sha256, size


def read_blob(location: Location, folder: str, sha256: str) -> bytes:
    """Read the bytes of `folder/<sha256>`.

    Raises:
        DamagedError: the bytes have another hash, are too many, or are no file.
    """
    return _read_hashed(location, layout.blob_path(folder, sha256), sha256, "its name says")


def _read_hashed(location: Location, name: str, sha256: str, says: str) -> bytes:
    data = read_bounded(location, name, LARGEST_BLOB)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedError(f"'{name}' at '{location.uri}' does not have the content {says}.")
    return data


def read_index_table(location: Location, name: str, sha256: str, schema: pa.Schema) -> pa.Table:
    """Read a table in the folder of an index, whose SHA-256 `index.json` states.

    Raises:
        MissingError: it is gone.
        DamagedError: it has another hash, or other columns than `schema`.
    """
    data = _read_hashed(location, name, sha256, "that index.json says")
    return ParquetReader(io.BytesIO(data), len(data), f"{location.uri}/{name}").read(schema.names)


def table_bytes(table: pa.Table) -> bytes:
    """Encode a derived table as Parquet bytes that depend on its content alone."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    return bytes(sink.getvalue())


def read_build_receipts(build: Location) -> dict[str, Receipt]:
    """Return the receipts of an unfinished build, by unit id."""

    def read(name: str) -> Receipt:
        return parse_receipt(read_bounded(build, name, MOST_BYTES), f"{build.uri}/{name}")

    with ThreadPoolExecutor(READERS) as pool:
        return {receipt.unit: receipt for receipt in pool.map(read, build.list(layout.RECEIPTS))}


def remove_build(build: Location) -> None:
    """Remove the intermediate files of a finished build.

    The receipts go last: a driver that is still building would otherwise repeat finished work.
    """
    names = build.list()
    receipts = [name for name in names if layout.parse_receipt_path(name) is not None]
    others = [name for name in names if layout.parse_receipt_path(name) is None]
    with ThreadPoolExecutor(READERS) as pool:
        for group in (others, receipts):  # the second begins when the first is gone
            list(pool.map(build.delete, group))


def read_index_summary(location: Location, digest: str) -> IndexSummary | None:
    """Read `index.json` of one index; return None when the index is not finished.

    Raises:
        DamagedError: the file is not of this version's format, or is that of another index.
    """
    name = layout.index_summary_path(digest)
    try:
        summary = IndexSummary.model_validate(read_document(location, name))
    except MissingError:
        return None
    except ValidationError as error:
        raise DamagedError(f"'{name}' at '{location.uri}' is not of format {READ_FORMATS}.") from error
    if summary.digest != digest:
        raise DamagedError(f"'{name}' at '{location.uri}' is that of the index {summary.digest}.")
    return summary


def read_index_summaries(location: Location) -> list[IndexSummary]:
    """Return the summaries of a library's finished indexes, by digest."""
    digests = {digest for name in location.list(layout.INDEX) if (digest := layout.parse_index_summary_path(name))}
    return [summary for digest in sorted(digests) if (summary := read_index_summary(location, digest))]


def write_index_summary(location: Location, summary: IndexSummary) -> None:
    """Commit an index by writing its `index.json`."""
    content: dict[str, Any] = summary.model_dump(mode="json")
    data = (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
    location.put_if_absent(layout.index_summary_path(summary.digest), data)


def find_index(
    library: Library, wanted: str | None, key: ScaleKey | None = None, space: MatchSpace | None = None
) -> IndexSummary:
    """Return the index to search.

    Args:
        library: the opened library.
        wanted: the digest of an index or its beginning; None for the index of the current snapshot. An index of an
            earlier snapshot remains valid when it is named: its patches are still in the library.
        key: the key whose patches it must hold. None is the base key, or any key for an index that is named.
        space: the match space that it must have; None for any.

    Raises:
        MissingError: there is no such index.
        MismatchError: the library has changed since it was indexed, several indexes match, or the index has another
            match space, or the format of another version.
    """
    summaries = read_index_summaries(library.location)
    place = library.location.uri
    if wanted is not None:
        matching = [s for s in summaries if s.digest.startswith(wanted)]
        if len(matching) != 1:
            digests = ", ".join(s.digest for s in summaries) or "none"
            raise MissingError(f"'{place}' has {len(matching)} indexes '{wanted}'; it has {digests}.")
        named = _of_this_format(library, matching)[0]
        if key is not None and named.key(library) != key:
            raise MismatchError(f"The index {named.digest} of '{place}' is of {named.key(library)}, not of {key}.")
        return _in_space(library, [named], space)[0]
    key = key or library.config.base
    at = "" if key == library.config.base else f" at {key}"
    command = _command(library, key, space)
    summaries = [s for s in summaries if s.key(library) == key]
    if not summaries:
        raise MissingError(f"'{place}' has no index{at}; run: {command}")
    current = [s for s in summaries if s.snapshot == library.committed.snapshot]
    if not current:
        raise MismatchError(f"'{place}' has changed since it was indexed{at}; run: {command}")
    current = _best_of_each(_in_space(library, _of_this_format(library, current), space))
    if len(current) > 1:
        raise MismatchError(
            f"'{place}' has {len(current)} indexes of its present state{at}; choose with --index: "
            f"{', '.join(map(_described, current))}."
        )
    return current[0]


def preference(summary: IndexSummary) -> tuple[bool, int, str]:
    """Sort key: of the indexes of one snapshot and configuration, the first is searched.

    A fresh one comes before a grown one, and then the one whose generation covers most patches, ties by digest.
    """
    generation = summary.generation
    return generation is not None, -(generation or summary).patches, summary.digest


def _best_of_each(summaries: list[IndexSummary]) -> list[IndexSummary]:
    """Return the preferred index of each configuration, by digest."""
    best: dict[str, IndexSummary] = {}
    for summary in sorted(summaries, key=preference):
        best.setdefault(summary.config.digest(), summary)
    return sorted(best.values(), key=lambda summary: summary.digest)


def _command(library: Library, key: ScaleKey, space: MatchSpace | None) -> str:
    """Return the command that builds an index at a key, in a match space or in the key's own."""
    at = "" if key == library.config.base else f" --at {key}"
    return f"kt-batch index {in_command(library.location.uri)}{at}" + (f" --match-space {space}" if space else "")


def _described(summary: IndexSummary) -> str:
    """Return an index's digest, its match space, and every further setting that is not at its default."""
    settings = summary.config.model_dump(exclude_defaults=True, exclude={"match_space"})
    others = [f"{name} {value}" for name, value in settings.items()]
    return f"{summary.digest} ({', '.join([summary.config.match_space, *others])})"


def _in_space(library: Library, summaries: list[IndexSummary], space: MatchSpace | None) -> list[IndexSummary]:
    """Return the summaries of a match space. Raises MismatchError when there are none."""
    fit = [summary for summary in summaries if space in (None, summary.config.match_space)]
    if not fit:
        found = summaries[0]
        raise MismatchError(
            f"The index {found.digest} of '{library.location.uri}' is {found.config.match_space}, and this method "
            f"needs a {space} one; run: {_command(library, found.key(library), space)}"
        )
    return fit


def _of_this_format(library: Library, summaries: list[IndexSummary]) -> list[IndexSummary]:
    """Return the summaries whose format this version can search.

    Raises:
        MismatchError: there are none.
    """
    readable = [summary for summary in summaries if summary.format in FORMATS]
    if not readable:
        raise MismatchError(
            f"The index {summaries[0].digest} of '{library.location.uri}' is of format {summaries[0].format}, this "
            f"version reads {READ_FORMATS}; run: {_command(library, summaries[0].key(library), None)}"
        )
    return readable
