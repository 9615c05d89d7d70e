"""The footer of a Parquet file: rebuilt from what is needed, so that Arrow never meets one that ends the process."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kt_batch.errors import DamagedError
from kt_batch.store.parquet_footer import read_footer
from kt_batch.store.thrift import BINARY, I32, I64, LIST, STRUCT, Field, Sequence, Struct
from tests.support.parquet_damage import (
    chunk,
    column,
    footer_of,
    images_file,
    plan_file,
    put,
    read,
    with_footer,
    with_raw_footer,
    without,
)

ROOT = Path(__file__).parents[2]
PLAN, IMAGES = plan_file(), images_file()
DEEP = b"\x1c" * 100_000  # a struct whose first field is a struct, and so on


def wrong_histogram(footer: Struct) -> None:
    """Give a column a histogram of four levels where it has one: Arrow ends the process when it is asked for it."""
    histogram = Field(LIST, Sequence(I64, [1, 2, 3, 4]))
    column(footer)[16] = Field(STRUCT, {1: Field(I64, 3), 2: histogram, 3: histogram})


def groups_in_groups(depth: int) -> Sequence:
    group = {4: Field(BINARY, b"g"), 5: Field(I32, 1)}
    return Sequence(STRUCT, [*([group] * depth), {1: Field(I32, 1), 4: Field(BINARY, b"leaf")}])


def first_element(footer: Struct, number: int, field: Field) -> None:
    footer[2].value.values[1][number] = field


REFUSED = {
    "columns of another file": lambda footer: chunk(footer).update({1: Field(BINARY, b"/etc/passwd")}),
    "an encrypted column": lambda footer: chunk(footer).update({8: Field(STRUCT, {})}),
    "an encrypted footer": lambda footer: footer.update({8: Field(STRUCT, {})}),
    "a column of another type than in the schema": lambda footer: put(column(footer), 1, 1),
    "an unknown type": lambda footer: first_element(footer, 1, Field(I32, 99)),
    "a negative type": lambda footer: first_element(footer, 1, Field(I32, -1)),
    "an unknown repetition": lambda footer: first_element(footer, 3, Field(I32, 7)),
    "an unknown compression": lambda footer: put(column(footer), 4, 99),
    "LZO, which Arrow does not read": lambda footer: put(column(footer), 4, 3),
    "a negative number of values": lambda footer: put(column(footer), 5, -1),
    "2^63 values": lambda footer: put(column(footer), 5, 2**63 - 1),
    "pages before the file": lambda footer: put(column(footer), 9, -5),
    "pages behind the file": lambda footer: put(without(column(footer), 11), 9, 2**40),
    "a dictionary before the file": lambda footer: put(column(footer), 11, -1),
    "a column beyond the end": lambda footer: put(column(footer), 7, 2**40),
    "negative rows": lambda footer: put(footer[4].value.values[0], 3, -2),
    "rows that do not add up": lambda footer: put(footer, 3, 10**9),
    "2^62 rows in a group": lambda footer: put(footer[4].value.values[0], 3, 2**62),
    "a column too few": lambda footer: footer[4].value.values[0][1].value.values.pop(),
    "a column too many": lambda footer: footer[4].value.values[0][1].value.values.append(chunk(footer)),
    "groups within groups": lambda footer: put(footer, 2, groups_in_groups(60)),
    "100,000 groups within groups": lambda footer: put(footer, 2, groups_in_groups(100_000)),
    "a schema without elements": lambda footer: put(footer, 2, Sequence(STRUCT, [])),
    "a schema that lacks elements": lambda footer: put(footer[2].value.values[0], 5, 60),
    "elements outside the root": lambda footer: put(footer[2].value.values[0], 5, 1),
    "negative members": lambda footer: put(footer[2].value.values[0], 5, -1),
    "2^31 members": lambda footer: put(footer[2].value.values[0], 5, 2**31 - 1),
    "a schema of numbers": lambda footer: put(footer, 2, Sequence(I32, [1, 2])),
    "row groups of numbers": lambda footer: put(footer, 4, Sequence(I64, [1, 2])),
    "encodings of text": lambda footer: put(column(footer), 2, Sequence(BINARY, [b"PLAIN"])),
    "rows as text": lambda footer: footer.update({3: Field(BINARY, b"3")}),
    "no row groups": lambda footer: footer.pop(4),
    "no place of the pages": lambda footer: column(footer).pop(9),
    "metadata without a key": lambda footer: footer.update(
        {5: Field(LIST, Sequence(STRUCT, [{2: Field(BINARY, b"x")}]))}
    ),
    "types of our own that are no types": lambda footer: footer.update(
        {5: Field(LIST, Sequence(STRUCT, [{1: Field(BINARY, b"ARROW:schema"), 2: Field(BINARY, b"\xff" * 99)}]))}
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_footer_that_no_file_of_ours_has_is_one_sentence(name: str) -> None:
    with pytest.raises(DamagedError, match=r"^the file ") as caught:
        read(with_footer(PLAN, REFUSED[name]))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "footer",
    [
        b"",
        b"\0",
        DEEP,
        b"\x19" * 100_000,
        b"\x15" + b"\xff" * 20,
        b"\x19\xfc" + b"\xff" * 9,
        b"\x18\xff\xff\xff\xff\x0f",
    ],
    ids=["nothing", "an empty struct", "deep structs", "deep lists", "a long number", "a long list", "a long text"],
)
def test_bytes_that_are_no_footer_are_one_sentence(footer: bytes) -> None:
    with pytest.raises(DamagedError, match=r"^the file is not readable as Parquet"):
        read(with_raw_footer(PLAN, footer))


def test_what_is_not_needed_does_not_reach_arrow() -> None:
    """Sizes, statistics and places of indexes are left out, so a wrong one does no harm."""
    file = with_footer(PLAN, wrong_histogram)
    assert read(file).equals(read(PLAN))
    kept, _ = read_footer(io.BytesIO(file), len(file))
    assert kept.row_group(0).column(0).statistics is None


@pytest.mark.parametrize("data", [PLAN, IMAGES], ids=["a plan", "images"])
def test_a_rebuilt_footer_describes_the_same_table(data: bytes) -> None:
    footer, end = read_footer(io.BytesIO(data), len(data))
    original = pq.read_metadata(io.BytesIO(data))
    assert end == len(data) - 8 - original.serialized_size
    assert (footer.num_rows, footer.num_row_groups, footer.num_columns) == (
        original.num_rows, original.num_row_groups, original.num_columns,
    )  # fmt: skip
    assert footer.metadata == original.metadata
    assert footer.schema.equals(original.schema)
    assert read(data).equals(pq.read_table(io.BytesIO(data)))


def test_the_smallest_and_largest_integer_are_kept() -> None:
    """They skip row groups when a build is read back."""
    footer, _ = read_footer(io.BytesIO(IMAGES), len(IMAGES))
    original = pq.read_metadata(io.BytesIO(IMAGES))
    width = [original.row_group(0).column(n).path_in_schema for n in range(original.num_columns)].index("width")
    assert (footer.row_group(0).column(width).statistics.min, footer.row_group(0).column(width).statistics.max) == (
        64, 64,
    )  # fmt: skip


def test_a_footer_of_many_numbers_is_read_as_it_was_written() -> None:
    assert footer_of(with_footer(PLAN, lambda footer: None)) == footer_of(PLAN)


def test_no_file_with_bytes_changed_by_chance_ends_the_process() -> None:
    """2,000 files in a process of their own; on failure the last line is the number of the file."""
    words = [sys.executable, "-m", "tests.support.parquet_damage", "0", "2000"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "1999"), ended.stderr[-2000:]
