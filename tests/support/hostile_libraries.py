"""A small library and a run of it, and many ways in which a stranger may have damaged or inflated their files.

Each case changes one file, of the library or of the run. `CASES` maps the name of a case to (place, glob, change).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Change = Callable[[Path], None]
Case = tuple[str, str, Change]  # "library" or "run", a pattern of the file, what is done to it

BILLION = 10**9


def replaced(data: bytes) -> Change:
    def change(path: Path) -> None:
        path.unlink()  # a file may be linked elsewhere
        path.write_bytes(data)

    return change


def cut(keep: int) -> Change:
    def change(path: Path) -> None:
        data = path.read_bytes()[:keep]
        replaced(data)(path)

    return change


def edited(**fields: Any) -> Change:
    def change(path: Path) -> None:
        content = json.loads(path.read_bytes()) | fields
        replaced(json.dumps(content).encode())(path)

    return change


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def hole(path: Path) -> None:
    path.unlink()
    with path.open("wb") as file:
        file.truncate(8 << 30)


def as_parquet(path: Path, table: pa.Table, metadata: dict[str, str] | None = None, **options: Any) -> None:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", **options) as writer:
        writer.write_table(table)
        if metadata:
            writer.add_key_value_metadata(metadata)
    replaced(bytes(sink.getvalue()))(path)


def with_column(name: str, make: Callable[[int], pa.Array]) -> Change:
    """Replace a column of a table by another one of as many rows, whatever its type; keep the file's metadata."""

    def change(path: Path) -> None:
        file = pq.ParquetFile(path)
        table, kept = file.read(), file.metadata.metadata or {}
        at = table.schema.names.index(name)
        metadata = {key.decode(): value.decode() for key, value in kept.items() if key != b"ARROW:schema"}
        as_parquet(path, table.set_column(at, name, make(table.num_rows)), metadata)

    return change


def inflated(name: str, length: int, count: int) -> Change:
    """Repeat the rows of a table `count` times, with one text of `length` characters in a column."""

    def change(path: Path) -> None:
        file = pq.ParquetFile(path)
        table, kept = file.read(), file.metadata.metadata or {}
        metadata = {key.decode(): value.decode() for key, value in kept.items() if key != b"ARROW:schema"}
        columns = []
        for field, column in zip(table.schema, table.columns, strict=True):
            value = pa.array(["x" * length]) if field.name == name else column.combine_chunks().slice(0, 1)
            indices = pa.array(np.zeros(count, np.int32))
            plain = value.cast(field.type.value_type) if pa.types.is_dictionary(field.type) else value
            columns.append(pa.DictionaryArray.from_arrays(indices, plain) if not pa.types.is_list(field.type) else None)
        kept_columns = [column for column in columns if column is not None]
        names = [field.name for field, column in zip(table.schema, columns, strict=True) if column is not None]
        as_parquet(path, pa.table(kept_columns, names=names), metadata, use_dictionary=True)

    return change


def texts(value: bytes) -> Callable[[int], pa.Array]:
    """Return a maker of a column of text with given bytes, valid UTF-8 or not."""

    def make(count: int) -> pa.Array:
        data = pa.py_buffer(value * count)
        offsets = pa.py_buffer(np.arange(count + 1, dtype=np.int32) * len(value))
        return pa.StringArray.from_buffers(count, offsets, data)

    return make


def nulls(kind: pa.DataType) -> Callable[[int], pa.Array]:
    return lambda count: pa.nulls(count, kind)


def numbers(value: int, kind: pa.DataType) -> Callable[[int], pa.Array]:
    return lambda count: pa.array([value] * count, kind)


DEEP = b"[" * 200_000 + b"]" * 200_000
RECEIPT, PLAN, SUMMARY = "receipts/*.json", "plan/000000.parquet", "run.json"

ANY_FILE: dict[str, Change] = {
    "empty": replaced(b""),
    "text": replaced(b"no such thing"),
    "zeros": replaced(bytes(1000)),
    "cut_in_half": lambda path: cut(path.stat().st_size // 2)(path),
    "cut_at_the_end": lambda path: cut(path.stat().st_size - 1)(path),
    "pipe": pipe,
    "device": device,
    "folder": folder,
    "hole": hole,
}
DOCUMENTS: dict[str, Change] = {
    "deep": replaced(DEEP),
    "deep_in_an_object": replaced(b'{"unit": ' + DEEP + b"}"),
    "huge_number": replaced(b'{"unit": ' + b"9" * 10_000 + b"}"),
    "not_a_number": replaced(b'{"unit": NaN, "images": Infinity}'),
    "bad_text": replaced(b'{"unit": "\xff\xfe"}'),
    "null": replaced(b"null"),
    "list": replaced(b"[]"),
    "number": replaced(b"7"),
    "lone_surrogate": replaced(b'{"unit": "\\ud800"}'),
    "null_byte": replaced(b'{"unit": "\\u0000"}'),
}
RECEIPTS: dict[str, Change] = {
    "of_another_unit": edited(unit="0" * 16),
    "of_another_format": edited(format="kt-batch-receipt/99"),
    "of_another_configuration": edited(config_digest="0" * 16),
    "negative_counts": edited(images=-1),
    "unknown_field": edited(extra=1),
    "tables_are_text": edited(tables="images"),
    "table_elsewhere": edited(tables=[{"kind": "../..", "rows": 1, "bytes": 1, "sha256": "0" * 64}]),
    "absent_table": edited(tables=[{"kind": "images", "rows": 1, "bytes": 1, "sha256": "0" * 64}]),
    "absurd_rows": edited(tables=[{"kind": "images", "rows": BILLION, "bytes": BILLION, "sha256": "0" * 64}]),
    "too_few_outputs": edited(outputs=[]),
}
PLANS: dict[str, Change] = {
    "bad_text_in_names": with_column("name", texts(b"\xff\xfe")),
    "bad_text_in_uris": with_column("uri", texts(b"\xc3\x28")),
    "no_names": with_column("name", nulls(pa.string())),
    "no_uris": with_column("uri", nulls(pa.string())),
    "names_are_numbers": with_column("name", numbers(7, pa.int32())),
    "ids_are_text": with_column("image_id", texts(b"12345678")),
    "wide_ids": with_column("image_id", lambda count: pa.array([b"1" * 64] * count, pa.binary(64))),
    "names_leave_the_run": with_column("name", texts(b"../../x.jpg")),
    "names_are_absolute": with_column("name", texts(b"/etc/passwd")),
    "long_names": inflated("name", 1 << 20, 5000),
    "long_uris": inflated("uri", 1 << 20, 5000),
    "many_rows": inflated("uri", 8, 30_000_000),
}
PROVENANCE: dict[str, Change] = {
    "text_for_numbers": with_column("row", texts(b"7")),
    "no_rows": with_column("row", nulls(pa.uint16())),
    "rows_are_wide": with_column("row", numbers(7, pa.int64())),
    "long_outputs": inflated("output", 1 << 20, 5000),
    "long_libraries": inflated("library", 1 << 20, 5000),
    "scores_are_text": with_column("ncc", texts(b"one")),
    "far_cells": with_column("row", numbers(65535, pa.uint16())),
}
SUMMARIES: dict[str, Change] = {
    "library_is_a_list": edited(library=[1]),
    "library_is_deep": edited(library={"x": {"y": {}}}),
    "library_is_absent": edited(library="/nowhere/at/all"),
    "library_in_a_store": edited(library="s3://somebody-else/library"),
    "library_with_a_password": edited(library="s3://key:secret@bucket/library"),
    "library_is_a_device": edited(library="/dev/zero"),
}


def _cases() -> dict[str, Case]:
    groups = (
        ("library", RECEIPT, "receipt", {**ANY_FILE, **DOCUMENTS, **RECEIPTS}),
        ("library", PLAN, "plan", {**ANY_FILE, **PLANS}),
        ("library", "images/*.parquet", "images", ANY_FILE),
        ("library", "patches/*.parquet", "patches", ANY_FILE),
        ("run", RECEIPT, "run_receipt", {**ANY_FILE, **DOCUMENTS, **RECEIPTS}),
        ("run", PLAN, "run_plan", {**ANY_FILE, **PLANS}),
        ("run", "provenance/*.parquet", "provenance", {**ANY_FILE, **PROVENANCE}),
        ("run", SUMMARY, "summary", {**ANY_FILE, **DOCUMENTS, **SUMMARIES}),
        ("run", "images/*.png", "picture", ANY_FILE),
    )
    return {
        f"{title}-{name}": (place, pattern, change)
        for place, pattern, title, changes in groups
        for name, change in changes.items()
    }


CASES = _cases()
