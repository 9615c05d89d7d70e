"""The compact protocol of Thrift, in which Parquet writes its headers and footers: bounded, and no schema needed."""

from __future__ import annotations

from typing import Any, NamedTuple

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
DEEPEST = 8  # structs and lists within each other


class ThriftError(ValueError):
    """The bytes are no struct, are cut off, or are nested too deeply."""


class Field(NamedTuple):
    """A value with its type. value: an int, bytes (BINARY; eight for DOUBLE), a Struct, or a `Sequence` (LIST, SET)."""

    kind: int
    value: Any


class Sequence(NamedTuple):
    """A list or a set: the type of its elements, and their values."""

    kind: int
    values: list[Any]


Struct = dict[int, Field]


def read_struct(data: bytes, start: int = 0) -> tuple[Struct, int]:
    """Read a struct, and return it with the position behind it.

    Raises:
        ThriftError: there is none, or it is nested too deeply.
        IndexError: the data end before it does.
    """
    reader = _Reader(data, start)
    return reader.struct(0), reader.position


def write_struct(struct: Struct) -> bytes:
    """Return the bytes of a struct."""
    out = bytearray()
    _write_struct(out, struct)
    return bytes(out)


class _Reader:
    def __init__(self, data: bytes, position: int) -> None:
        self.data = data
        self.position = position

    def struct(self, depth: int) -> Struct:
        if depth > DEEPEST:
            raise ThriftError("structs are nested too deeply")
        fields: Struct = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else self._signed()
            if number in fields:
                raise ThriftError(f"a struct has the field {number} twice")
            fields[number] = Field(kind, kind == TRUE if kind in (TRUE, FALSE) else self._value(kind, depth))
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        match kind:
            case 5 | 6 | 4:  # I32, I64, I16
                return self._signed()
            case 8:  # BINARY
                return self._take(self._varint())
            case 12:  # STRUCT
                return self.struct(depth + 1)
            case 9 | 10:  # LIST, SET
                return self._sequence(depth + 1)
            case 3 | 1 | 2:  # BYTE; TRUE and FALSE in a list take a byte
                return self._byte()
            case 7:  # DOUBLE
                return self._take(8)
        raise ThriftError(f"a field has the type {kind}, which Parquet does not use")

    def _sequence(self, depth: int) -> Sequence:
        head = self._byte()
        count, kind = head >> 4, head & 15
        count = self._varint() if count == 15 else count
        if depth > DEEPEST or count > len(self.data) - self.position:
            raise ThriftError(f"a list of {count} values is nested too deeply, or goes beyond its end")
        return Sequence(kind, [self._value(kind, depth) for _ in range(count)])

    def _byte(self) -> int:
        byte = self.data[self.position]
        self.position += 1
        return byte

    def _take(self, length: int) -> bytes:
        start, self.position = self.position, self.position + length
        if self.position > len(self.data):
            raise IndexError(self.position)
        return self.data[start : self.position]

    def _signed(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.position]
            self.position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
            if shift > 63:
                raise ThriftError("a number is too long")
        if value >> 64:
            raise ThriftError("a number is too large")
        return value


def _write_struct(out: bytearray, struct: Struct) -> None:
    last = 0
    for number, (kind, value) in sorted(struct.items()):
        kind = kind if kind not in (TRUE, FALSE) else TRUE if value else FALSE  # noqa: PLW2901 - the type is the value
        if 0 < number - last < 16:
            out.append((number - last) << 4 | kind)
        else:
            out.append(kind)
            _write_varint(out, _zigzag(number))
        last = number
        if kind not in (TRUE, FALSE):
            _write_value(out, kind, value)
    out.append(0)


def _write_value(out: bytearray, kind: int, value: Any) -> None:
    match kind:
        case 4 | 5 | 6:  # I16, I32, I64
            _write_varint(out, _zigzag(value))
        case 8:  # BINARY
            _write_varint(out, len(value))
            out += value
        case 12:  # STRUCT
            _write_struct(out, value)
        case 9 | 10:  # LIST, SET
            few = len(value.values) < 15
            out.append((len(value.values) if few else 15) << 4 | value.kind)
            if not few:
                _write_varint(out, len(value.values))
            for each in value.values:
                _write_value(out, value.kind, each)
        case 7:  # DOUBLE
            out += value
        case _:  # BYTE; TRUE and FALSE in a list
            out.append(value)


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else ~value << 1 | 1


def _write_varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
