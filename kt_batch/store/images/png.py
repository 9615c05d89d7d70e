"""The chunks of a PNG: checksums of the pixels, statements about colour, and what stands around the pixels."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from kt_batch.errors import Reason, RejectError

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_OF_COLOUR = frozenset({b"cICP", b"sRGB", b"gAMA", b"cHRM"})
_OF_METADATA = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt"})
_MAX_METADATA = 2**26  # bytes


def check_sums(data: bytes) -> None:
    """Reject a PNG whose pixel chunks have wrong checksums.

    Pillow checks only the chunks before them. A chunk that is cut has no checksum: the decoder finds that pixels are
    missing.
    """
    view = memoryview(data)
    for name, at, end in _chunks(data):
        if name == b"IDAT" and len(data) >= end + 4 and not _is_sound(view, at, end):
            raise RejectError(Reason.TRUNCATED, f"the image is damaged: wrong checksum of the pixels at byte {at}")


def colour_chunks(data: bytes) -> dict[bytes, bytes]:
    """Return the content of the chunks that say something about colour; they stand before the pixels."""
    found: dict[bytes, bytes] = {}
    for name, at, end in _chunks(data):
        if name in (b"IDAT", b"PLTE"):
            break
        if name in _OF_COLOUR:
            found.setdefault(name, data[at + 8 : end])
    return found


def metadata_of(data: bytes) -> Image.Exif:
    """Return the EXIF of a PNG, wherever it stands: in `eXIf` before or after the pixels, in a text chunk, or as XMP.

    Pillow reads it from a PNG of one pixel with the same metadata, so 8 and 16 bits are read alike, and the pixels are
    not decoded for it.
    """
    view = memoryview(data)
    kept = [
        bytes(view[at : end + 4])
        for name, at, end in _chunks(data)
        if name in _OF_METADATA and end + 4 <= len(data) and _is_sound(view, at, end)
    ]
    if not kept or sum(map(len, kept)) > _MAX_METADATA:
        return Image.Exif()
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixel = _chunk(b"IDAT", zlib.compress(b"\0\0"))
    small = b"".join([SIGNATURE, header, *kept, pixel, _chunk(b"IEND", b"")])
    with Image.open(io.BytesIO(small), formats=("PNG",)) as image:
        return image.getexif()


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, place and end (without checksum) of each chunk; the last one may be cut."""
    at = len(SIGNATURE)
    while len(data) >= at + 12:
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], at, at + 8 + length
        at += 12 + length


def _is_sound(view: memoryview, at: int, end: int) -> bool:
    (checksum,) = struct.unpack_from(">I", view, end)
    return bool(zlib.crc32(view[at + 4 : end]) == checksum)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
