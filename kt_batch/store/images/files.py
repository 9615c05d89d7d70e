"""Decode image files to float pixels, and encode pixels.

No path or socket is opened here. `rasters` returns samples as they are in a file. This module scales them to [0, 1],
blends transparency, shrinks, converts colours and orients: once for every format, and in float, so that 16 bits stay 16
bits.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from kt_batch.errors import Reason, RejectError, UsageError
from kt_batch.kernels.sizes import fit, padded
from kt_batch.store.images.conversion import OUTPUT_PROFILES, from_srgb, to_srgb
from kt_batch.store.images.file_bytes import Data, FileBytes
from kt_batch.store.images.lcms import Floats
from kt_batch.store.images.metadata.blocks import Blocks
from kt_batch.store.images.own_space import OwnSpace, own_space
from kt_batch.store.images.rasters import read_raster, rejecting
from kt_batch.store.images.samples import Raster, Samples

# Longest side that a format can hold. Codecs report a longer one in words that explain nothing.
LONGEST_SIDE = {"png": 2**31 - 1, "jpg": 65500, "webp": 16383}

THUMBNAIL = 144  # pixels of the long side
_GAP = 2  # cheap reductions (JPEG scaling, boxes) stop at this multiple of the wanted size
_HASHED_BYTES = 2**23  # of an open file at a time
_STRIP_SAMPLES = 2**22  # samples converted to float at a time, so no float copy of a huge image exists


@dataclass(frozen=True)
class WorkingImage:
    """An image as it is encoded, before padding.

    pixels: (height, width, 3) float32, sRGB in [0, 1], all finite, C-contiguous. original_width, original_height: size
    of the file's image after orientation. blocks: metadata of the file, where somebody asked for it. own: the space of
    the file's samples, where outputs can be written in it. further: the same image at further sizes, where somebody
    asked for them.
    """

    pixels: Floats
    original_width: int
    original_height: int
    blocks: Blocks = field(default_factory=Blocks)
    own: OwnSpace | None = None
    further: tuple[WorkingImage, ...] = ()

    @property
    def width(self) -> int:
        """Return the columns of `pixels`."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Return the rows of `pixels`."""
        return int(self.pixels.shape[0])


def image_id(data: Data) -> str:
    """Return the first 8 bytes of the SHA-256 of a file, as 16 hex digits."""
    digest = hashlib.sha256()
    if isinstance(data, FileBytes):
        for start in range(0, len(data), _HASHED_BYTES):
            digest.update(data[start : start + _HASHED_BYTES])
    else:
        digest.update(data)
    return digest.hexdigest()[:16]


def decode(data: Data, size: int) -> WorkingImage:
    """Decode an image file to a working image with a long side of at most `size`.

    The image is never enlarged. It is oriented by EXIF, an embedded profile is converted to sRGB, and transparency is
    blended over white. Of an animation the first frame is read, of a document the first page. Float files are read as
    [0, 1] and clipped.

    Args:
        data: any bytes, or those of an open file.
        size: pixels of the long side, at least 1.

    Raises:
        RejectError: the image cannot be used. No other error is raised, whatever the bytes are.
    """
    with rejecting(data):
        raster = read_raster(data, _GAP * size)
        small = _shrink(raster, *fit(raster.width, raster.height, size))
    pixels = oriented(to_srgb(small, raster.space), raster.orientation)
    turned = raster.orientation > 4
    width, height = (raster.height, raster.width) if turned else (raster.width, raster.height)
    return WorkingImage(np.ascontiguousarray(pixels), width, height, own=own_space(raster))


def pad_to(pixels: Floats, stride: int) -> Floats:
    """Reflect pixels (H, W, C) at the bottom and the right; `padded` says how far."""
    rows, cols = (_reflected(side, padded(side, stride)) for side in pixels.shape[:2])
    return pixels.take(rows, axis=0).take(cols, axis=1)


def _reflected(side: int, length: int) -> NDArray[np.int64]:
    """Return the places `(length,)` in 0..side-1 to read at 0..length-1.

    They go back and forth; the ends occur once.
    """
    period = max(1, 2 * (side - 1))
    place = np.arange(length) % period
    return np.minimum(place, period - place)


def encode(pixels: Floats, format: str, quality: int, space: str | None = None) -> bytes:  # noqa: A002
    """Encode pixels as an 8-bit `png`, `jpg` or `webp` file without metadata.

    Equal pixels give equal bytes with equal versions of the codecs.

    Args:
        pixels: (H, W, 3) float32 sRGB, clipped to [0, 1].
        format: `png`, `jpg` or `webp`.
        quality: 1..100; png ignores it.
        space: `srgb` or `p3`, the colour space of the file, which it then names; None: sRGB, which it does not name.

    Raises:
        UsageError: another format or space, or a side longer than the format can hold.
    """
    longest = LONGEST_SIDE.get(format)
    if longest is None:
        raise UsageError(f"cannot write images as {format!r}; allowed are {', '.join(LONGEST_SIDE)}")
    if space is not None and space not in OUTPUT_PROFILES:
        raise UsageError(f"cannot write images in the space {space!r}; allowed are {', '.join(OUTPUT_PROFILES)}")
    height, width = pixels.shape[:2]
    if max(height, width) > longest:
        raise UsageError(f"{format} holds at most {longest} pixels a side, and the image is {width} x {height}")
    pixels = np.clip(pixels, 0.0, 1.0)
    if space is not None:
        pixels = from_srgb(pixels, space)
    image = Image.fromarray((pixels * 255.0 + 0.5).astype(np.uint8))
    file = io.BytesIO()
    if format == "png":
        image.save(file, "PNG", compress_level=6, **_tags_of_png(space))
    elif format == "jpg":
        image.save(file, "JPEG", quality=quality, subsampling=0, **_tags(space))  # full colour resolution
    else:
        image.save(file, "WEBP", quality=quality, method=4, **_tags(space))
    return file.getvalue()


def encode_lossless(pixels: Floats) -> bytes:
    """Encode pixels (H, W, 3) in [0, 1] as lossless WebP of 8-bit sRGB: each value is rounded to a multiple of 1/255.

    A side has at most 16,383 pixels. The fastest effort is used: it beats PNG in bytes and in time.
    """
    file = io.BytesIO()
    image = Image.fromarray((np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
    image.save(file, "WEBP", lossless=True, quality=0, method=0)
    return file.getvalue()


def _tags(space: str | None) -> dict[str, Any]:
    return {"icc_profile": OUTPUT_PROFILES[space]} if space else {}


def _tags_of_png(space: str | None) -> dict[str, Any]:
    if space != "srgb":
        return _tags(space)
    chunks = PngInfo()
    chunks.add(b"sRGB", b"\0")
    return {"pnginfo": chunks}


def preview(pixels: Floats, long_side: int = 512) -> bytes:
    """Encode pixels (H, W, 3) in [0, 1] as a JPEG preview.

    Its long side is at most `long_side`; it is never enlarged.
    """
    height, width = pixels.shape[:2]
    return encode(_resized(pixels, *fit(width, height, long_side), box=(width, height)), "jpg", 85)


def thumbnail(pixels: Floats) -> bytes:
    """Encode pixels (H, W, 3) in [0, 1] as a small JPEG.

    Its long side is at most 144; colour has half the resolution of brightness. A contact sheet shows it no larger.
    """
    height, width = pixels.shape[:2]
    small = _resized(pixels, *fit(width, height, THUMBNAIL), box=(width, height))
    file = io.BytesIO()
    image = Image.fromarray((np.clip(small, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
    image.save(file, "JPEG", quality=75, subsampling="4:2:0", optimize=True)
    return file.getvalue()


def resized(pixels: Floats, width: int, height: int) -> Floats:
    """Resize pixels (H, W, C) in [0, 1] to (height, width, C) by Lanczos."""
    return _resized(pixels, width, height, box=(pixels.shape[1], pixels.shape[0]))


def colours_of(strip: Samples, raster: Raster) -> Floats:
    """Convert samples (h, w, samples) to (h, w, channels) in [0, 1], over white."""
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is rejected below
        values: Floats = strip.astype(np.float32)
    if strip.dtype.kind == "f" and not np.isfinite(values).all():
        raise RejectError(Reason.NON_FINITE, "the image holds NaN or infinity; allowed are finite values")
    values /= np.float32(raster.white)
    np.clip(values, 0.0, 1.0, out=values)
    colours = values[..., : raster.channels]
    if raster.space.narrow:
        colours = _full_range(colours, raster.white)
    if raster.inverted:
        colours = 1.0 - colours
    if raster.alpha and raster.channels < 4:
        alpha = values[..., raster.channels : raster.channels + 1]
        colours = (colours if raster.premultiplied else colours * alpha) + (1.0 - alpha) * raster.space.white
        colours = np.clip(colours, 0.0, 1.0)
    return colours


def _full_range(colours: Floats, white: float) -> Floats:
    """Stretch a signal in the range of video, 16 to 235 in 8 bits, to [0, 1]."""
    step = (white + 1) / 256 / white
    stretched: Floats = (colours - np.float32(16 * step)) / np.float32(219 * step)
    return np.clip(stretched, 0.0, 1.0)


def _shrink(raster: Raster, width: int, height: int) -> Floats:
    """Shrink a raster to (height, width, channels).

    Box reduction, strip by strip, comes first while the raster is far too large; Lanczos does the rest.
    """
    rows, columns, samples = raster.samples.shape
    across, down = max(1, columns // (_GAP * width)), max(1, rows // (_GAP * height))
    step = max(1, _STRIP_SAMPLES // (down * columns * samples)) * down
    strips = [
        _reduced(colours_of(raster.samples[top : top + step], raster), across, down) for top in range(0, rows, step)
    ]
    return _resized(np.concatenate(strips), width, height, box=(columns / across, rows / down))


def _reduced(pixels: Floats, across: int, down: int) -> Floats:
    """Average boxes of pixels."""
    if across == down == 1:
        return pixels
    return _by_channel(pixels, lambda plane: plane.reduce((across, down)))


def _resized(pixels: Floats, width: int, height: int, box: tuple[float, float]) -> Floats:
    """Resize the top-left `box` of (H, W, C) to (height, width, C) in [0, 1].

    The box is (w, h) in fractional pixels.
    """
    if box == (width, height):
        return pixels
    area = (0.0, 0.0, *box)
    resized = _by_channel(pixels, lambda plane: plane.resize((width, height), Image.Resampling.LANCZOS, area))
    return np.clip(resized, 0.0, 1.0)


def _by_channel(pixels: Floats, change: Callable[[Image.Image], Image.Image]) -> Floats:
    """Apply a Pillow filter to each channel; on floats it takes one at a time."""
    planes = (Image.fromarray(np.ascontiguousarray(pixels[..., c])) for c in range(pixels.shape[2]))
    return np.stack([np.asarray(change(plane), np.float32) for plane in planes], axis=-1)


def oriented(pixels: Floats, orientation: int) -> Floats:
    """Orient stored pixels (h, w, C) by an EXIF orientation 1..8."""
    if orientation > 4:  # stored by columns
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):  # bottom row first
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):  # right column first
        pixels = pixels[:, ::-1]
    return pixels
