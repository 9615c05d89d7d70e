"""The members of a tar archive, in one pass over its headers.

Extended headers are bounded and belong to the next member alone; nothing that an archive declares is taken into memory.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from kt_batch.store.byte_ranges import Ranges
from kt_batch.store.passed_over import LINK, SPECIAL

BLOCK = 512
MAX_EXTENSION = 1 << 20  # bytes of an extended header
MAX_EXTENSIONS = 16  # before one member
MAX_PADDING = 1 << 20  # zeros behind the end marker

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE)
_LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
_WITHOUT_CONTENT = (*_LINKS, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME,
               tarfile.GNUTYPE_LONGLINK)  # fmt: skip


class ArchiveFaultError(Exception):
    """Nothing more can be found in an archive, from an offset on. fault: A key of `members.FAULTS`."""

    def __init__(self, fault: str, at: int) -> None:
        super().__init__(fault)
        self.fault, self.at = fault, at


@dataclass(frozen=True)
class Entry:
    """An entry of an archive.

    path: Its name; bytes that are not UTF-8 are surrogates. at, size, packed: As in `Member`. kind: The kind under
    which it is counted when it is no file; empty for a file. fault: A key of `members.FAULTS`. crc: CRC-32 of a file
    that states one.
    """

    path: str
    at: int
    size: int = 0
    packed: int | None = None
    kind: str = ""
    fault: str = ""
    crc: int | None = None


@dataclass
class _Extension:
    """What the extended headers before a member say about it."""

    path: str | None = None
    size: int | None = None
    fault: str = ""
    count: int = field(default=0)


def tar_entries(source: Ranges) -> Iterator[Entry]:
    """Yield the files, links and special files of an archive; directories are left out.

    Raises:
        ArchiveFaultError: The archive is damaged, or none. What was yielded before is sound.
    """
    at, extension = 0, _Extension()
    while True:
        header = _header(source, at, extension)
        if header is None:
            return
        start = at + BLOCK
        if header.type in _EXTENSIONS:
            _extend(extension, source, header, start)
            if extension.count > MAX_EXTENSIONS:
                raise ArchiveFaultError("header", at)
            at = start + _padded(header.size)
            continue
        if header.type == tarfile.GNUTYPE_SPARSE:
            start = _after_maps(source, at)
        size = header.size if extension.size is None else extension.size
        length = 0 if header.type in _WITHOUT_CONTENT else size
        path = header.name if extension.path is None else extension.path
        cut = start + length > source.size
        folder = header.type == tarfile.DIRTYPE or (header.type == tarfile.AREGTYPE and path.endswith("/"))
        if not folder:
            sparse = "sparse" if header.type == tarfile.GNUTYPE_SPARSE else ""
            yield Entry(path, start, size, None, _kind(header.type), extension.fault or sparse or cut * "truncated")
        if cut:
            raise ArchiveFaultError("truncated", at)
        at, extension = start + _padded(length), _Extension()


def _header(source: Ranges, at: int, extension: _Extension) -> tarfile.TarInfo | None:
    """Return the header at an offset; None at the end marker."""
    block = source.read(at, BLOCK)
    if len(block) < BLOCK:
        whole = not block and not extension.count and at
        raise ArchiveFaultError("no_end" if whole else "truncated" if at else "no_archive", at)
    if not any(block) and not extension.count:
        _check_end(source, at)
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise ArchiveFaultError("header" if at else "no_archive", at) from error
    if header.size < 0:
        raise ArchiveFaultError("header", at)
    return header


def _check_end(source: Ranges, at: int) -> None:
    """Raise ArchiveFaultError where anything but zeros follows the end marker, or more of them than a block has."""
    padding = source.read(at, MAX_PADDING)
    content = len(padding) - len(padding.lstrip(b"\0"))
    if content < len(padding) or source.size - at > MAX_PADDING:
        raise ArchiveFaultError("trailing", at + content)


def _extend(extension: _Extension, source: Ranges, header: tarfile.TarInfo, start: int) -> None:
    """Add what an extended header says about the next member."""
    extension.count += 1
    if header.type in (
        tarfile.XGLTYPE,
        tarfile.GNUTYPE_LONGLINK,
    ):  # of all members, which says nothing of one; of links
        return
    if header.size > MAX_EXTENSION:
        extension.fault = "extension"
        return
    data = source.read(start, header.size)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        extension.path = _text(data.partition(b"\0")[0])
        return
    for key, value in _records(data, extension):
        if key.startswith(b"GNU.sparse"):
            extension.fault = extension.fault or "sparse"
        if key in (b"path", b"GNU.sparse.name"):
            extension.path = _text(value)
        elif key == b"size" and value.isdigit() and len(value) < 20:
            extension.size = int(value)
        elif key == b"size":
            extension.fault = "extension"


def _records(data: bytes, extension: _Extension) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of the records `<length> <key>=<value>`; a malformed one ends them with a fault."""
    at = 0
    while at < len(data) and data[at]:
        number = data[at : at + 8].partition(b" ")[0]
        length = int(number) if number.isdigit() else 0
        record = data[at + len(number) + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if length <= len(number) + 1 or at + length > len(data) or not equals or not value.endswith(b"\n"):
            extension.fault = "extension"
            return
        yield key, value[:-1]
        at += length


def _after_maps(source: Ranges, at: int) -> int:
    """Return where the content of a sparse file of GNU tar begins: behind the blocks of its map."""
    start = at + BLOCK
    more = source.read(at, BLOCK)[482]
    while more:
        block = source.read(start, BLOCK)
        if len(block) < BLOCK:
            raise ArchiveFaultError("truncated", at)
        more, start = block[504], start + BLOCK
    return start


def _kind(kind: bytes) -> str:
    return "" if kind in _FILES else LINK if kind in _LINKS else SPECIAL


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
