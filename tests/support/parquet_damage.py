"""Parquet files with other footers than their writer gave them, and files with bytes changed by chance.

Run as a program, it reads many damaged files in this process, and prints the number of each one before. The process
ends by a signal where a reader does not survive a file.
"""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kt_batch.errors import DamagedError
from kt_batch.store.parquet import ParquetReader
from kt_batch.store.schemas import IMAGES, PLAN
from kt_batch.store.thrift import Field, Struct, read_struct, write_struct


def plan_file(**options: Any) -> bytes:
    """Return a plan of three items in two row groups."""
    rows = {"unit": [b"unit-id1"] * 3, "image_id": [b"image-%d1" % n for n in range(3)]}
    names = {"uri": ["/photos/a.png", "/photos/b.png", "/photos/c.png"], "name": ["a.png", "b.png", "c.png"]}
    return encoded(pa.table({**rows, **names}, schema=PLAN), row_group_size=2, **options)


def images_file() -> bytes:
    """Return a table of images with lists and bytes."""
    row = {
        "image_id": b"image-01", "uris": ["/paintings/a.png"], "original_width": 72, "original_height": 56,
        "width": 64, "height": 50, "tags": ["sea", "storm"], "license": "CC0", "attribution": "me", "preview": b"jpeg",
    }  # fmt: skip
    return encoded(pa.Table.from_pylist([row] * 3, schema=IMAGES))


def encoded(table: pa.Table, **options: Any) -> bytes:
    """Return a table as Parquet, as parts are written."""
    file = io.BytesIO()
    pq.write_table(table, file, **{"compression": "zstd", **options})
    return file.getvalue()


def read(data: bytes) -> pa.Table:
    """Read a file as parts are read."""
    return ParquetReader(io.BytesIO(data), len(data), "the file").read()


def footer_of(data: bytes) -> Struct:
    """Return the footer of a file."""
    return read_struct(data, len(data) - 8 - int.from_bytes(data[-8:-4], "little"))[0]


def with_footer(data: bytes, change: Callable[[Struct], object]) -> bytes:
    """Return the file with a changed footer."""
    footer = footer_of(data)
    change(footer)
    return with_raw_footer(data, write_struct(footer))


def with_raw_footer(data: bytes, footer: bytes) -> bytes:
    """Return the file with other bytes as its footer."""
    end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[:end] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def chunk(footer: Struct, group: int = 0, column: int = 0) -> Struct:
    """Return the struct of a column chunk in a footer."""
    found: Struct = footer[4].value.values[group][1].value.values[column]
    return found


def column(footer: Struct, group: int = 0, column: int = 0) -> Struct:
    """Return the struct of a column chunk's description in a footer."""
    found: Struct = chunk(footer, group, column)[3].value
    return found


def put(struct: Struct, number: int, value: Any) -> None:
    """Change the value of a field and keep its type."""
    struct[number] = Field(struct[number].kind, value)


def without(struct: Struct, number: int) -> Struct:
    """Remove a field."""
    del struct[number]
    return struct


def damaged(seed: int) -> bytes:
    """Return a file with one to three bytes changed, removed or added, most often in the footer."""
    chance = random.Random(seed)
    data = bytearray(chance.choice(FILES))
    footer = int.from_bytes(data[-8:-4], "little")
    start = len(data) - 8 - footer
    first, last = (start, len(data) - 8) if chance.random() < 0.8 else (4, start)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at, how = chance.randrange(first, last), chance.random()
        if how < 0.8:
            data[at] = chance.choice((chance.randrange(256), (data[at] + 1) % 256, data[at] ^ 1 << chance.randrange(8)))
        elif first == start:
            data[at : at + chance.randrange(2)] = bytes([chance.randrange(256)]) if how < 0.9 else b""
            data[-8:-4] = (len(data) - 8 - start).to_bytes(4, "little")
            last = len(data) - 8
    return bytes(data)


FILES = (plan_file(), images_file(), plan_file(use_dictionary=False))

if __name__ == "__main__":
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        try:
            read(damaged(number))
        except DamagedError:
            continue
