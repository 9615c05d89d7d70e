"""Read image files as samples.

This module chooses the reader, refuses what is unsupported, and turns every fault into a reject. The readers behind
`read_raster` are chosen from the bytes and never from a name: `heif`, `jpegxl`, `jpeg2000` and `raw` have modules of
their own; imagecodecs reads 16-bit PNG, tifffile TIFF with more than 8 bits, and Pillow the rest (Pillow silently reads
16-bit RGB as 8-bit). Each returns the samples as they are in the file; `images.files` makes colours of them.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from kt_batch.errors import Reason, RejectError
from kt_batch.kernels.sizes import fit
from kt_batch.store.images import bmp, heif, jpeg, jpeg2000, jpegxl, kinds, png, raw, tiff
from kt_batch.store.images.colour import space_of
from kt_batch.store.images.exif import orientation_of, says_adobe_rgb
from kt_batch.store.images.file_bytes import Data, opened
from kt_batch.store.images.headers import (
    FORMATS,
    MAX_PIXELS,
    PNG,
    TIFF,
    bytes_of_image,
    check_bytes,
    check_pixels,
    is_deep_png,
    size_of_webp,
)
from kt_batch.store.images.pillow_rows import PillowRows
from kt_batch.store.images.png_rows import rows_of
from kt_batch.store.images.samples import DECODER_ERRORS, Raster, Rows, Samples

# Pillow's limit guards Image.open in the whole process. It equals ours, so `check_pixels` decides.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

# tifffile logs every irregularity of a file. The reject holds what matters.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

# Bytes with one of these signatures are an image, and damaged when they cannot be decoded. The comments of a PPM end at
# line ends, and only the last line may be given back: the search is linear in the bytes.
_SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|II[*+]\0|MM\0[*+]|GIF8[79]a|RIFF....WEBP"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0|P[1-6fF]\s+(?:#[^\n]*\n\s*)*(?:#[^\n]*\s)?-?\d",
    re.DOTALL,
)
_SIGNATURE_BYTES = 2**16  # comments of a PPM stand before what tells it

_BOMB = re.compile(r"too large|too much memory", re.IGNORECASE)  # Pillow on endless PNG chunks

# Pillow mode -> mode to convert to.
_TAKEN_AS = {
    "1": "L", "L": "L", "LA": "LA", "La": "LA",
    "P": "RGB", "RGB": "RGB", "RGBX": "RGB", "YCbCr": "RGB",
    "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA", "CMYK": "CMYK",
}  # fmt: skip
_CHANNELS = {"L": 1, "LA": 1, "RGB": 3, "RGBA": 3, "CMYK": 4}
_WHITE_OF_DEEP_GREY = {"I;16": 65535.0, "I;16L": 65535.0, "I;16B": 65535.0, "I": 65535.0, "F": 1.0}


def read_raster(data: Data, long_side: int) -> Raster:
    """Read the samples of the first image of a file.

    A JPEG may be returned smaller, but its long side is at least `long_side`.

    Raises:
        RejectError: the image cannot be used. Whatever a decoder raises becomes one.
    """
    if not data:
        raise RejectError(Reason.EMPTY, "the file is empty: 0 bytes")
    with rejecting(data):
        return _checked(_read(data, long_side))


@contextmanager
def rejecting(data: Data) -> Iterator[None]:
    """Turn every fault of a file into a reject, here and where rows are decoded later."""
    try:
        # Decoders warn about metadata that is not used, and about a pixel limit that is checked anyway.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except RejectError:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise RejectError(Reason.TOO_MANY_PIXELS, f"the image is over {MAX_PIXELS} pixels: {error}") from error
    except DECODER_ERRORS as error:
        raise _rejection(data, error) from error


def _rejection(data: Data, error: Exception) -> RejectError:
    if _BOMB.search(str(error)):  # Pillow raises a plain ValueError
        return RejectError(Reason.TOO_MANY_PIXELS, f"a compressed part of the file is a bomb: {error}")
    if data[:3] == b"\xff\xd8\xff" and (kind := jpeg.other_kind(data[:])):
        return RejectError(Reason.UNSUPPORTED, f"the file is {kind}; allowed is JPEG of 8 bits a sample")
    if data[:4] in TIFF or kinds.kind_of(data) or _SIGNATURE.match(data[:_SIGNATURE_BYTES]):
        # Pillow's "cannot identify" names a memory address; a reject must read the same in every run.
        why = "not even its header is whole" if isinstance(error, UnidentifiedImageError) else str(error)[:200]
        return RejectError(Reason.TRUNCATED, f"the image is cut or damaged ({len(data)} bytes): {why}")
    if kind := kinds.foreign_kind(data):
        return RejectError(Reason.NOT_AN_IMAGE, f"the file is {kind}; allowed are {', '.join(kinds.ALLOWED)}")
    return RejectError(
        Reason.NOT_AN_IMAGE, f"the file begins with {data[:8]!r}; allowed are {', '.join(kinds.ALLOWED)}"
    )


def _read(data: Data, long_side: int) -> Raster:
    match kinds.kind_of(data):
        case None:
            return _read_by_signature(data, long_side)
        case kinds.HEIF:
            return heif.read(data[:])
        case kinds.JPEG_XL:
            return jpegxl.read(data[:])
        case kinds.JPEG_2000:
            return jpeg2000.read(data[:])
        case kind:
            return raw.read(data[:], kind, long_side)


def _read_by_signature(data: Data, long_side: int) -> Raster:
    if data[:4] in TIFF:
        return _read_tiff(data, long_side)
    data = data[:]
    if data[:8] == PNG:
        png.check_sums(data)
        if is_deep_png(data):
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
    check_bytes(bytes_of_image(image), len(data))
    _check_gain_map(image, data)
    kind, profile = image.format, _profile(image.info.get("icc_profile"))
    image.draft(None, fit(width, height, long_side))  # JPEG only: decodes at 1/2, 1/4 or 1/8, not below that
    try:
        image.load()
    except OSError:
        if kind not in ("JPEG", "MPO") or (whole := jpeg.with_end(data)) is None:
            raise
        return _read_with_pillow(whole, long_side)
    samples, bands, white = _samples_of(image)
    read_tags = (lambda: png.metadata_of(data)) if kind == "PNG" else image.getexif
    return Raster(
        samples=samples,
        channels=_CHANNELS[bands],
        width=width,
        height=height,
        white=white,
        alpha=bands in ("LA", "RGBA"),
        orientation=1 if kind == "TIFF" else orientation_of(read_tags),  # Pillow orients a TIFF while loading it
        space=space_of(
            _CHANNELS[bands],
            bmp.profile_of(data) if kind == "BMP" else profile,
            png.colour_chunks(data) if kind == "PNG" else {},
            lambda: says_adobe_rgb(read_tags),
        ),
    )


def _check_gain_map(image: Image.Image, data: bytes) -> None:
    """Reject an image whose main picture is not the standard one; that of other gain maps is, and is what is read."""
    # A JPEG says it in the picture that is the map, which stands behind the main one.
    block = data if image.format in ("JPEG", "MPO") else image.info.get("xmp")
    if isinstance(block, bytes) and jpeg.main_picture_is_bright(block):
        raise RejectError(
            Reason.UNSUPPORTED,
            "the main picture has high dynamic range, and only its gain map makes a standard one; use the standard one",
        )


def _samples_of(image: Image.Image) -> tuple[Samples | Rows, str, float]:
    """Return samples, bands (L, LA, RGB, RGBA, CMYK) and the value of white."""
    if image.mode in _WHITE_OF_DEEP_GREY:
        return np.asarray(image).reshape(image.height, image.width, 1), "L", _WHITE_OF_DEEP_GREY[image.mode]
    bands = _TAKEN_AS.get(image.mode)
    if bands is None:
        raise RejectError(Reason.UNSUPPORTED, f"samples of kind {image.mode} are not read; use RGB, grey or CMYK")
    if image.has_transparency_data and bands in ("L", "RGB"):  # a transparent colour or palette entry
        bands = {"L": "LA", "RGB": "RGBA"}[bands]
    return PillowRows(image if image.mode == bands else image.convert(bands)), bands, 255.0


def _read_deep_png(data: bytes) -> Raster:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as header:  # reads only the chunks before the pixels
        width, height = header.size
        check_pixels(width, height, len(data))
        check_bytes(bytes_of_image(header, deep=True), len(data))
        profile = _profile(header.info.get("icc_profile"))
    samples = rows_of(data)
    channels = 1 if samples.shape[2] < 3 else 3
    return Raster(
        samples=samples,
        channels=channels,
        width=width,
        height=height,
        white=65535.0,
        alpha=samples.shape[2] in (2, 4),
        orientation=orientation_of(lambda: png.metadata_of(data)),
        space=space_of(
            channels, profile, png.colour_chunks(data), lambda: says_adobe_rgb(lambda: png.metadata_of(data))
        ),
    )


def _read_tiff(data: Data, long_side: int) -> Raster:
    with tifffile.TiffFile(opened(data), is_lsm=False) as file:  # reading as LSM would read every page
        page = file.pages.first
        tiff.check_numbers(page)
        check_pixels(page.imagewidth, page.imagelength, len(data))
        check_pixels(page.tilewidth, page.tilelength, len(data))
        tiff.check_kind(page)
        if tiff.is_for_pillow(page):
            try:
                return _read_with_pillow(data[:], long_side)
            except UnidentifiedImageError:
                pass  # a layout or compression that only tifffile supports
        return tiff.read_page(page, data)


def _profile(value: object) -> bytes | None:
    return value if isinstance(value, bytes) else None  # a TIFF may have numbers as its profile
