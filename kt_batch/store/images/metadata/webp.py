"""Metadata in WebP: chunks EXIF, XMP and ICCP. It has no place for IPTC.

Source: RFC 9649.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from kt_batch.store.images.headers import size_of_webp
from kt_batch.store.images.metadata.blocks import MAX_BLOCK, Blocks, sound_exif, sound_icc

_HEADER, _EXTENDED, _EXIF, _XMP, _ICC = 12, b"VP8X", b"EXIF", b"XMP ", b"ICCP"
_HAS_ICC, _HAS_ALPHA, _HAS_EXIF, _HAS_XMP = 0x20, 0x10, 0x08, 0x04


def read(data: bytes) -> Blocks:
    """Return the metadata of a WebP."""
    found: dict[bytes, bytes] = {}
    for name, content in _chunks(data):
        if name in (_EXIF, _XMP, _ICC) and 0 < len(content) <= MAX_BLOCK:
            found.setdefault(name, bytes(content))
    return Blocks(sound_exif(found.get(_EXIF)), found.get(_XMP), None, sound_icc(found.get(_ICC)))


def embed(data: bytes, blocks: Blocks) -> bytes:
    """Return a WebP with metadata, in the extended format; chunks of the same kinds are replaced."""
    new = {_ICC: blocks.icc, _EXIF: blocks.exif, _XMP: blocks.xmp}
    canvas = size_of_webp(data)
    if canvas is None or not any(new.values()):
        return data
    old = list(_chunks(data))
    kept = {name: bytes(content) for name, content in old if name in new}
    every = {name: new[name] or kept.get(name) for name in new}
    flags = next((content[0] for name, content in old if name == _EXTENDED), _alpha(old))
    for name, flag in ((_ICC, _HAS_ICC), (_EXIF, _HAS_EXIF), (_XMP, _HAS_XMP)):
        flags |= flag if every[name] else 0
    width, height = canvas
    extended = bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    pictures = [(name, bytes(content)) for name, content in old if name not in (*new, _EXTENDED)]
    ordered = [(_EXTENDED, extended), (_ICC, every[_ICC]), *pictures, (_EXIF, every[_EXIF]), (_XMP, every[_XMP])]
    body = b"WEBP" + b"".join(_chunk(name, content) for name, content in ordered if content)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield name and content of each whole chunk."""
    view, at = memoryview(data), _HEADER
    while len(data) >= at + 8:
        name, size = struct.unpack_from("<4sI", data, at)
        if at + 8 + size > len(data):
            return
        yield name, view[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _alpha(chunks: list[tuple[bytes, memoryview]]) -> int:
    """Return the flag of transparency, by the header of a lossless picture."""
    has_alpha = any(name == b"VP8L" and len(content) > 4 and content[4] & 0x10 for name, content in chunks)
    return _HAS_ALPHA if has_alpha else 0


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
