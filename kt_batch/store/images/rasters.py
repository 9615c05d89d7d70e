"""Read image files as samples.

This module chooses the reader, refuses what is unsupported, and turns every fault into a reject. Three readers are
behind `read_raster`, chosen from the bytes and never from a name: imagecodecs for 16-bit PNG, tifffile for TIFF with
more than 8 bits, Pillow for the rest (Pillow silently reads 16-bit RGB as 8-bit). Each returns the samples as they are
in the file; `images.files` makes colours of them.
"""

from __future__ import annotations

import io
import json
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, SAMPLEFORMAT

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images.headers import FORMATS, MAX_PIXELS, PNG, TIFF, check_pixels, size_of_webp

# Pillow's limit guards Image.open in the whole process. It equals ours, so `check_pixels` decides.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

# tifffile logs every irregularity of a file. The reject holds what matters.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

# Errors that decoders raise for malformed bytes.
_DECODER_ERRORS = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError,
    AssertionError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip

# Bytes with one of these signatures are an image, and damaged when they cannot be decoded. The comments of a PPM end at
# line ends, and only the last line may be given back: the search is linear in the bytes.
_SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|II[*+]\0|MM\0[*+]|GIF8[79]a|RIFF....WEBP"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0|P[1-6fF]\s+(?:#[^\n]*\n\s*)*(?:#[^\n]*\s)?-?\d",
    re.DOTALL,
)

_BOMB = re.compile(r"too large|too much memory", re.IGNORECASE)  # Pillow on endless PNG chunks

# JPEG frame headers that are supported with 8 bits a sample: baseline, extended, progressive, lossless, and two with
# arithmetic coding. The others are hierarchical, or JPEG-LS.
_FRAMES_OF_JPEG = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA})
_NO_FRAMES_OF_JPEG = frozenset({0xC4, 0xC8, 0xCC})  # tables with numbers in the same range

# Pillow mode -> mode to convert to.
_TAKEN_AS = {
    "1": "L", "L": "L", "LA": "LA", "La": "LA",
    "P": "RGB", "RGB": "RGB", "RGBX": "RGB", "YCbCr": "RGB",
    "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA", "CMYK": "CMYK",
}  # fmt: skip
_CHANNELS = {"L": 1, "LA": 1, "RGB": 3, "RGBA": 3, "CMYK": 4}
_WHITE_OF_DEEP_GREY = {"I;16": 65535.0, "I;16L": 65535.0, "I;16B": 65535.0, "I": 65535.0, "F": 1.0}

_CHANNELS_OF_TIFF = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.SEPARATED: 4,
}

Samples: TypeAlias = NDArray[Any]  # dtype as in the file


@dataclass(frozen=True)
class Raster:
    """Samples as they are in a file, with what is needed to read them as colours."""

    samples: Samples  # (height, width, channels [+ alpha] [+ ignored])
    channels: int  # of colour: 1 grey, 3 RGB, 4 CMYK as amounts of ink
    width: int  # of the file, before orientation; a JPEG may have been decoded smaller
    height: int
    white: float = 255.0  # the sample value that stands for 1
    alpha: bool = False
    premultiplied: bool = False
    inverted: bool = False  # 0 is white
    orientation: int = 1  # EXIF, 1..8
    profile: bytes | None = None


def fit(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Return (width, height) with the longer side reduced to `long_side`.

    Halves round up, no side is below 1, and nothing is enlarged.
    """
    longer = max(width, height)
    if longer <= long_side:
        return width, height
    shorter = max(1, (2 * min(width, height) * long_side + longer) // (2 * longer))
    return (long_side, shorter) if width >= height else (shorter, long_side)


def read_raster(data: bytes, long_side: int) -> Raster:
    """Read the samples of the first image of a file.

    A JPEG may be returned smaller, but its long side is at least `long_side`.

    Raises:
        RejectError: the image cannot be used. Whatever a decoder raises becomes one.
    """
    if not data:
        raise RejectError(Reason.EMPTY, "the file is empty: 0 bytes")
    try:
        # Decoders warn about metadata that is not used, and about a pixel limit that is checked anyway.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _checked(_read(data, long_side))
    except RejectError:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise RejectError(Reason.TOO_MANY_PIXELS, f"the image is over {MAX_PIXELS} pixels: {error}") from error
    except _DECODER_ERRORS as error:
        raise _rejection(data, error) from error


def _rejection(data: bytes, error: Exception) -> RejectError:
    if _BOMB.search(str(error)):  # Pillow raises a plain ValueError
        return RejectError(Reason.TOO_MANY_PIXELS, f"a compressed part of the file is a bomb: {error}")
    if data[:3] == b"\xff\xd8\xff" and (kind := _other_jpeg(data)):
        return RejectError(Reason.UNSUPPORTED, f"the file is {kind}; allowed is JPEG of 8 bits a sample")
    if _SIGNATURE.match(data):
        # Pillow's "cannot identify" names a memory address; a reject must read the same in every run.
        why = "not even its header is whole" if isinstance(error, UnidentifiedImageError) else str(error)[:200]
        return RejectError(Reason.TRUNCATED, f"the image is cut or damaged ({len(data)} bytes): {why}")
    return RejectError(Reason.NOT_AN_IMAGE, f"the file begins with {data[:8]!r}; allowed are {', '.join(FORMATS)}")


def _other_jpeg(data: bytes) -> str | None:
    """Name the kind of an unsupported JPEG by its first frame header; None otherwise."""
    at = 2
    while data[at : at + 1] == b"\xff" and len(data) >= at + 5:
        marker, length, bits = struct.unpack_from(">xBHB", data, at)
        if (0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES_OF_JPEG) or marker == 0xF7:
            known = marker in _FRAMES_OF_JPEG and bits == 8
            return None if known else f"a JPEG of {bits} bits a sample with frame {marker:#x}"
        at += 2 + length
    return None


def _check_sums_of_png(data: bytes) -> None:
    """Reject a PNG whose pixel chunks have wrong checksums.

    Pillow checks only the chunks before them. A chunk that is cut has no checksum: the decoder finds that pixels are
    missing.
    """
    view, at = memoryview(data), 8
    while len(data) >= at + 12:
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if data[at + 4 : at + 8] == b"IDAT" and len(data) >= end + 4:
            (checksum,) = struct.unpack_from(">I", data, end)
            if zlib.crc32(view[at + 4 : end]) != checksum:
                raise RejectError(Reason.TRUNCATED, f"the image is damaged: wrong checksum of the pixels at byte {at}")
        at = end + 4


def _read(data: bytes, long_side: int) -> Raster:
    if data[:4] in TIFF:
        return _read_tiff(data, long_side)
    if data[:8] == PNG:
        _check_sums_of_png(data)
        # IHDR is the first chunk of every PNG: length, name, width, height, bit depth.
        if data[12:16] == b"IHDR" and data[24] == 16:
            return _read_deep_png(data)
    return _read_with_pillow(data, long_side)


def _checked(raster: Raster) -> Raster:
    if 0 in raster.samples.shape or raster.samples.shape[2] < raster.channels + raster.alpha:
        raise RejectError(Reason.TRUNCATED, f"the samples are {raster.samples.shape}, fewer than an image needs")
    return raster


def _read_with_pillow(data: bytes, long_side: int) -> Raster:
    if canvas := size_of_webp(data):  # Pillow takes memory for a WebP before it says the size
        check_pixels(*canvas, len(data))
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    check_pixels(width, height, len(data))
    kind = image.format
    image.draft(None, fit(width, height, long_side))  # JPEG only: decodes at 1/2, 1/4 or 1/8, not below that
    image.load()
    samples, bands, white = _samples_of(image)
    return Raster(
        samples=samples.reshape(*samples.shape[:2], -1),
        channels=_CHANNELS[bands],
        width=width,
        height=height,
        white=white,
        alpha=bands in ("LA", "RGBA"),
        orientation=1 if kind == "TIFF" else _orientation(image.getexif),  # Pillow orients a TIFF while loading it
        profile=_profile(image.info.get("icc_profile")),
    )


def _samples_of(image: Image.Image) -> tuple[Samples, str, float]:
    """Return samples, bands (L, LA, RGB, RGBA, CMYK) and the value of white."""
    if image.mode in _WHITE_OF_DEEP_GREY:
        return np.asarray(image), "L", _WHITE_OF_DEEP_GREY[image.mode]
    bands = _TAKEN_AS.get(image.mode)
    if bands is None:
        raise RejectError(Reason.UNSUPPORTED, f"samples of kind {image.mode} are not read; use RGB, grey or CMYK")
    if image.has_transparency_data and bands in ("L", "RGB"):  # a transparent colour or palette entry
        bands = "RGBA"
    return np.asarray(image.convert(bands)), bands, 255.0


def _read_deep_png(data: bytes) -> Raster:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as header:  # reads only the chunks before the pixels
        width, height = header.size
        info = header.info
    check_pixels(width, height, len(data))
    samples = imagecodecs.png_decode(data).reshape(height, width, -1)
    return Raster(
        samples=samples,
        channels=1 if samples.shape[2] < 3 else 3,
        width=width,
        height=height,
        white=65535.0,
        alpha=samples.shape[2] in (2, 4),
        orientation=_orientation(lambda: _parsed_exif(info.get("exif", b""))),
        profile=_profile(info.get("icc_profile")),
    )


def _read_tiff(data: bytes, long_side: int) -> Raster:
    with tifffile.TiffFile(io.BytesIO(data), is_lsm=False) as tiff:  # reading as LSM would read every page
        page = tiff.pages.first
        _check_numbers_of_tiff(page)
        check_pixels(page.imagewidth, page.imagelength, len(data))
        check_pixels(page.tilewidth, page.tilelength, len(data))
        _check_kind_of_tiff(page)
        if page.bitspersample <= 8:
            try:
                return _read_with_pillow(data, long_side)
            except UnidentifiedImageError:
                pass  # a layout or compression that only tifffile supports
        return _read_tiff_page(page, len(data))


def _check_numbers_of_tiff(page: tifffile.TiffPage) -> None:
    """Reject a TIFF with a list where one number belongs.

    tifffile passes the list on, and a list times a number is a list of unbounded length.
    """
    for field in (
        "imagewidth",
        "imagelength",
        "imagedepth",
        "tilewidth",
        "tilelength",
        "samplesperpixel",
        "bitspersample",
    ):
        if not isinstance(getattr(page, field), int):
            raise RejectError(Reason.UNSUPPORTED, f"the TIFF has a list as its {field}; allowed is one number")


def _check_kind_of_tiff(page: tifffile.TiffPage) -> None:
    """Reject a TIFF whose first page is not the image.

    It would be read as one plane of a measurement, or as the preview of a raw file.
    """
    if page.is_reduced:
        raise RejectError(Reason.UNSUPPORTED, "the first image of the TIFF is a preview, as in camera raw files")
    if page.compression not in tuple(COMPRESSION) or page.photometric not in tuple(PHOTOMETRIC):
        raise RejectError(
            Reason.UNSUPPORTED,
            f"the TIFF has compression {page.compression!r} and colours of kind {page.photometric!r}; one is unknown",
        )
    if page.sampleformat == SAMPLEFORMAT.INT:  # Pillow reads signed 8-bit samples as unsigned
        raise RejectError(Reason.UNSUPPORTED, "the TIFF has signed samples; allowed are unsigned and float")
    axes = max(len(page.shape), _declared_axes(page))
    if page.imagedepth > 1 or axes > len(page.shape) + 1:
        raise RejectError(Reason.UNSUPPORTED, f"the TIFF has {axes} axes; allowed are an image and a list of pages")


def _declared_axes(page: tifffile.TiffPage) -> int:
    """Return the number of axes that array writers declare in the description.

    A walk over all pages may never end.
    """
    try:
        return len(json.loads(page.description)["shape"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return 0  # an ordinary description


def _read_tiff_page(page: tifffile.TiffPage, length: int) -> Raster:
    photometric = PHOTOMETRIC(page.photometric)
    channels = _CHANNELS_OF_TIFF.get(photometric, 0)
    extra = page.samplesperpixel - channels
    if channels == 0 or extra not in (0, 1) or page.dtype is None or page.dtype.kind not in "uf":
        raise RejectError(
            Reason.UNSUPPORTED,
            f"the TIFF has {page.samplesperpixel} channels of {page.dtype} as {photometric.name}; "
            "allowed are grey, RGB and CMYK with at most one more, unsigned or float",
        )
    if any(start + count > length for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)):
        raise RejectError(Reason.TRUNCATED, f"the TIFF points beyond its end at {length} bytes")
    samples = page.asarray(maxworkers=1)
    if page.axes.startswith("S"):  # separate planes
        samples = np.moveaxis(samples, 0, -1)
    kind_of_extra = page.extrasamples[0] if page.extrasamples else EXTRASAMPLE.UNSPECIFIED
    return Raster(
        samples=samples.reshape(page.imagelength, page.imagewidth, -1),
        channels=channels,
        width=page.imagewidth,
        height=page.imagelength,
        white=1.0 if page.dtype.kind == "f" else float(2**page.bitspersample - 1),
        alpha=extra == 1 and kind_of_extra != EXTRASAMPLE.UNSPECIFIED,
        premultiplied=kind_of_extra == EXTRASAMPLE.ASSOCALPHA,
        inverted=photometric == PHOTOMETRIC.MINISWHITE,
        orientation=_orientation(lambda: {ExifTags.Base.Orientation: page.tags.valueof(ExifTags.Base.Orientation, 1)}),
        profile=_profile(page.iccprofile),
    )


def _parsed_exif(block: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(block)
    return exif


def _orientation(read_tags: Callable[[], Mapping[int, object]]) -> int:
    try:
        value = read_tags().get(ExifTags.Base.Orientation, 1)
    except _DECODER_ERRORS:
        return 1  # a damaged EXIF block says nothing about the pixels
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _profile(value: object) -> bytes | None:
    return value if isinstance(value, bytes) else None  # a TIFF may have numbers as its profile
