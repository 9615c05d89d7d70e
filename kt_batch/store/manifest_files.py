"""Read manifests: text with one place per line, CSV, JSON lines or Parquet, from a file, a store or standard input."""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

import pyarrow as pa

from kt_batch.errors import DamagedError, RejectError, StorageError, UsageError
from kt_batch.redaction import redacted
from kt_batch.store.inputs import input_size, read_input
from kt_batch.store.manifests import STANDARD_INPUT, Manifest, PairList, Row
from kt_batch.store.names import FILE_SCHEME, path_of_file_uri
from kt_batch.store.parquet import ParquetReader
from kt_batch.store.passed_over import NO_PLACE, Kinds
from kt_batch.store.places import absolute_path, clean_place, scheme_of

URI = "uri"  # the column of places
BEFORE, AFTER = "before", "after"  # the columns of places of a list of pairs
TAGS = "tags"  # a column whose values are tags as they are; those of any other column are `<column>=<value>`

MAX_BYTES = 2**30  # of a manifest
MAX_LINE = 2**20  # characters
MAX_TAGS = 100  # of a row
MAX_TAG = 1000  # characters

_FORMATS = {".csv": "CSV", ".tsv": "CSV", ".jsonl": "JSON lines", ".ndjson": "JSON lines", ".parquet": "Parquet"}
Record = Mapping[str, Any]  # column -> value of one row


def read_manifests(places: Sequence[str]) -> tuple[Manifest, ...]:
    """Read manifests, each named once. Raises as `read_manifest` does."""
    return tuple(map(read_manifest, dict.fromkeys(places)))


def read_manifest(place: str) -> Manifest:
    """Read a list of inputs: `-` is standard input, with one place per line.

    Relative places in it are relative to its folder, those of standard input to the working directory.

    Raises:
        UsageError: it is no manifest, has no column of places, or names nothing.
        StorageError: it cannot be read.
    """
    source = _open(place, (URI,))
    rows = [Row(places[0], tags) for places, tags in source.rows()]
    if not rows:
        raise UsageError(f"{source.named} names no image; {source.allowed}")
    return Manifest(source.place, source.folder, rows, source.passed_over, tuple(source.ignored))


def read_pair_lists(places: Sequence[str]) -> tuple[PairList, ...]:
    """Read lists of pairs, each named once. Raises as `read_pair_list` does."""
    return tuple(map(read_pair_list, dict.fromkeys(places)))


def read_pair_list(place: str) -> PairList:
    """Read a list of pairs: a table with the columns `before` and `after`, whose other columns are tags.

    Raises:
        UsageError: it is no table with these columns, or names no pair.
        StorageError: it cannot be read.
    """
    source = _open(place, (BEFORE, AFTER))
    if source.kind == "text":
        raise UsageError(f"{source.named} is no table; {source.allowed}")
    rows = list(source.rows())
    if not rows:
        raise UsageError(f"{source.named} names no pair; {source.allowed}")
    before = [Row(places[0], tags) for places, tags in rows]
    after = [Row(places[1]) for places, _ in rows]
    return PairList(
        Manifest(source.place, source.folder, before, source.passed_over, tuple(source.ignored)),
        Manifest(source.place, source.folder, after),
    )


@dataclass
class _Source:
    """A list as bytes.

    place: As it was named, absolute. named: What messages call it. columns: Those of places. ignored: Columns that
    cannot be tags; without: Rows without all of their places. Both are known when the rows were read.
    """

    place: str
    named: str
    folder: str
    data: bytes
    kind: str
    columns: tuple[str, ...]
    ignored: dict[str, None] = field(default_factory=dict)
    without: int = 0

    @property
    def allowed(self) -> str:
        """Return what a list may be, for messages."""
        text = "lines of UTF-8 text, " if self.columns == (URI,) else ""
        names = " and ".join(f"'{column}'" for column in self.columns)
        return f"allowed are {text}.csv, .jsonl and .parquet with {_counted(self.columns)} {names}"

    @property
    def passed_over(self) -> Kinds:
        """Return how many rows were passed over."""
        return {NO_PLACE: self.without} if self.without else {}

    def rows(self) -> Iterator[tuple[list[str], tuple[str, ...]]]:
        """Yield the places of each row, absolute, and its tags."""
        for number, record in _records(self):
            texts = [record.get(column) for column in self.columns]
            if any(text is None or text == "" for text in texts):
                self.without += 1
                continue
            where = f"row {number} of {self.named}"
            for text in texts:
                if not isinstance(text, str):
                    raise UsageError(f"{where} has the place {text!r}; allowed is text")
            places = [_absolute(str(text), self.folder, where) for text in texts]
            yield places, _tags(record, where, self.columns, self.ignored)


def _open(place: str, columns: tuple[str, ...]) -> _Source:
    if place == STANDARD_INPUT:
        named, folder, data = "standard input", absolute_path("."), sys.stdin.buffer.read(MAX_BYTES + 1)
    else:
        place = clean_place(place)
        place = place if scheme_of(place) else absolute_path(place)
        named, folder, data = f"the manifest '{redacted(place)}'", _folder(place), _read(place)
    if len(data) > MAX_BYTES:
        raise UsageError(f"{named} has more than {MAX_BYTES} bytes; divide it")
    kind = _FORMATS.get(Path(place.partition("?")[0]).suffix.lower(), "text")
    return _Source(place, named, folder, data, kind, columns)


def _counted(columns: Sequence[str]) -> str:
    return "a column" if len(columns) == 1 else "the columns"


def _read(place: str) -> bytes:
    size = input_size(place)
    if size is not None and size > MAX_BYTES:
        raise UsageError(f"the manifest '{redacted(place)}' has {size} bytes; allowed are {MAX_BYTES}")
    try:
        return read_input(place)
    except RejectError as error:
        raise StorageError(f"the manifest cannot be used: {error.message}") from error


def _folder(place: str) -> str:
    """Return the folder of a manifest, as an absolute path or a URI."""
    if place.startswith(FILE_SCHEME):
        place = str(path_of_file_uri(place) or place)
    return place.partition("?")[0].rpartition("/")[0] if scheme_of(place) else str(Path(place).parent)


def _absolute(text: str, folder: str, where: str) -> str:
    """Return a place of a manifest, absolute."""
    try:
        place = clean_place(text)
        if not scheme_of(place) and not place.startswith("/"):
            scheme, slashes, base = folder.rpartition("://")
            place = f"{folder}/{place}" if not slashes else f"{scheme}://{_joined(base, place)}"
        place.encode() if scheme_of(place) else os.fsencode(place)
    except UnicodeEncodeError as error:
        raise UsageError(f"{where} has the place {text!r}, which is not UTF-8") from error
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    return place


def _joined(base: str, path: str) -> str:
    """Join a bucket or a host, a folder and a relative path; `..` never leaves the bucket."""
    store, _, folder = base.partition("/")
    return store + posixpath.normpath(f"/{folder}/{path}".replace("//", "/"))


# ---- tags ------------------------------------------------------------------------------------------------------------


def _tags(record: Record, where: str, places: Sequence[str], ignored: dict[str, None]) -> tuple[str, ...]:
    """Return the tags of a row; note the columns whose values are none."""
    tags: set[str] = set()
    for column, value in record.items():
        if column in places:
            continue
        for each in value if isinstance(value, list) else [value]:
            text = _text(each)
            if text is None:
                ignored[column] = None
            elif text:
                tags.add(text if column == TAGS else f"{column}={text}")
    longest = max(map(len, tags), default=0)
    if len(tags) > MAX_TAGS or longest > MAX_TAG:
        raise UsageError(
            f"{where} has {len(tags)} tags, the longest of {longest} characters; allowed are {MAX_TAGS} tags of "
            f"{MAX_TAG} characters"
        )
    if not "".join(tags).isprintable() and any("\ud800" <= letter <= "\udfff" for tag in tags for letter in tag):
        raise UsageError(f"{where} has a tag that is not UTF-8")
    return tuple(sorted(tags))


def _text(value: object) -> str | None:
    """Return a value as text, empty for none; None for a value that is no tag."""
    if value is None or (isinstance(value, float) and isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return None if isinstance(value, bytes | dict | list | tuple) else str(value)


# ---- formats ---------------------------------------------------------------------------------------------------------


def _records(source: _Source) -> Iterator[tuple[int, Record]]:
    """Yield the rows with their numbers, from 1 on."""
    data, named = source.data, source.named
    if source.kind == "Parquet":
        return enumerate(_parquet_records(source), 1)
    if b"\0" in data:
        raise UsageError(f"{named} is no list of places: it holds NUL bytes; {source.allowed}")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if source.kind == "text":
        return _lines(data, named)
    try:
        text = io.StringIO(data.decode("utf-8"), newline="")
    except UnicodeDecodeError as error:
        raise UsageError(f"{named} cannot be read as {source.kind}: byte {error.start} is not UTF-8") from error
    if source.kind == "CSV":
        return _csv_records(text, "\t" if source.place.lower().endswith(".tsv") else ",", source)
    return _json_records(text, source)


def _lines(data: bytes, named: str) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(io.BytesIO(data), 1):
        if len(line) > MAX_LINE:
            raise UsageError(f"line {number} of {named} has {len(line)} bytes; allowed are {MAX_LINE}")
        text = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
        if text.strip():
            yield number, {URI: text}


def _csv_records(text: io.StringIO, delimiter: str, source: _Source) -> Iterator[tuple[int, Record]]:
    named = source.named
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        _check_columns(header, source)
        for number, values in enumerate(rows, 1):
            if not values:
                continue
            if len(values) != len(header):
                raise UsageError(f"row {number} of {named} has {len(values)} values; its header has {len(header)}")
            yield number, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise UsageError(f"{named} cannot be read as CSV: {error} in line {rows.line_num}") from error


def _json_records(text: Iterable[str], source: _Source) -> Iterator[tuple[int, Record]]:
    named, missing = source.named, set(source.columns)
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line) if len(line) <= MAX_LINE else None
        except (ValueError, RecursionError) as error:
            reason = str(error).partition(":")[0]
            raise UsageError(f"{named} cannot be read as JSON lines: {reason} in line {number}") from error
        if not isinstance(record, dict):
            raise UsageError(f"line {number} of {named} is no JSON object of at most {MAX_LINE} characters")
        missing -= record.keys()
        yield number, record
    if missing:
        raise UsageError(f"{named} has no column '{min(missing)}'; {source.allowed}")


def _parquet_records(source: _Source) -> Iterator[Record]:
    named = source.named
    file = ParquetReader(io.BytesIO(source.data), len(source.data), named, ours=False)
    _check_columns(file.schema.names, source)
    for column in source.columns:
        if not _is_text(file.schema.field(column).type):
            kind = file.schema.field(column).type
            raise UsageError(f"{named} has the column '{column}' of type {kind}; allowed is text")
    of_pandas = [name for name in file.schema.names if name.startswith("__index_level_")]
    columns = [field.name for field in file.schema if _is_plain(field.type) and field.name not in of_pandas]
    source.ignored.update(dict.fromkeys(name for name in file.schema.names if name not in columns))
    for group in range(len(file.rows)):
        table = file.read(columns, [group], nullable=columns)
        try:
            for batch in table.to_batches(max_chunksize=4096):
                yield from batch.to_pylist()
        except (pa.ArrowException, ValueError, OverflowError) as error:  # a date beyond the calendar, text not UTF-8
            raise DamagedError(f"{named} is not readable as Parquet: {type(error).__name__}") from error


def _check_columns(names: Sequence[str], source: _Source) -> None:
    for column in source.columns:
        if list(names).count(column) != 1:
            shown = ", ".join(map(repr, names[:10])) or "none"
            raise UsageError(f"{source.named} needs one column '{column}'; its columns are {shown}")
    if len(set(names)) < len(names):
        raise UsageError(
            f"{source.named} has two columns of one name; its columns are {', '.join(map(repr, names[:10]))}"
        )


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


def _is_plain(kind: pa.DataType) -> bool:
    """Tell whether the values of a column are tags: no bytes and no structures; a list of plain values is."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return not pa.types.is_nested(kind.value_type) and _is_plain(kind.value_type)
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    number = pa.types.is_integer(value) or pa.types.is_floating(value) or pa.types.is_boolean(value)
    return bool(_is_text(value) or number or pa.types.is_temporal(value) or pa.types.is_decimal(value))
