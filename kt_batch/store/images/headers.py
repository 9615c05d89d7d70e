"""Read what the header of an image file declares, and refuse images by it before anything is decoded."""

from __future__ import annotations

import io
import struct
import warnings

import tifffile
from PIL import Image

from kt_batch.errors import Reason, RejectError

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM")  # EPS, WMF and similar formats start interpreters
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG = b"\x89PNG\r\n\x1a\n"

MAX_PIXELS = 2**28
# A small file may declare a large image only if that is not too large. A blank PNG has up to 2^13 pixels a byte, a
# photograph fewer than 100; a lossless WebP of one colour has 34 bytes whatever its size.
MAX_PIXELS_OF_ANY_FILE = 2**24
MAX_PIXELS_PER_BYTE = 2**14


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
                return _bytes_of_tiff(data)
            with Image.open(io.BytesIO(data), formats=FORMATS) as header:
                deep = data[:8] == PNG and data[24:25] == b"\x10"
                return header.width * header.height * len(header.getbands()) * (2 if deep else 1)
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


def _bytes_of_tiff(data: bytes) -> int:
    with tifffile.TiffFile(io.BytesIO(data), is_lsm=False) as tiff:
        page = tiff.pages.first
        area = max(page.imagewidth * page.imagelength, page.tilewidth * page.tilelength)
        return int(area * page.samplesperpixel * max(1, page.bitspersample // 8))
