"""What EXIF says about the pixels: orientation, and the colour space Adobe RGB.

A damaged EXIF block says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from PIL import ExifTags, Image

from kt_batch.store.images.samples import DECODER_ERRORS

_SRGB, _ADOBE_RGB, _UNCALIBRATED = 1, 2, 0xFFFF  # the values of ColorSpace; 2 is no standard, but cameras write it


def parsed_exif(block: bytes) -> Image.Exif:
    """Parse a block of EXIF, or the tags of a TIFF file."""
    exif = Image.Exif()
    exif.load(block)
    return exif


def orientation_of(read_tags: Callable[[], Mapping[int, object]]) -> int:
    """Return the orientation 1..8 that tags hold; 1 without one."""
    try:
        value = read_tags().get(ExifTags.Base.Orientation, 1)
    except DECODER_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def says_adobe_rgb(read_tags: Callable[[], Image.Exif]) -> bool:
    """Tell whether EXIF says Adobe RGB.

    A camera says so by DCF 2.0: the interoperability index is R03, and ColorSpace is uncalibrated or absent.
    """
    try:
        exif = read_tags()
        if ExifTags.IFD.Exif not in exif:
            return False
        directory = exif.get_ifd(ExifTags.IFD.Exif)
        space = directory.get(ExifTags.Base.ColorSpace, _UNCALIBRATED)
        if space != _UNCALIBRATED or ExifTags.IFD.Interop not in directory:
            return bool(space == _ADOBE_RGB)
        index = exif.get_ifd(ExifTags.IFD.Interop).get(1, "")
    except DECODER_ERRORS:
        return False
    return index[:3] in ("R03", b"R03")
