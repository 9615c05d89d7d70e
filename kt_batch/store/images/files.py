"""Images: the bytes of a file in, float pixels out, and back; nothing here opens a path or a socket.

`rasters` hands over samples as they lie in a file. Scaling to [0, 1], transparency, shrinking, colour and orientation
are done here, in float, once for every kind of file, so that 16 bits stay 16 bits.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from kt_batch.errors import Reason, RejectError, UsageError
from kt_batch.store.images.rasters import Raster, Samples, fit, read_raster

# Longest side a format can hold; a longer one would fail inside the codec in words that explain nothing.
LONGEST_SIDE = {"png": 2**31 - 1, "jpg": 65500, "webp": 16383}

_GAP = 2  # cheap reductions (JPEG's own scaling, boxes) stop at twice the wanted size; Lanczos does the rest
_STRIP_SAMPLES = 2**22  # samples turned into float at once: a float copy of a huge image never exists as a whole
_COLOUR_SPACES = {1: "gray", 3: "rgb", 4: "cmyk"}

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class WorkingImage:
    """An image as it is encoded, before padding.

    pixels: (height, width, 3) float32, sRGB in [0, 1], all finite, C-contiguous.
    original_width, original_height: size of the file's image once oriented.
    """

    pixels: Floats
    original_width: int
    original_height: int

    @property
    def width(self) -> int:
        """Columns of `pixels`."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Rows of `pixels`."""
        return int(self.pixels.shape[0])


def image_id(data: bytes) -> str:
    """The first 8 bytes of the SHA-256 of a file, as 16 hex digits."""
    return hashlib.sha256(data).hexdigest()[:16]


def decode(data: bytes, size: int) -> WorkingImage:
    """The bytes of an image file as a working image with a long side of at most `size` >= 1; never enlarged.

    Oriented by EXIF, an embedded profile converted to sRGB, transparency over white, the first frame of an animation
    and the first page of a document. Float files are read as [0, 1] and clipped to it.
    Raises RejectError and nothing else, whatever the bytes are.
    """
    raster = read_raster(data, _GAP * size)
    small = _shrink(raster, *fit(raster.width, raster.height, size))
    pixels = _oriented(_to_srgb(small, raster.profile), raster.orientation)
    turned = raster.orientation > 4
    width, height = (raster.height, raster.width) if turned else (raster.width, raster.height)
    return WorkingImage(np.ascontiguousarray(pixels), width, height)


def pad_to(pixels: Floats, stride: int) -> Floats:
    """(H, W, C) reflected at the bottom and right up to multiples of `stride`, each side at least 2 * stride."""
    rows, cols = (_reflected(side, max(2 * stride, -(-side // stride) * stride)) for side in pixels.shape[:2])
    return pixels.take(rows, axis=0).take(cols, axis=1)


def _reflected(side: int, length: int) -> NDArray[np.int64]:
    """The places `(length,)` in 0..side-1 that stand at 0..length-1: there and back again, the ends once."""
    period = max(1, 2 * (side - 1))
    place = np.arange(length) % period
    return np.minimum(place, period - place)


def encode(pixels: Floats, format: str, quality: int) -> bytes:  # noqa: A002
    """(H, W, 3) floats, clipped to [0, 1], as the bytes of an 8-bit `png`, `jpg` or `webp` file without metadata.

    The same pixels give the same bytes with the same versions of the codecs. `quality`, 1..100, means nothing to png.
    Raises UsageError for another format, and for a side longer than the format can hold.
    """
    longest = LONGEST_SIDE.get(format)
    if longest is None:
        raise UsageError(f"cannot write images as {format!r}; allowed are {', '.join(LONGEST_SIDE)}")
    height, width = pixels.shape[:2]
    if max(height, width) > longest:
        raise UsageError(f"{format} holds at most {longest} pixels a side, and the image is {width} x {height}")
    image = Image.fromarray((np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
    file = io.BytesIO()
    if format == "png":
        image.save(file, "PNG", compress_level=6)
    elif format == "jpg":
        image.save(file, "JPEG", quality=quality, subsampling=0)  # full colour resolution: colour is what was changed
    else:
        image.save(file, "WEBP", quality=quality, method=4)
    return file.getvalue()


def preview(pixels: Floats, long_side: int = 512) -> bytes:
    """(H, W, 3) floats in [0, 1] as a JPEG with a long side of at most `long_side`; never enlarged."""
    height, width = pixels.shape[:2]
    return encode(_resized(pixels, *fit(width, height, long_side), box=(width, height)), "jpg", 85)


def _colours(strip: Samples, raster: Raster) -> Floats:
    """(h, w, samples) of a raster as (h, w, channels) in [0, 1], transparency over white."""
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused as such
        values: Floats = strip.astype(np.float32)
    if not np.isfinite(values).all():
        raise RejectError(Reason.NON_FINITE, "the image holds NaN or infinity; allowed are finite values")
    values = np.clip(values / np.float32(raster.white), 0.0, 1.0)
    colours = values[..., : raster.channels]
    if raster.inverted:
        colours = 1.0 - colours
    if raster.alpha and raster.channels < 4:
        alpha = values[..., raster.channels : raster.channels + 1]
        colours = (colours if raster.premultiplied else colours * alpha) + (1.0 - alpha)
    return np.clip(colours, 0.0, 1.0)


def _shrink(raster: Raster, width: int, height: int) -> Floats:
    """A raster as (height, width, channels): boxes, strip by strip, while it is far too large, then Lanczos."""
    rows, columns = raster.samples.shape[:2]
    across, down = max(1, columns // (_GAP * width)), max(1, rows // (_GAP * height))
    step = max(1, _STRIP_SAMPLES // (down * raster.samples[0].size)) * down
    strips = [
        _by_channel(_colours(raster.samples[top : top + step], raster), lambda plane: plane.reduce((across, down)))
        for top in range(0, rows, step)
    ]
    return _resized(np.concatenate(strips), width, height, box=(columns / across, rows / down))


def _resized(pixels: Floats, width: int, height: int, box: tuple[float, float]) -> Floats:
    """The top-left `box` (w, h) of (H, W, C), in fractional pixels, as (height, width, C) in [0, 1]."""
    if box == (width, height):
        return pixels
    area = (0.0, 0.0, *box)
    resized = _by_channel(pixels, lambda plane: plane.resize((width, height), Image.Resampling.LANCZOS, area))
    return np.clip(resized, 0.0, 1.0)


def _by_channel(pixels: Floats, change: Callable[[Image.Image], Image.Image]) -> Floats:
    """Pillow filters floats one channel at a time."""
    planes = (Image.fromarray(np.ascontiguousarray(pixels[..., c])) for c in range(pixels.shape[2]))
    return np.stack([np.asarray(change(plane), np.float32) for plane in planes], axis=-1)


def _to_srgb(colours: Floats, profile: bytes | None) -> Floats:
    """(h, w, 1 | 3 | 4) grey, RGB or CMYK ink in [0, 1] as (h, w, 3) sRGB."""
    if profile and not _is_srgb(profile):
        try:
            return _through_profile(colours, profile)
        except imagecodecs.CmsError:
            pass  # a profile that is broken, or made for other channels, is no reason to lose the picture: do without
    if colours.shape[2] == 4:
        return (1.0 - colours[..., :3]) * (1.0 - colours[..., 3:])
    return np.broadcast_to(colours, (*colours.shape[:2], 3))


def _through_profile(colours: Floats, profile: bytes) -> Floats:
    """In 16 bits, as the colour engine's floats measure ink in percent and leave [0, 1].

    Every pixel goes through the profile itself: the engine's own shortcut for 16 bits, a table of 33^3 colours, is off
    by up to 0.08 in deep saturated shadows (Adobe RGB).
    Raises imagecodecs.CmsError for a profile that cannot be read or that describes another number of channels.
    """
    samples = (colours * 65535.0 + 0.5).astype(np.uint16)
    space = _COLOUR_SPACES[colours.shape[2]]
    if space == "gray":
        samples = samples[..., 0]
    converted = imagecodecs.cms_transform(
        samples,
        profile,
        _srgb_profile(),
        colorspace=space,
        outcolorspace="rgb",
        flags=imagecodecs.CMS.FLAGS.NOOPTIMIZE,
    )
    return converted.reshape(*colours.shape[:2], 3).astype(np.float32) / np.float32(65535.0)


@cache
def _srgb_profile() -> bytes:
    return imagecodecs.cms_profile("srgb")


def _is_srgb(profile: bytes) -> bool:
    """By its description, so that an image means the same with sRGB embedded and without."""
    try:
        return "sRGB" in (ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.profile_description or "")
    except (OSError, ValueError):  # no profile, or one whose description is no text
        return False


def _oriented(pixels: Floats, orientation: int) -> Floats:
    """(h, w, C) as stored -> as it is to be seen, for an EXIF orientation 1..8."""
    if orientation > 4:  # stored by columns
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):  # then the bottom row first
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):  # then the right column first
        pixels = pixels[:, ::-1]
    return pixels
