"""What is understood of an image file, as values for a person: `kt-batch inspect IMAGE`.

This runs in the image reader's process. Texts from the file are cut, and nothing here decides how an image is read.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from kt_batch.errors import RejectError
from kt_batch.store.images import heif, heif_items, icc, jpeg2000, jpegxl, jxl_profile, kinds, raw
from kt_batch.store.images.headers import FORMATS, TIFF
from kt_batch.store.images.metadata.blocks import Blocks
from kt_batch.store.images.metadata.read import blocks_of
from kt_batch.store.images.rasters import read_raster
from kt_batch.store.images.samples import DECODER_ERRORS, Raster

MAX_TEXT = 120  # characters of a text from the file
_RAW = "camera raw"
_LONG_SIDE = 512  # at which it is decoded
_COLOURS = {1: "grey", 3: "RGB", 4: "CMYK"}
_ORIENTATIONS = {
    1: "as stored", 2: "mirrored left to right", 3: "turned by 180 degrees", 4: "mirrored top to bottom",
    5: "transposed", 6: "turned right by 90 degrees", 7: "transversed", 8: "turned left by 90 degrees",
}  # fmt: skip
_ORIENTATION_OF_FLIP = {3: 3, 5: 8, 6: 6}  # LibRaw's number of a turn
_DEVELOPED = "by LibRaw: white balance of the camera, no automatic brightness, 16 bits, Rec. 2020"
_GAIN_MAP = re.compile(rb"hdrgm:Version|urn:iso:std:iso:ts:21496:-1|hdrgainmap", re.IGNORECASE)

Facts = dict[str, Any]


def facts_of(data: bytes) -> Facts:
    """Return what is understood of a file; of a file that is rejected, what its headers say, and the reject."""
    kind = kinds.kind_of(data)
    blocks = blocks_of(data)
    facts: Facts = {"format": _format(data, kind)}
    try:
        raster = read_raster(data, _LONG_SIDE)
        facts |= _of_raster(raster, *_stored(data, kind, raster))
    except RejectError as error:
        facts["reject"] = {"reason": str(error.reason), "message": error.message}
    else:
        facts["reject"] = None
    if facts["reject"] is None and facts["format"] and facts["format"].startswith(_RAW):
        facts["developed"] = _DEVELOPED
    facts["profile"] = _profile(blocks.icc or _boxed_profile(data, kind))
    facts["metadata"] = _sizes(blocks)
    facts["taken"] = (blocks.capture_time or "")[:MAX_TEXT] or None
    return facts | _quietly(data, kind)


def _format(data: bytes, kind: str | None) -> str | None:
    if kind == kinds.HEIF:
        try:
            return heif.declared(data).coding
        except (RejectError, ValueError):
            return kind
    if kind is not None:
        return kind if kind in (kinds.JPEG_XL, kinds.JPEG_2000) else f"{_RAW} ({kind})"
    if data[:4] in TIFF:
        return "TIFF"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.format
    except (Image.DecompressionBombError, *DECODER_ERRORS):
        return None


def _of_raster(raster: Raster, width: int, height: int, orientation: int) -> Facts:
    turned = raster.orientation > 4
    space = raster.space
    alpha = "premultiplied" if raster.premultiplied else "straight"
    return {
        "width": raster.height if turned else raster.width,
        "height": raster.width if turned else raster.height,
        "stored_width": width,
        "stored_height": height,
        "orientation": orientation,
        "orientation_is": _ORIENTATIONS[orientation],
        "bits": _bits(raster),
        "samples": "float" if raster.samples.dtype.kind == "f" else "unsigned",
        "colours": _COLOURS[raster.channels],
        "transparency": alpha if raster.alpha and raster.channels < 4 else None,
        "space": {
            "decided_by": space.source,
            "is": _name(raster),
            "high_dynamic_range": str(space.transfer) if space.transfer else None,
            "narrow_range": space.narrow,
        },
    }


def _bits(raster: Raster) -> int:
    if raster.samples.dtype.kind == "f":
        return int(raster.samples.dtype.itemsize * 8)
    return int(np.log2(raster.white + 1) + 0.5)


def _name(raster: Raster) -> str:
    """Name the space: of a profile only its description could, and that counts for nothing."""
    if raster.channels == 4:
        return "ink of the profile" if raster.space.profile else "ink without a profile"
    if raster.space.transfer:
        return "tone-mapped to sRGB"
    return "converted to sRGB" if raster.space.profile else "sRGB"


def _stored(data: bytes, kind: str | None, raster: Raster) -> tuple[int, int, int]:
    """Return width and height as stored, and the orientation, also where the decoder turns the picture."""
    if kind == kinds.HEIF:
        found = heif.declared(data)
        return found.width, found.height, heif_items.orientation_of(found.items.item(found.items.primary))
    if kind == kinds.JPEG_XL:
        header = jpegxl.header_of(data)
        return header.width, header.height, header.orientation
    if kind in (None, kinds.JPEG_2000):
        return raster.width, raster.height, raster.orientation
    width, height, flip = raw.stored_size(data)
    return width, height, _ORIENTATION_OF_FLIP.get(flip, 1)


def _boxed_profile(data: bytes, kind: str | None) -> bytes | None:
    """Return the profile of a format whose metadata does not hold it."""
    try:
        if kind == kinds.JPEG_XL and jpegxl.header_of(data).encoding.icc:
            return jxl_profile.profile_of(data)
        if kind == kinds.JPEG_2000:
            return jpeg2000.description_of(data).profile
        if kind != kinds.HEIF:
            return None
        items = heif.declared(data).items
        return heif_items.colours_of(items.item(items.primary))[1]
    except (RejectError, ValueError):
        return None


def _profile(profile: bytes | None) -> Facts | None:
    """Return what a profile says of itself: it is shown, and decides nothing."""
    if not profile:
        return None
    return {
        "bytes": len(profile),
        "description": _description(icc.tags_of(profile).get(b"desc", b"")),
        "colours": icc.data_space(profile).decode("latin-1").strip(),
        "version": f"{profile[8]}.{profile[9] >> 4}" if len(profile) > 9 else None,
    }


def _description(tag: bytes) -> str | None:
    """Return the text of a tag `desc`, of version 2 or 4."""
    text = ""
    if tag[:4] == b"desc" and len(tag) >= 12:
        (count,) = struct.unpack_from(">I", tag, 8)
        text = tag[12 : 12 + min(count, MAX_TEXT)].split(b"\0")[0].decode("latin-1")
    elif tag[:4] == b"mluc" and len(tag) >= 28:
        size, at = struct.unpack_from(">II", tag, 20)
        text = tag[at : at + min(size, 2 * MAX_TEXT)].decode("utf-16-be", errors="replace").split("\0")[0]
    return text[:MAX_TEXT] or None


def _sizes(blocks: Blocks) -> Facts:
    """Return the bytes of each block of metadata; blocks that are absent or damaged have none."""
    named = {"exif": blocks.exif, "xmp": blocks.xmp, "iptc": blocks.iptc, "icc": blocks.icc}
    return {name: len(block) for name, block in named.items() if block}


def _quietly(data: bytes, kind: str | None) -> Facts:
    """Return whether there are a gain map and more pictures; None where that cannot be found out."""
    more: bool | None = None
    gain_map = kind is None and bool(_GAIN_MAP.search(data)) and data[:2] == b"\xff\xd8"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            more = _has_more(data, kind)
        if kind == kinds.HEIF and (items := heif_items.items_of(data)) is not None:
            gain_map = items.gain_map()
    except (RejectError, Image.DecompressionBombError, *DECODER_ERRORS):
        pass  # the reject tells what is wrong with the file
    return {"gain_map": gain_map, "more_pictures": more}


def _has_more(data: bytes, kind: str | None) -> bool:
    """Tell whether the file holds further frames, pages or pictures, which are not read."""
    if kind == kinds.HEIF:
        items = heif_items.items_of(data)
        return items is not None and items.has_more()
    if kind == kinds.JPEG_XL:
        return jpegxl.header_of(data).animated
    if kind is not None:
        return False
    if data[:4] in TIFF:
        with tifffile.TiffFile(io.BytesIO(data), is_lsm=False) as file:
            return _has_page(file, 1)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return bool(getattr(image, "is_animated", False))


def _has_page(file: tifffile.TiffFile, number: int) -> bool:
    try:
        file.pages[number]
    except IndexError:
        return False
    return True
