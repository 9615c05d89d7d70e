"""The footer of a Parquet file that anyone may have written: checked, and rebuilt from what is needed of it.

Arrow checks most of a footer, but some of it when Python asks for a column, and then it ends the process: a histogram
of the wrong length is enough. So it is given a footer of our own, which holds the fields that a reader here uses and no
others.
"""

from __future__ import annotations

from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from kt_batch.store.thrift import (
    BINARY,
    I16,
    I32,
    I64,
    LIST,
    STRUCT,
    Field,
    Sequence,
    Struct,
    read_struct,
    write_struct,
)

END = b"PAR1"
MOST_FOOTER = 16 << 20
MOST_ELEMENTS, DEEPEST = 64, 4  # of a schema; our tables have 11 columns and lists of text
MOST_CREATOR = 256
PHYSICAL_TYPES, REPETITIONS = range(8), range(3)
CODECS = (0, 1, 2, 4, 5, 6, 7)  # all that Arrow reads: not 3, LZO
WIDTHS = {1: 4, 2: 8}  # bytes of the statistics of INT32 and INT64

# The fields that are kept, by number, with their types. The Parquet format gives their names.
_FOOTER = {1: I32, 2: LIST, 3: I64, 4: LIST, 5: LIST, 6: BINARY, 7: LIST}
_SCHEMA = {1: I32, 2: I32, 3: I32, 4: BINARY, 5: I32, 6: I32, 7: I32, 8: I32, 9: I32, 10: STRUCT}
_GROUP = {1: LIST, 2: I64, 3: I64, 5: I64, 6: I64, 7: I16}
_CHUNK = {2: I64, 3: STRUCT}
_COLUMN = {1: I32, 2: LIST, 3: LIST, 4: I32, 5: I64, 6: I64, 7: I64, 9: I64, 11: I64, 12: STRUCT}
_STATISTICS = {3: I64, 5: BINARY, 6: BINARY}


class FooterError(ValueError):
    """A footer is damaged, or describes what no file of ours holds."""


def read_footer(source: BinaryIO, size: int, *, entries: bool = True) -> tuple[pq.FileMetaData, int]:
    """Return the footer of a file of `size` bytes, checked, and where its data end.

    Without `entries`, its key-value metadata is left out, and columns have the types that Parquet itself gives them.

    Raises:
        FooterError, ThriftError, ArrowException: it is damaged, or no file of ours has it.
    """
    source.seek(max(size - 8, 0))
    tail = source.read(8)
    if len(tail) < 8 or tail[4:] != END or size < 12:
        raise FooterError("it does not end as such a file does")
    length, most = int.from_bytes(tail[:4], "little"), min(MOST_FOOTER, size - 12)
    if length > most:
        raise FooterError(f"its footer has {length} bytes; allowed are {most}")
    source.seek(size - 8 - length)
    footer = rebuilt(source.read(length), entries=entries)
    file = END + footer + len(footer).to_bytes(4, "little") + END
    return pq.read_metadata(pa.BufferReader(file)), size - 8 - length


def rebuilt(data: bytes, *, entries: bool = True) -> bytes:
    """Return a footer of the same columns with the fields that are needed. Raises as `read_footer` does."""
    try:
        footer, _ = read_struct(data)
    except IndexError as error:
        raise FooterError("its footer is cut off") from error
    kept = _kept(footer, _FOOTER, required=(1, 2, 3, 4))
    if footer.keys() & {8, 9}:
        raise FooterError("it is encrypted")
    elements = [_kept(each, _SCHEMA, required=(4,)) for each in _structs(kept[2])]
    leaves = _leaves(elements)
    groups = [_group(each, leaves) for each in _structs(kept[4])]
    kept |= {2: _list(elements), 4: _list(groups)}
    if not entries:
        kept.pop(5, None)
    if 5 in kept:
        pairs = [_kept(each, {1: BINARY, 2: BINARY}, required=(1,)) for each in _structs(kept[5])]
        kept[5] = _list(pairs)
    if 7 in kept:
        kept[7] = _list([{1: Field(STRUCT, {})} for _ in leaves])  # values are ordered as their type is
    if 6 in kept and len(kept[6].value) > MOST_CREATOR:
        del kept[6]
    return write_struct(kept)


def _leaves(elements: list[Struct]) -> list[int]:
    """Return the physical types of the leaves of a schema, after a look at its shape."""
    if not 0 < len(elements) <= MOST_ELEMENTS:
        raise FooterError(f"its schema has {len(elements)} elements; allowed are {MOST_ELEMENTS}")
    leaves: list[int] = []
    missing = [1]  # members that each open group still lacks; the first group is that of the root
    for element in elements:
        members = element[5].value if 5 in element else 0
        if not missing or not 0 <= members <= MOST_ELEMENTS or len(missing) > DEEPEST:
            raise FooterError("its schema has no root, or is nested too deeply")
        if _number(element, 3, absent=0) not in REPETITIONS:
            raise FooterError("an element of its schema is repeated in an unknown way")
        missing[-1] -= 1
        if members or element is elements[0]:
            missing.append(members)
        else:
            leaves.append(_number(element, 1))
        while missing and not missing[-1]:
            missing.pop()
    if missing or any(leaf not in PHYSICAL_TYPES for leaf in leaves):
        raise FooterError("its schema lacks elements, or has one of an unknown type")
    return leaves


def _group(struct: Struct, leaves: list[int]) -> Struct:
    group = _kept(struct, _GROUP, required=(1, 2, 3))
    chunks = _structs(group[1])
    if len(chunks) != len(leaves):
        raise FooterError(f"a row group has {len(chunks)} columns, and its schema {len(leaves)}")
    for number in (2, 3):
        _number(group, number)
    return group | {1: _list([_chunk(chunk, leaf) for chunk, leaf in zip(chunks, leaves, strict=True)])}


def _chunk(struct: Struct, leaf: int) -> Struct:
    if struct.keys() & {1, 8, 9}:
        raise FooterError("a column lies in another file, or is encrypted")
    chunk = _kept(struct, _CHUNK, required=(2, 3))
    column = _kept(chunk[3].value, _COLUMN, required=(1, 2, 3, 4, 5, 6, 7, 9))
    for number in (5, 6, 7, 9):
        _number(column, number)
    if 11 in column:
        _number(column, 11)
    if _number(column, 1) != leaf or _number(column, 4) not in CODECS:
        raise FooterError(
            "a column has another type than in the schema, or is compressed in a way that is not used here"
        )
    if column[2].value.kind != I32 or column[3].value.kind != BINARY:
        raise FooterError("a column has no list of encodings, or no path")
    statistics = _statistics(column[12].value, leaf) if 12 in column else {}
    column = {number: field for number, field in column.items() if number != 12}
    if statistics:
        column[12] = Field(STRUCT, statistics)
    return chunk | {3: Field(STRUCT, column)}


def _statistics(struct: Struct, leaf: int) -> Struct:
    """Return smallest and largest value, which skip row groups; none for other columns than integers."""
    statistics = _kept(struct, _STATISTICS)
    complete = statistics.keys() == _STATISTICS.keys()
    widths = {len(statistics[number].value) for number in (5, 6)} if complete else set()
    return statistics if widths == {WIDTHS.get(leaf)} else {}


def _kept(struct: Struct, kinds: dict[int, int], required: tuple[int, ...] = ()) -> Struct:
    """Return the fields of these numbers; raise FooterError where one has another type, or is required and absent."""
    for number, kind in kinds.items():
        if number in struct and struct[number].kind != kind:
            raise FooterError(f"a field {number} has the type {struct[number].kind}; allowed is {kind}")
    for number in required:
        if number not in struct:
            raise FooterError(f"a field {number} is missing")
    return {number: field for number, field in struct.items() if number in kinds}


def _structs(field: Field) -> list[Struct]:
    sequence: Sequence = field.value
    if sequence.values and sequence.kind != STRUCT:
        raise FooterError(f"a list holds values of the type {sequence.kind}; allowed are structs")
    return sequence.values


def _list(structs: list[Struct]) -> Field:
    return Field(LIST, Sequence(STRUCT, structs))


def _number(struct: Struct, number: int, absent: int = -1) -> int:
    """Return a number that is not negative."""
    value = struct[number].value if number in struct else absent
    if not isinstance(value, int) or not 0 <= value < 2**62:
        raise FooterError(f"a field {number} is {value}; allowed is 0 and more")
    return value
