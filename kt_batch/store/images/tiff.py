"""The first page of a TIFF: what is refused, who reads it, and its samples by tifffile."""

from __future__ import annotations

import json

import numpy as np
import tifffile
from PIL import ExifTags
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG, SAMPLEFORMAT

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images.colour import space_of
from kt_batch.store.images.exif import orientation_of, parsed_exif, says_adobe_rgb
from kt_batch.store.images.headers import bytes_of_page, bytes_of_segment, check_bytes
from kt_batch.store.images.samples import Raster

ORIENTATION = ExifTags.Base.Orientation

_CHANNELS = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.SEPARATED: 4,
}

_WITH_OWN_HEADERS = tifffile.TIFF.IMAGE_COMPRESSIONS | {COMPRESSION.LERC, COMPRESSION.WEBP_DEPRECATED}


def check_numbers(page: tifffile.TiffPage) -> None:
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


def check_kind(page: tifffile.TiffPage) -> None:
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


def is_for_pillow(page: tifffile.TiffPage) -> bool:
    """Tell whether Pillow reads a page: 8 bits at most, no separate plane of transparency, no WebP."""
    extra = page.samplesperpixel - _CHANNELS.get(PHOTOMETRIC(page.photometric), page.samplesperpixel)
    plane_of_its_own = extra == 1 and page.planarconfig == PLANARCONFIG.SEPARATE
    return page.bitspersample <= 8 and not plane_of_its_own and page.compression != COMPRESSION.WEBP


def read_page(page: tifffile.TiffPage, data: bytes) -> Raster:
    """Read the first page of a TIFF by tifffile.

    Raises:
        RejectError: Its colours are of another kind, lie beyond the end of the file, or are more than it can hold.
    """
    photometric = PHOTOMETRIC(page.photometric)
    channels = _CHANNELS.get(photometric, 0)
    extra = page.samplesperpixel - channels
    if channels == 0 or extra not in (0, 1) or page.dtype is None or page.dtype.kind not in "uf":
        raise RejectError(
            Reason.UNSUPPORTED,
            f"the TIFF has {page.samplesperpixel} channels of {page.dtype} as {photometric.name}; "
            "allowed are grey, RGB and CMYK with at most one more, unsigned or float",
        )
    if any(start + count > len(data) for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)):
        raise RejectError(Reason.TRUNCATED, f"the TIFF points beyond its end at {len(data)} bytes")
    check_bytes(bytes_of_page(page), len(data))
    _check_segments(page, data)
    samples = page.asarray(maxworkers=1)
    if page.axes.startswith("S"):  # separate planes
        samples = np.moveaxis(samples, 0, -1)
    profile = page.iccprofile if isinstance(page.iccprofile, bytes) else None  # it may be a list of numbers
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
        orientation=orientation_of(lambda: {ORIENTATION: page.tags.valueof(ORIENTATION, 1)}),
        space=space_of(channels, profile, {}, lambda: says_adobe_rgb(lambda: parsed_exif(data))),
    )


def _check_segments(page: tifffile.TiffPage, data: bytes) -> None:
    """Reject strips and tiles whose own headers declare more samples than their bytes can hold."""
    if page.compression not in _WITH_OWN_HEADERS:
        return
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        check_bytes(bytes_of_segment(data[start : start + count]), count)
