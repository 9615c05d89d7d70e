"""The members of a zip archive, from its central directory and the header of each.

Names are read as UTF-8. Bytes that are not UTF-8 are kept as they are, whatever code page an old program had.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from kt_batch.store.byte_ranges import Ranges
from kt_batch.store.passed_over import LINK, is_image_name
from kt_batch.store.tars import ArchiveFaultError, Entry

MAX_DIRECTORY = 128 << 20  # bytes: about a million members
MAX_MEMBER = 2**32
FREE_BYTES = 64 << 20  # that a member may unpack to, whatever its size
MAX_RATIO = 256  # of a larger one; photographs have less than 100, in any format

STARTS = (b"PK\x03\x04", b"PK\x05\x06")  # of an archive with members, and of an empty one
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_END = _END.size + 2**16
_STORED, _DEFLATED, _ENCRYPTED = 0, 8, 1
_FULL = 0xFFFFFFFF  # the value is in the extra field of 64 bits


@dataclass(frozen=True)
class _Listed:
    """An entry of the directory. header: Offset of the member's own header. end: Where it ends at the earliest."""

    path: str
    header: int
    end: int
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    mode: int


def zip_entries(source: Ranges) -> Iterator[Entry]:
    """Yield the files and links of an archive by their offsets; directories are left out.

    Raises:
        ArchiveFaultError: The archive is damaged, or none. What was yielded before is sound.
    """
    start, size, base, count = _directory(source)
    fault = None
    listed: list[_Listed] = []
    try:
        listed.extend(_listed(source.read(start, size), start, base))
    except ArchiveFaultError as error:
        fault = error
    if fault is None and len(listed) % 2**16 != count % 2**16:
        fault = ArchiveFaultError("directory", start)
    listed.sort(key=lambda each: (each.header, each.path))
    for each, overlaps in zip(listed, _overlaps(listed, start), strict=True):
        if not each.path.endswith("/"):
            yield _entry(source, each, overlaps)
    if fault is not None:
        raise fault


def _directory(source: Ranges) -> tuple[int, int, int, int]:
    """Return start and size of the directory, the offset of what offsets are relative to, and the number of entries."""
    tail_start = max(0, source.size - _LONGEST_END)
    tail = source.read(tail_start, _LONGEST_END)
    found = tail.rfind(b"PK\x05\x06")
    while found >= 0 and (found + _END.size > len(tail) or found + _END.size + _comment(tail, found) != len(tail)):
        found = tail.rfind(b"PK\x05\x06", 0, found)
    if found < 0:
        raise ArchiveFaultError("no_directory", source.size)
    _, disk, first_disk, _, count, size, offset, _ = _END.unpack_from(tail, found)
    end = tail_start + found
    locator = source.read(end - _LOCATOR.size, _LOCATOR.size) if end >= _LOCATOR.size else b""
    if locator.startswith(b"PK\x06\x07"):
        disk = first_disk = 0
        end, count, size, offset = _directory_64(source, _LOCATOR.unpack(locator)[2], end - _LOCATOR.size)
    if disk or first_disk:
        raise ArchiveFaultError("volumes", end)
    if size > MAX_DIRECTORY:
        raise ArchiveFaultError("directory_size", end)
    if end - size < 0 or end - size - offset < 0:
        raise ArchiveFaultError("no_directory", end)
    return end - size, size, end - size - offset, count


def _directory_64(source: Ranges, stated: int, locator: int) -> tuple[int, int, int, int]:
    """Return end, number of entries, size and offset of the directory from the end record of 64 bits."""
    for at in (stated, locator - _END_64.size):
        record = source.read(at, _END_64.size) if 0 <= at < source.size else b""
        if len(record) == _END_64.size and record.startswith(b"PK\x06\x06"):
            values = _END_64.unpack(record)
            return at, values[7], values[8], values[9]
    raise ArchiveFaultError("no_directory", locator)


def _comment(tail: bytes, end: int) -> int:
    return int(_END.unpack_from(tail, end)[-1])


def _listed(directory: bytes, start: int, base: int) -> Iterator[_Listed]:
    at = 0
    while at < len(directory):
        if len(directory) - at < _CENTRAL.size or not directory.startswith(b"PK\x01\x02", at):
            raise ArchiveFaultError("directory", start + at)
        head = _CENTRAL.unpack_from(directory, at)
        flags, method, crc, packed, size, name, extra, comment, attributes, offset = (
            head[3], head[4], head[7], head[8], head[9], head[10], head[11], head[12], head[15], head[16],
        )  # fmt: skip
        first = at + _CENTRAL.size
        at = first + name + extra + comment
        if at > len(directory):
            raise ArchiveFaultError("directory", start + first)
        path = directory[first : first + name].decode("utf-8", "surrogateescape")
        size, packed, offset = _large(directory[first + name : first + name + extra], size, packed, offset)
        header = base + offset
        end = header + _LOCAL.size + name + packed
        yield _Listed(path, header, end, flags, method, crc, packed, size, attributes >> 16)


def _large(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return sizes and offset, from the extra field of 64 bits where they are larger than 32."""
    values, at = [size, packed, offset], 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            content, place = extra[at + 4 : at + 4 + length], 0
            for number, value in enumerate(values):
                if value == _FULL and place + 8 <= len(content):
                    values[number] = struct.unpack_from("<Q", content, place)[0]
                    place += 8
            break
        at += 4 + length
    return values[0], values[1], values[2]


def _overlaps(listed: list[_Listed], directory: int) -> list[bool]:
    """Tell for each entry, by offset, whether it shares bytes with another one or with the directory."""
    shared = [each.end > directory for each in listed]
    last = -1  # the entry that reaches farthest
    for number, each in enumerate(listed):
        if last >= 0 and each.header < listed[last].end:
            shared[number] = shared[last] = True
        if last < 0 or each.end > listed[last].end:
            last = number
    return shared


def _entry(source: Ranges, listed: _Listed, overlaps: bool) -> Entry:
    entry = Entry(listed.path, listed.header, listed.size, crc=listed.crc)
    if stat.S_ISLNK(listed.mode):
        return replace(entry, kind=LINK)
    if not is_image_name(listed.path):  # it will not be read
        return entry
    fault = _fault(listed, overlaps)
    local = source.read(listed.header, _LOCAL.size) if not fault else b""
    if not fault and (len(local) < _LOCAL.size or not local.startswith(b"PK\x03\x04")):
        fault = "local_header"
    if fault:
        return replace(entry, fault=fault)
    values = _LOCAL.unpack(local)
    start = listed.header + _LOCAL.size + values[9] + values[10]
    if values[3] != listed.method or start + listed.packed > source.size:
        return replace(entry, fault="local_header")
    return replace(entry, at=start, packed=listed.packed if listed.method == _DEFLATED else None)


def _fault(listed: _Listed, overlaps: bool) -> str:
    if overlaps:
        return "overlap"
    if listed.flags & _ENCRYPTED:
        return "encrypted"
    if listed.method not in (_STORED, _DEFLATED):
        return "method"
    if max(listed.size, listed.packed) > MAX_MEMBER:
        return "too_large"
    if listed.size > FREE_BYTES and listed.size > MAX_RATIO * listed.packed:
        return "bomb"
    return "local_header" if listed.method == _STORED and listed.size != listed.packed else ""
