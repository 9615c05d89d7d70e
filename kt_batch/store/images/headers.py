"""Read what the header of an image file declares, and refuse images by it before anything is decoded."""

from __future__ import annotations

import io
import struct
import warnings

import tifffile
from PIL import Image, ImageMode

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images.samples import DECODER_ERRORS

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM")  # EPS, WMF and similar formats start interpreters
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG = b"\x89PNG\r\n\x1a\n"

MAX_PIXELS = 2**28
# A small file may declare a large image only if that is not too large. A blank PNG has up to 2^13 pixels a byte, a
# photograph fewer than 100; a lossless WebP of one colour has 34 bytes whatever its size.
MAX_PIXELS_OF_ANY_FILE = 2**24
MAX_PIXELS_PER_BYTE = 2**14
# The same for the bytes of the samples, which may have 8 bytes each. A blank image has up to 1,030 a byte with deflate;
# a strip with zstd or LERC has as many as it declares.
MAX_BYTES_OF_ANY_FILE = 2**26
MAX_BYTES_PER_BYTE = 2**14

_LERC, _LERC_HEADER = b"Lerc2 ", 42
_LERC_SIZES = (1, 1, 2, 2, 4, 4, 4, 8)  # bytes of its kinds of samples


def check_pixels(width: int, height: int, length: int) -> None:
    """Raise RejectError for a declared size over the limit, or that a file of `length` bytes cannot hold."""
    if width * height > MAX_PIXELS:
        raise RejectError(
            Reason.TOO_MANY_PIXELS, f"the file declares {width} x {height} pixels; allowed are {MAX_PIXELS} in all"
        )
    if width * height > max(MAX_PIXELS_OF_ANY_FILE, MAX_PIXELS_PER_BYTE * length):
        raise RejectError(
            Reason.TOO_MANY_PIXELS,
            f"the file declares {width} x {height} pixels in {length} bytes; allowed are {MAX_PIXELS_OF_ANY_FILE}, or "
            f"{MAX_PIXELS_PER_BYTE} a byte",
        )


def check_bytes(declared: int, length: int) -> None:
    """Raise RejectError for declared samples that are too many bytes for a file of `length` bytes."""
    if declared > max(MAX_BYTES_OF_ANY_FILE, MAX_BYTES_PER_BYTE * length):
        raise RejectError(
            Reason.TOO_MANY_PIXELS,
            f"the file declares samples of {declared} bytes in {length} bytes; allowed are {MAX_BYTES_OF_ANY_FILE}, or "
            f"{MAX_BYTES_PER_BYTE} a byte",
        )


def declared_bytes(data: bytes) -> int:
    """Return the bytes of all samples of the first image, by its header; 0 when the header cannot be read.

    The header may lie. This is for a limit of memory, before anything is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if canvas := size_of_webp(data):
                return canvas[0] * canvas[1] * 4
            if data[:4] in TIFF:
                with tifffile.TiffFile(io.BytesIO(data), is_lsm=False) as tiff:
                    return bytes_of_page(tiff.pages.first)
            with Image.open(io.BytesIO(data), formats=FORMATS) as header:
                return bytes_of_image(header, is_deep_png(data))
    except Exception:  # noqa: BLE001 - whatever is wrong with the header, decoding finds it again and says it
        return 0


def size_of_webp(data: bytes) -> tuple[int, int] | None:
    """Return the width and the height of the canvas of a WebP; None for other bytes.

    Source: RFC 9649, sections 2.5 to 2.7.
    """
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    match data[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    return None


def is_deep_png(data: bytes) -> bool:
    """Tell whether a file is a PNG of 16 bits; IHDR is the first chunk: length, name, width, height, bit depth."""
    return data[:8] == PNG and data[12:16] == b"IHDR" and data[24:25] == b"\x10"


def bytes_of_image(header: Image.Image, deep: bool = False) -> int:
    """Return the bytes of the samples of an image that Pillow has opened; `deep` for 2 bytes where Pillow says 1."""
    mode = ImageMode.getmode(header.mode)
    return header.width * header.height * len(mode.bands) * max(int(mode.typestr[-1]), 2 if deep else 1)


def bytes_of_page(page: tifffile.TiffPage) -> int:
    """Return the bytes of the samples of a page of a TIFF as they are decoded: of 12 bits take 2 bytes."""
    area = max(page.imagewidth * page.imagelength, page.tilewidth * page.tilelength)
    size = page.dtype.itemsize if page.dtype is not None else -(-page.bitspersample // 8)
    return int(area * page.samplesperpixel * max(1, size))


def bytes_of_segment(segment: bytes) -> int:
    """Return the bytes of the samples that a strip or a tile of a TIFF declares by itself; 0 where it declares none.

    JPEG, JPEG 2000, PNG, WebP and LERC have headers of their own, and decoders take memory by them.
    """
    if segment.startswith(_LERC) and len(segment) >= _LERC_HEADER:
        return _bytes_of_lerc(segment)
    if canvas := size_of_webp(segment):
        return canvas[0] * canvas[1] * 4
    try:
        with Image.open(io.BytesIO(segment), formats=("JPEG", "JPEG2000", "PNG")) as header:
            return bytes_of_image(header, is_deep_png(segment))
    except DECODER_ERRORS:
        return 0


def _bytes_of_lerc(segment: bytes) -> int:
    """Return the bytes of the samples that the bands of a LERC declare, if all of them are like the first.

    Source: https://github.com/Esri/lerc, the struct HeaderInfo of Lerc2.h.
    """
    (version,) = struct.unpack_from("<i", segment, len(_LERC))
    at = 10 if version < 3 else 14  # a checksum came with version 3, samples in a pixel with version 4
    height, width, samples = struct.unpack_from("<iii", segment, at)
    (kind,) = struct.unpack_from("<i", segment, at + (24 if version >= 4 else 20))
    size = _LERC_SIZES[kind] if 0 <= kind < len(_LERC_SIZES) else 8
    return int(max(0, height) * max(0, width) * max(1, samples if version >= 4 else 1) * size * segment.count(_LERC))
