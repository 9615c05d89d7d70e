"""A small library with a run of it, and ways to damage them as a stranger would: consistent with themselves, and false.

Each damage changes a copy. A part that is replaced gets its name, size and hash in its receipt, so that no hash betrays
it. `Case.file` is what the sentence must name.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kt_batch.config import RunOptions
from kt_batch.store.schemas import PLAN
from tests.support.tiny import draw, draw_all, extracted, indexed, translate_request, translated

MANY = 3_000_000  # rows that a few kilobytes stand for
Damage = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A damage, the place that it is done to, the file that errors must name, and the commands that must fail."""

    name: str
    place: str
    damage: Damage
    file: str
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """A library and a run of it, below `root`."""

    root: Path

    @property
    def library(self) -> Path:
        return self.root / "library"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def photos(self) -> Path:
        return self.root / "photos"

    @property
    def paintings(self) -> Path:
        return self.root / "paintings"

    def copied(self, target: Path) -> Pair:
        """Copy both; the copy of the run names the copy of the library."""
        for name in ("library", "run"):
            shutil.copytree(self.root / name, target / name)
        for name in ("photos", "paintings"):
            (target / name).symlink_to(self.root / name)
        summary = target / "run/run.json"
        summary.write_text(json.dumps({**json.loads(summary.read_text()), "library": str(target / "library")}))
        return Pair(target)


def make_pair(root: Path) -> Pair:
    """Make a library of two paintings and a reject, its index, and a run of one photograph and a reject."""
    draw_all(root / "paintings", [1, 2])
    (root / "paintings/3.png").write_bytes(b"no image")
    draw(root / "photos/11.png", 11)
    (root / "photos/12.png").write_bytes(b"no image")
    extracted([root / "paintings"], root / "library", options=RunOptions(threads=1, unit_size=3))
    index = indexed(root / "library").index
    translated([root / "photos"], translate_request(root / "library", root / "run", index))
    return Pair(root)


# ---- JSON ------------------------------------------------------------------------------------------------------------


def first(root: Path, pattern: str) -> Path:
    """Return the first file of a place that matches a pattern."""
    return min(root.glob(pattern))


def receipt_of(root: Path, kind: str) -> Path:
    """Return the receipt that names a part of this kind."""
    for path in sorted((root / "receipts").iterdir()):
        if any(table["kind"] == kind for table in json.loads(path.read_text())["tables"]):
            return path
    raise LookupError(kind)


def put(pattern: str, data: bytes) -> Damage:
    """Replace a file by bytes."""
    return lambda root: void(first(root, pattern).write_bytes(data))


def receipt_with(**fields: Any) -> Damage:
    """Change fields of a receipt."""

    def damage(root: Path) -> None:
        path = first(root, "receipts/*.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return damage


def receipt_text(old: str, new: str) -> Damage:
    """Replace text of a receipt, as no JSON writer would."""

    def damage(root: Path) -> None:
        path = first(root, "receipts/*.json")
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return damage


def void(_: object) -> None:
    """Drop a result."""


def summary_with(library: Any) -> Damage:
    """Change the library that a run names."""

    def damage(root: Path) -> None:
        path = root / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "library": library}))

    return damage


# ---- parts -----------------------------------------------------------------------------------------------------------


def part_of(root: Path, kind: str) -> Path:
    """Return the first part of a kind."""
    return first(root, f"{kind}/part-*.parquet")


def replace_part(root: Path, kind: str, data: bytes, rows: int | None = None) -> None:
    """Put another part in place of one, and name it in the receipt."""
    old = part_of(root, kind)
    receipt = next(path for path in sorted((root / "receipts").iterdir()) if old.name.split("-")[1] == path.stem)
    content = json.loads(receipt.read_text())
    sha256 = hashlib.sha256(data).hexdigest()
    for table in content["tables"]:
        if table["kind"] == kind:
            table.update({"sha256": sha256, "bytes": len(data)}, **({} if rows is None else {"rows": rows}))
    receipt.write_text(json.dumps(content))
    old.unlink()
    (root / kind / f"part-{receipt.stem}-{sha256[:16]}.parquet").write_bytes(data)


def encoded(table: pa.Table, **options: Any) -> bytes:
    """Encode a table as Parquet."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **{"compression": "zstd", "compression_level": 3, **options})
    return sink.getvalue()


def part_with(kind: str, change: Callable[[pa.Table], pa.Table], **options: Any) -> Damage:
    """Change the table of a part."""

    def damage(root: Path) -> None:
        table = change(pq.read_table(part_of(root, kind)))
        replace_part(root, kind, encoded(table, **options), table.num_rows)

    return damage


def part_bytes(kind: str, change: Callable[[bytes], bytes]) -> Damage:
    """Change the bytes of a part."""
    return lambda root: replace_part(root, kind, change(part_of(root, kind).read_bytes()))


def column(name: str, make: Callable[[pa.Table], Any]) -> Callable[[pa.Table], pa.Table]:
    """Return a change of one column."""
    return lambda table: table.set_column(table.schema.get_field_index(name), name, make(table))


def without_groups(root: Path) -> None:
    """Replace provenance by a file without row groups."""
    sink = io.BytesIO()
    pq.ParquetWriter(sink, pq.read_schema(part_of(root, "provenance"))).close()
    replace_part(root, "provenance", sink.getvalue(), 0)


def cast(name: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    """Return a change of the type of one column."""
    return column(name, lambda table: table[name].cast(kind))


def nulls(name: str) -> Callable[[pa.Table], pa.Table]:
    """Return a change of one column to nothing in every row."""
    return column(name, lambda table: pa.nulls(len(table), table.schema.field(name).type))


def bad_text(rows: int, kind: pa.DataType | None = None) -> pa.Array:
    r"""Return texts that are not UTF-8, `\xff`."""
    offsets = pa.py_buffer(b"".join(number.to_bytes(4, "little") for number in range(rows + 1)))
    return pa.StringArray.from_buffers(rows, offsets, pa.py_buffer(b"\xff" * rows))


def repeated(name: str, length: int, rows: int) -> Callable[[pa.Table], pa.Table]:
    """Return a change to many equal rows whose column holds one long text."""

    def change(table: pa.Table) -> pa.Table:
        one = table.slice(0, 1)
        many = one.take(pa.array([0]).take(pa.array([0] * rows)))
        text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * length]))
        return many.set_column(many.schema.get_field_index(name), name, text)

    return change


# ---- plans -----------------------------------------------------------------------------------------------------------


def plan_with(change: Callable[[pa.Table], pa.Table], **options: Any) -> Damage:
    """Change the table of the plan and keep its metadata."""

    def damage(root: Path) -> None:
        path = first(root, "plan/*.parquet")
        metadata = pq.read_metadata(path).metadata
        table = change(pq.read_table(path))
        kept = {key: value for key, value in metadata.items() if key != b"ARROW:schema"}
        path.write_bytes(encoded(table.replace_schema_metadata(kept), **options))

    return damage


def plan_metadata(**fields: str | bytes | None) -> Damage:
    """Change the metadata of the plan."""

    def damage(root: Path) -> None:
        path = first(root, "plan/*.parquet")
        metadata = {key: value for key, value in pq.read_metadata(path).metadata.items() if key != b"ARROW:schema"}
        for name, value in fields.items():
            metadata[name.encode()] = value.encode() if isinstance(value, str) else value
        kept = {key: value for key, value in metadata.items() if value is not None}
        path.write_bytes(encoded(pq.read_table(path).replace_schema_metadata(kept), store_schema=False))

    return damage


def many_items(table: pa.Table) -> pa.Table:
    """Return a plan of millions of equal rows."""
    return table.slice(0, 1).take(pa.array([0] * MANY))


def long_text(table: pa.Table) -> pa.Table:
    """Return a plan that names one text of a megabyte in thousands of rows."""
    return repeated("uri", 1 << 20, 2000)(table).cast(
        pa.schema([(f.name, pa.dictionary(pa.int32(), pa.string()) if f.name == "uri" else f.type) for f in PLAN])
    )


def plain_text(table: pa.Table) -> pa.Table:
    """Return a plan whose pages hold gigabytes of one letter."""
    many = table.slice(0, 1).take(pa.array([0] * 20_000))
    return many.set_column(2, "uri", pa.array(["x" * 60_000] * 20_000))


def plan_of_names(outputs: pa.Array) -> Damage:
    """Give the plan a column of outputs, all with the same value."""

    def damage(root: Path) -> None:
        path = first(root, "plan/*.parquet")
        metadata = {key: value for key, value in pq.read_metadata(path).metadata.items() if key != b"ARROW:schema"}
        table = pq.read_table(path)
        table = table.append_column("output", outputs.take(pa.array([0] * len(table))))
        metadata[b"format"] = b"kt-batch-plan/3"
        path.write_bytes(encoded(table.replace_schema_metadata(metadata), store_schema=False))

    return damage


# ---- files that are none ---------------------------------------------------------------------------------------------


def pipe(pattern: str) -> Damage:
    """Put a pipe in place of a file."""

    def damage(root: Path) -> None:
        path = first(root, pattern)
        path.unlink()
        os.mkfifo(path)

    return damage


def link(pattern: str, target: str) -> Damage:
    """Put a link in place of a file."""

    def damage(root: Path) -> None:
        path = first(root, pattern)
        path.unlink()
        path.symlink_to(target)

    return damage


def unix_socket(pattern: str) -> Damage:
    """Put a socket in place of a file."""

    def damage(root: Path) -> None:
        path = first(root, pattern)
        path.unlink()
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket has at most 107 bytes
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        finally:
            os.chdir(here)

    return damage


def sparse(pattern: str, size: int) -> Damage:
    """Put a file without blocks in place of a file."""

    def damage(root: Path) -> None:
        path = first(root, pattern)
        path.unlink()
        with path.open("wb") as file:
            file.truncate(size)

    return damage


def folder(pattern: str) -> Damage:
    """Put a folder in place of a file."""

    def damage(root: Path) -> None:
        path = first(root, pattern)
        path.unlink()
        path.mkdir()

    return damage


def cut(pattern: str, share: float) -> Damage:
    """Keep the first bytes of a file, at least one fewer than there are."""

    def damage(root: Path) -> None:
        path = first(root, pattern)
        data = path.read_bytes()
        path.write_bytes(data[: min(int(share * len(data)), len(data) - 1)])

    return damage


def no_such_files(what: str, pattern: str) -> dict[str, Damage]:
    """Return the damages that any kind of file can have; receipts and hashes know nothing of them."""
    return {
        f"{what}, empty": put(pattern, b""),
        f"{what}, text": put(pattern, b"no such thing"),
        f"{what}, zeros": put(pattern, bytes(1000)),
        f"{what}, cut in half": cut(pattern, 0.5),
        f"{what}, cut at the end": cut(pattern, 1.0),
        f"{what}, a pipe": pipe(pattern),
        f"{what}, an endless device": link(pattern, "/dev/zero"),
        f"{what}, a folder": folder(pattern),
        f"{what}, gigabytes without blocks": sparse(pattern, 8 << 30),
    }


# ---- page headers ----------------------------------------------------------------------------------------------------


def inflated_page(data: bytes) -> bytes:
    """Make the first compressed page claim 2^31 - 1 bytes: a varint of five bytes needs the place of five."""
    return data[:4] + bytes([0x15, 0x00, 0x15, 0xFE, 0xFF, 0xFF, 0xFF, 0x0F]) + data[12:]


# ---- the corpus ------------------------------------------------------------------------------------------------------

READ = ("inspect", "report", "verify", "gc")  # what reads plan and receipts of any place
WORK = (*READ, "translate", "dry", "extract", "index")
RUN = (*READ, "explain", "translate", "dry")

DOCUMENTS: dict[str, Damage] = {
    "an empty receipt": put("receipts/*.json", b""),
    "a receipt of nested lists": put("receipts/*.json", b"[" * 200_000),
    "a receipt of nested objects": put("receipts/*.json", b'{"a":' * 200_000 + b"1" + b"}" * 200_000),
    "a receipt that is a list": put("receipts/*.json", b"[]"),
    "a receipt that is a text": put("receipts/*.json", b'"tables"'),
    "a receipt that is not UTF-8": put("receipts/*.json", b'{"unit": "\xff"}'),
    "a receipt in UTF-16": put("receipts/*.json", '{"unit": 1}'.encode("utf-16")),
    "a receipt with a byte order mark": put("receipts/*.json", b"\xef\xbb\xbf{}"),
    "a receipt with half a character": receipt_with(numerics={"torch": "\ud800"}),
    "a receipt with a repeated key": receipt_text('"images":', '"images":1,"images":'),
    "a receipt with NaN": receipt_text('"images":', '"ncc_sum":NaN,"images":'),
    "a receipt with infinity": receipt_with(timings={"read": float("inf")}),
    "a receipt with a number beyond all floats": receipt_text('"timings":{', '"timings":{"x":1e999,'),
    "a receipt with an integer of 5000 digits": receipt_text('"images":', f'"patches":{"9" * 5000},"images":'),
    "a receipt with an integer of 400 digits": receipt_with(images=10**400),
    "a receipt with a negative count": receipt_with(images=-1),
    "a receipt whose count is a list": receipt_with(rejects=[]),
    "a receipt whose tables are a number": receipt_with(tables=7),
    "a receipt whose tables are null": receipt_with(tables=[None]),
    "a receipt with a table of another kind of name": receipt_with(
        tables=[{"kind": "../x", "rows": 1, "bytes": 1, "sha256": "0" * 64}]
    ),
    "a receipt with more outputs than items": receipt_with(outputs=[None] * 9),
    "a receipt of another format": receipt_with(format="kt-batch-receipt/9"),
    "a receipt of another configuration": receipt_with(config_digest="0" * 16),
    "a receipt with an unknown field": receipt_with(more=1),
    "a receipt of deep lists in an object": put("receipts/*.json", b'{"unit":' + b"[" * 200_000),
    "a receipt that is null": put("receipts/*.json", b"null"),
    "a receipt that is a number": put("receipts/*.json", b"7"),
    "a receipt of a null byte": put("receipts/*.json", b'{"unit": "\\u0000"}'),
    "a receipt of another unit": receipt_with(unit="0" * 16),
    "a receipt whose tables are text": receipt_with(tables="images"),
    "a receipt that is cut in half": cut("receipts/*.json", 0.5),
    "a receipt that is cut at the end": cut("receipts/*.json", 1.0),
    "a receipt of zeros": put("receipts/*.json", bytes(1000)),
    "a receipt that is a pipe": pipe("receipts/*.json"),
    "a receipt that is a socket": unix_socket("receipts/*.json"),
    "a receipt that is a link to an endless device": link("receipts/*.json", "/dev/zero"),
    "a receipt that is a link to a terminal": link("receipts/*.json", "/dev/ptmx"),
    "a receipt of a terabyte without blocks": sparse("receipts/*.json", 1 << 40),
}

PLANS: dict[str, Damage] = {
    "an empty plan": put("plan/*.parquet", b""),
    "a plan of marks alone": put("plan/*.parquet", b"PAR1" * 3),
    "a plan whose footer is longer than the file": put("plan/*.parquet", b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1"),
    "a plan of zeros with a footer of zeros": put("plan/*.parquet", bytes(1000) + b"\x64\0\0\0PAR1"),
    "a plan of text": put("plan/*.parquet", b"no such thing"),
    "a plan that is cut in half": cut("plan/*.parquet", 0.5),
    "a plan that is cut at the end": cut("plan/*.parquet", 1.0),
    "a plan that is a pipe": pipe("plan/*.parquet"),
    "a plan that is a link to an endless device": link("plan/*.parquet", "/dev/zero"),
    "a plan of a terabyte without blocks": sparse("plan/*.parquet", 1 << 40),
    "a plan of millions of equal rows": plan_with(many_items),
    "a plan with gigabytes of one letter": plan_with(plain_text, use_dictionary=False),
    "a plan with one long text in every row": plan_with(long_text),
    "a plan without places": plan_with(lambda table: table.drop_columns(["uri"])),
    "a plan whose names are numbers": plan_with(column("name", lambda table: pa.array([1] * len(table)))),
    "a plan whose image ids are short": plan_with(
        column("image_id", lambda table: pa.array([b"abcd"] * len(table), pa.binary(4)))
    ),
    "a plan without image ids in its rows": plan_with(nulls("image_id")),
    "a plan without names in its rows": plan_with(nulls("name")),
    "a plan whose names are not UTF-8": plan_with(column("name", lambda table: bad_text(len(table)))),
    "a plan whose places are not UTF-8": plan_with(column("uri", lambda table: bad_text(len(table)))),
    "a plan without places in its rows": plan_with(nulls("uri")),
    "a plan whose image ids are text": plan_with(column("image_id", lambda table: pa.array(["12345678"] * len(table)))),
    "a plan whose image ids are wide": plan_with(
        column("image_id", lambda table: pa.array([b"1" * 64] * len(table), pa.binary(64)))
    ),
    "a plan whose names leave the run": plan_with(column("name", lambda table: pa.array(["../../x.jpg"] * len(table)))),
    "a plan whose names are absolute": plan_with(column("name", lambda table: pa.array(["/etc/passwd"] * len(table)))),
    "a plan of outputs that are numbers": plan_of_names(pa.array([7], pa.int32())),
    "a plan of an output elsewhere": plan_of_names(pa.array(["../../x.png"])),
    "a plan of an output outside the images": plan_of_names(pa.array(["plan/000001.parquet"])),
    "a plan of an output that is not UTF-8": plan_of_names(bad_text(1)),
    "a plan with a changed name": plan_with(column("name", lambda table: pa.array(["z.png"] * len(table)))),
    "a plan in an encoding that rebuilds values": plan_with(
        lambda table: table, use_dictionary=False, column_encoding={"uri": "DELTA_BYTE_ARRAY"}
    ),
    "a plan with pages of another version": plan_with(lambda table: table, data_page_version="2.0"),
    "a plan without a format": plan_metadata(format=None),
    "a plan without a configuration": plan_metadata(config=None),
    "a plan whose configuration is nested": plan_metadata(config="[" * 200_000),
    "a plan whose configuration is a list": plan_metadata(config="[]"),
    "a plan whose configuration has NaN": plan_metadata(config='{"encoder": NaN}'),
    "a plan whose metadata is not UTF-8": plan_metadata(config=b"\xff"),
    "a plan with a long config digest": plan_metadata(config_digest="0" * 5000),
    "a plan of a retry without a number": plan_metadata(format="kt-batch-plan/2"),
    "a plan of a retry of 5000 digits": plan_metadata(format="kt-batch-plan/2", retry="9" * 5000),
}

REJECTS: dict[str, Damage] = {
    "rejects without places": part_with("rejects", lambda table: table.drop_columns(["uri"])),
    "rejects without values": part_with("rejects", nulls("reason")),
    "rejects whose places are bytes": part_with("rejects", cast("uri", pa.binary())),
    "rejects whose message is not UTF-8": part_with("rejects", column("message", lambda table: bad_text(len(table)))),
    "millions of equal rejects": part_with("rejects", lambda table: table.take(pa.array([0] * MANY))),
    "rejects with one long text in every row": part_with("rejects", repeated("message", 1 << 20, 3000)),
    "rejects whose page claims two gigabytes": part_bytes("rejects", inflated_page),
    "rejects that are a pipe": pipe("rejects/*.parquet"),
    "rejects that are a link to an endless device": link("rejects/*.parquet", "/dev/zero"),
}

PATCHES: dict[str, Damage] = {
    "patches without vectors": part_with("patches", lambda table: table.drop_columns(["vector"])),
    "patches whose vectors are text": part_with(
        "patches", column("vector", lambda table: pa.array(["x"] * len(table)))
    ),
    "patches whose vectors are of 3 bytes": part_with(
        "patches", column("vector", lambda table: pa.array([b"abc"] * len(table), pa.binary(3)))
    ),
    "patches of no vector in some rows": part_with("patches", nulls("vector")),
    "patches whose ids are numbers": part_with("patches", column("patch_id", lambda table: table["row"])),
    "millions of equal patches": part_with("patches", lambda table: table.slice(0, 1).take(pa.array([0] * 400_000))),
    "patches that are a pipe": pipe("patches/*.parquet"),
}

IMAGES: dict[str, Damage] = {
    "an image without width": part_with(
        "images", column("width", lambda table: pa.array([0] * len(table), pa.uint32()))
    ),
    "an image of four billion pixels a side": part_with(
        "images", column("height", lambda table: pa.array([2**32 - 1] * len(table), pa.uint32()))
    ),
    "an image whose file has no height": part_with(
        "images", column("original_height", lambda table: pa.array([0] * len(table), pa.uint32()))
    ),
    "images whose sizes are text": part_with("images", column("width", lambda table: pa.array(["1"] * len(table)))),
    "images without a licence": part_with("images", nulls("license")),
    "images whose licence is not UTF-8": part_with("images", column("license", lambda table: bad_text(len(table)))),
}

PROVENANCES: dict[str, Damage] = {
    "provenance without rows": part_with("provenance", lambda table: table.drop_columns(["row"])),
    "provenance of text": part_with("provenance", cast("row", pa.string())),
    "provenance whose rows are wide": part_with("provenance", cast("row", pa.int64())),
    "provenance without values in its rows": part_with("provenance", nulls("row")),
    "provenance whose scores are text": part_with(
        "provenance", column("ncc", lambda table: pa.array(["one"] * len(table)))
    ),
    "provenance with one long text of an output in every row": part_with(
        "provenance", repeated("output", 1 << 20, 3000)
    ),
    "provenance with one long text of a library in every row": part_with(
        "provenance", repeated("library", 1 << 20, 3000)
    ),
    "provenance without scores": part_with("provenance", nulls("ncc")),
    "provenance whose weight is NaN": part_with(
        "provenance", column("weight", lambda table: pa.array([float("nan")] * len(table), pa.float32()))
    ),
    "provenance whose weight is negative": part_with(
        "provenance", column("weight", lambda table: pa.array([-1.0] * len(table), pa.float32()))
    ),
    "provenance without a row group": without_groups,
    "provenance that is a pipe": pipe("provenance/*.parquet"),
    "provenance of patches beyond the source": part_with(
        "provenance", column("source_row", lambda table: pa.array([65535] * len(table), pa.uint16()))
    ),
}

# Receipts whose tables or outputs are not there: what reads the tables notices.
TABLES: dict[str, Damage] = {
    "a receipt of an absent table": receipt_with(
        tables=[{"kind": "rejects", "rows": 1, "bytes": 1, "sha256": "0" * 64}]
    ),
    "a receipt of a billion rows": receipt_with(
        tables=[{"kind": "rejects", "rows": 10**9, "bytes": 10**9, "sha256": "0" * 64}]
    ),
}

# What costs no error: nobody needs the file, or it is not there, as before its unit was done.
HARMLESS: dict[str, Damage] = {
    "a receipt that is a folder": folder("receipts/*.json"),
    "provenance of far cells": part_with(
        "provenance", column("row", lambda table: pa.array([65535] * len(table), pa.uint16()))
    ),
}

SUMMARIES: dict[str, Damage] = {
    "an empty summary": put("run.json", b""),
    "a summary that is a list": put("run.json", b"[]"),
    "a summary that is null": put("run.json", b"null"),
    "a summary that is a number": put("run.json", b"7"),
    "a summary that is not UTF-8": put("run.json", b'{"library": "\xff\xfe"}'),
    "a summary of half a character": put("run.json", b'{"library": "\\ud800"}'),
    "a summary of a huge number": put("run.json", b'{"library": ' + b"9" * 10_000 + b"}"),
    "a summary with NaN": put("run.json", b'{"library": NaN}'),
    "a summary whose library is a list": summary_with([1]),
    "a summary whose library is nested": summary_with({"x": {"y": {}}}),
    "a summary of nested lists": put("run.json", b"[" * 200_000),
    "a summary without a library": put("run.json", b"{}"),
    "a summary whose library is a number": put("run.json", b'{"library": 7}'),
    "a summary that is a pipe": pipe("run.json"),
    "a summary of a terabyte without blocks": sparse("run.json", 1 << 40),
    "a summary that is a link to an endless device": link("run.json", "/dev/zero"),
}


# A run may name any library: nothing is sent to a store, and no device is read.
LIBRARIES: dict[str, Damage] = {
    "a run of a library in a store": summary_with("s3://somebody-else/library"),
    "a run of a library with a password": summary_with("s3://key:secret@bucket/library"),
    "a run of a library that is a device": summary_with("/dev/zero"),
    "a run of a library that is absent": summary_with("/nowhere/at/all/library"),
}


def _cases(place: str, damages: dict[str, Damage], file: str, commands: tuple[str, ...]) -> list[Case]:
    return [Case(f"{name}, {place}", place, damage, file, commands) for name, damage in damages.items()]


CASES = [
    *_cases("library", DOCUMENTS, "/receipts/", WORK),
    *_cases("run", DOCUMENTS, "/receipts/", RUN),
    *_cases("library", PLANS, "/plan/", WORK),
    *_cases("run", PLANS, "/plan/", RUN),
    *_cases("library", REJECTS, "/rejects/", ("inspect", "report", "verify")),
    *_cases("run", REJECTS, "/rejects/", ("inspect", "report", "verify")),
    *_cases("library", PATCHES, "patches/", ("verify", "index")),
    *_cases("library", IMAGES, "/images/", ("explain",)),
    *_cases("run", PROVENANCES, "provenance", ("explain",)),
    *_cases("run", SUMMARIES, "run.json", ("inspect", "explain")),
    *_cases("run", LIBRARIES, "library", ("explain",)),
    *_cases("library", TABLES, "/rejects/", ("inspect", "report", "verify")),
    *_cases("run", TABLES, "/rejects/", ("inspect", "report", "verify")),
    *_cases("run", {"a receipt with too few outputs": receipt_with(outputs=[])}, "/receipts/", RUN),
    *_cases("library", {"a plan that is a folder": folder("plan/*.parquet")}, "library", READ),
    *_cases("run", {"a plan that is a folder": folder("plan/*.parquet")}, "run", READ),
    *_cases("library", no_such_files("images", "images/*.parquet"), "images/", ("verify",)),
    *_cases("library", no_such_files("patches", "patches/*.parquet"), "patches/", ("verify", "index")),
    *_cases("library", no_such_files("rejects", "rejects/*.parquet"), "rejects/", ("inspect", "report", "verify")),
    *_cases("run", no_such_files("rejects", "rejects/*.parquet"), "rejects/", ("inspect", "report", "verify")),
    *_cases("run", no_such_files("provenance", "provenance/*.parquet"), "provenance/", ("verify", "explain")),
    *_cases("run", no_such_files("a picture", "images/*.png"), "images/", ("verify",)),
    *_cases("run", HARMLESS, "", ()),
]
