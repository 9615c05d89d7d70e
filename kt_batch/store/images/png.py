"""The chunks of a PNG: checksums of the pixels, statements about colour, and what stands around the pixels."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images.headers import PNG

_OF_COLOUR = frozenset({b"cICP", b"sRGB", b"gAMA", b"cHRM"})
_OF_METADATA = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt"})
_MAX_METADATA, _MAX_TEXT = 2**26, 2**22  # bytes
_MAX_WRAPPED = 8  # texts that are unpacked
_RAW_PROFILE, _XMP_OF_APP1 = b"Raw profile type ", b"http://ns.adobe.com/xap/1.0/\0"


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
    plain: list[bytes] = []
    texts: list[tuple[bytes, bytes]] = []
    for name, at, end in _chunks(data):
        if name not in _OF_METADATA or end + 4 > len(data) or not _is_sound(view, at, end):
            continue
        content = data[at + 8 : end]
        if content.startswith(_RAW_PROFILE):
            texts.append((name, content))
        else:
            plain.append(data[at : end + 4])
    wrapped = [chunk for name, content in texts[:_MAX_WRAPPED] for chunk in _unwrapped(name, content)]
    if not 0 < sum(map(len, wrapped + plain)) <= _MAX_METADATA:
        return Image.Exif()
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixel = _chunk(b"IDAT", zlib.compress(b"\0\0"))
    # The last one of two counts, and a chunk of its own counts more than a wrapped one.
    small = b"".join([PNG, header, *wrapped, *plain, pixel, _chunk(b"IEND", b"")])
    with Image.open(io.BytesIO(small), formats=("PNG",)) as image:
        return image.getexif()


def _unwrapped(name: bytes, content: bytes) -> list[bytes]:
    """Return the chunk for a block that ImageMagick wrote as text: a name, its length, then hexadecimal digits.

    The list is empty where the block is damaged, or neither EXIF nor XMP.
    """
    keyword, _, text = content.partition(b"\0")
    try:
        if name == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MAX_TEXT)
        block = bytes.fromhex(text.decode("ascii").split("\n", 3)[3])
    except (zlib.error, ValueError, LookupError):
        return []
    block = block.removeprefix(b"Exif\0\0")
    if block[:4] in (b"II*\0", b"MM\0*"):
        return [_chunk(b"eXIf", block)]
    if keyword == _RAW_PROFILE + b"xmp" or block.startswith(_XMP_OF_APP1):
        return [_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + block.removeprefix(_XMP_OF_APP1))]
    return []


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, place and end (without checksum) of each chunk; the last one may be cut."""
    at = len(PNG)
    while len(data) >= at + 12:
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], at, at + 8 + length
        at += 12 + length


def _is_sound(view: memoryview, at: int, end: int) -> bool:
    (checksum,) = struct.unpack_from(">I", view, end)
    return bool(zlib.crc32(view[at + 4 : end]) == checksum)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
