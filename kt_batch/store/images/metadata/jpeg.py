"""Metadata in JPEG: segments APP1 for EXIF and XMP, APP2 for ICC, APP13 for IPTC.

Sources: CIPA DC-008 (Exif), ISO 16684-3 (XMP, with extensions), ICC.1:2022 annex B.4.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from kt_batch.store.images.jpeg import segments_of
from kt_batch.store.images.metadata import photoshop, xmp, xmp_edit
from kt_batch.store.images.metadata.blocks import MAX_BLOCK, Blocks, bounded, sound_exif, sound_icc
from kt_batch.store.images.metadata.rebuilt import shortened

_APP0, _APP1, _APP2, _APP13, _SCAN = 0xE0, 0xE1, 0xE2, 0xED, 0xDA
_EXIF, _XMP, _ICC, _IPTC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0", b"Photoshop 3.0\0"
_MORE_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_LONGEST = 65533  # bytes of a segment without its length
_DIGEST, _PLACE = 32, 8  # of a part of XMP: whose it is, then the length of the whole and the place of the part
_PART = 65000
_MAX_SEGMENTS = 8192
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd9\xff]")  # of a segment with a length


def read(data: bytes) -> Blocks:
    """Return the metadata of a JPEG."""
    exif = packet = None
    profile: dict[int, bytes] = {}
    resources: list[bytes] = []
    more: list[bytes] = []
    long_exif: list[bytes] = []
    parts = 0
    for marker, content in _headers(data):
        if marker == _APP1 and content.startswith(_EXIF[:5]):
            if exif is None:
                exif = sound_exif(content)
            elif sound_exif(content) is None:  # what did not fit into the first segment
                long_exif.append(content[len(_EXIF) :])
        elif marker == _APP1 and content.startswith(_XMP):
            packet = packet or content[len(_XMP) :]
        elif marker == _APP1 and content.startswith(_MORE_XMP):
            more.append(content[len(_MORE_XMP) :])
        elif marker == _APP2 and content.startswith(_ICC) and len(content) > len(_ICC) + 2:
            number, parts = content[len(_ICC)], content[len(_ICC) + 1]
            profile.setdefault(number, content[len(_ICC) + 2 :])
        elif marker == _APP13 and content.startswith(_IPTC):
            resources.append(content[len(_IPTC) :])
    icc = b"".join(profile[number] for number in sorted(profile)) if set(profile) == {*range(1, parts + 1)} else None
    exif = bounded(b"".join([exif or b"", *long_exif]))
    return Blocks(exif, _whole_xmp(packet, more), bounded(photoshop.iptc_of(b"".join(resources))), sound_icc(icc))


def embed(data: bytes, blocks: Blocks) -> bytes:
    """Return a JPEG with metadata behind its first header; segments of the same kinds are replaced."""
    segments = b"".join(_segment(marker, content) for marker, content in _made(blocks))
    if not segments:
        return data
    start = 2
    head, rest = b"", bytearray()
    for marker, at, end in segments_of(data):
        if marker == _SCAN:
            break
        segment = data[at:end]
        if marker == _APP0 and at == start == 2:
            head = segment
        elif not _is_replaced(marker, segment[4:], blocks):
            rest += segment
        start = end
    return data[:2] + head + segments + bytes(rest) + data[start:]


def _headers(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of each segment of applications before the pixels; bytes between them are skipped."""
    at = 2
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None or found[0][1] == _SCAN or len(data) < found.end() + 2:
            return
        (length,) = struct.unpack_from(">H", data, found.end())
        at = found.end() + max(2, length)
        if _APP1 <= found[0][1] <= _APP13 and at <= len(data):
            yield found[0][1], data[found.end() + 2 : at]


def _whole_xmp(packet: bytes | None, more: list[bytes]) -> bytes | None:
    """Return a packet with its extension, where it has one and all of it is there."""
    if packet is None or not more:
        return packet
    main = xmp.parsed(packet)
    digest = (xmp_edit.extended_by(main) if main else None) or ""
    parts = {
        struct.unpack_from(">I", part, _DIGEST + 4)[0]: part[_DIGEST + _PLACE :]
        for part in more
        if len(part) > _DIGEST + _PLACE and part[:_DIGEST] == digest.encode("utf-8", "replace")
    }
    length = 0
    for place in sorted(parts):
        length = length + len(parts[place]) if place == length else MAX_BLOCK + 1
    extension = xmp.parsed(b"".join(parts[place] for place in sorted(parts))) if length <= MAX_BLOCK else None
    if main is None or extension is None:
        return packet
    xmp_edit.merged(main, extension)
    return xmp.written(main)


def _made(blocks: Blocks) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of the segments that hold blocks."""
    exif = shortened(blocks.exif, _LONGEST - len(_EXIF)) if blocks.exif else None
    if exif:
        yield _APP1, _EXIF + exif
    if blocks.xmp:
        yield from _made_xmp(blocks.xmp)
    if blocks.iptc:
        resources = photoshop.wrapped(blocks.iptc)
        for at in range(0, len(resources), _PART):
            yield _APP13, _IPTC + resources[at : at + _PART]
    if blocks.icc:
        parts = [blocks.icc[at : at + _PART] for at in range(0, len(blocks.icc), _PART)]
        if len(parts) <= 255:
            for number, part in enumerate(parts, 1):
                yield _APP2, _ICC + bytes([number, len(parts)]) + part


def _made_xmp(packet: bytes) -> Iterator[tuple[int, bytes]]:
    limit = _LONGEST - len(_XMP)
    if len(packet) <= limit:
        yield _APP1, _XMP + packet
        return
    main, rest, digest = xmp_edit.split(packet, limit)
    if main:
        yield _APP1, _XMP + main
        for at in range(0, len(rest), _PART):
            place = digest.encode() + struct.pack(">II", len(rest), at)
            yield _APP1, _MORE_XMP + place + rest[at : at + _PART]


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _is_replaced(marker: int, content: bytes, blocks: Blocks) -> bool:
    kinds = (
        (blocks.exif, _APP1, _EXIF[:5]),
        (blocks.xmp, _APP1, _XMP),
        (blocks.xmp, _APP1, _MORE_XMP),
        (blocks.iptc, _APP13, _IPTC),
        (blocks.icc, _APP2, _ICC),
    )
    return any(block and marker == its and content.startswith(name) for block, its, name in kinds)
