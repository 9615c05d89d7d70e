"""Write images at any size and depth from bands of rows.

TIFF and PNG are written as the bands come: memory depends on the width alone. Other formats need the whole image.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from kt_batch.errors import UsageError
from kt_batch.store.images.conversion import OUTPUT_PROFILES, from_srgb
from kt_batch.store.images.files import encode
from kt_batch.store.images.headers import PNG
from kt_batch.store.images.metadata import png, tiff
from kt_batch.store.images.metadata.blocks import Blocks
from kt_batch.store.images.metadata.embed import embed
from kt_batch.store.images.originals import Original
from kt_batch.store.images.png import chunk
from kt_batch.store.images.png_filters import filtered
from kt_batch.store.images.rgb_spaces import RgbSpace

# Longest side that a format can hold. Codecs report a longer one in words that explain nothing.
LONGEST_SIDE = {"png": 2**31 - 1, "jpg": 65500, "webp": 16383, "tiff": 2**31 - 1, "avif": 65535}
DEEP_FORMATS = frozenset({"png", "tiff"})  # with 16 bits a sample
FORMATS_WITH_INK, FORMATS_WITH_GREY = frozenset({"tiff"}), frozenset({"png", "tiff", "jpg"})
PLAIN_FORMATS = frozenset({"png", "jpg", "webp"})  # of `files.encode`

NO_METADATA = Blocks()

_TILE = 512
_BIGTIFF_BYTES = 2**32 - 2**25  # of samples; a TIFF has places of 32 bits
_PNG_ROWS = 64  # filtered at a time
_COLOUR_TYPES = {(1, False): 0, (3, False): 2, (1, True): 4, (3, True): 6}
_PHOTOMETRIC = {1: "minisblack", 3: "rgb", 4: "separated"}
_MODES = {(1, False): "L", (3, False): "RGB", (1, True): "LA", (3, True): "RGBA"}
_PIL = {"jpg": "JPEG", "webp": "WEBP", "avif": "AVIF"}


def write_image(
    file: BinaryIO,
    image: Original,
    bands: Iterable[NDArray[Any]],
    format: str,  # noqa: A002
    quality: int,
    blocks: Blocks = NO_METADATA,
) -> None:
    """Write an image with the profile of its samples, and with metadata.

    Samples of 16 bits become 8 bits in formats that have no more. Transparency is kept, but blended over white in JPEG.
    Ink and grey are for FORMATS_WITH_INK and FORMATS_WITH_GREY alone. Equal samples give equal bytes with equal
    versions of the codecs.

    Args:
        file: Open for writing, empty.
        image: What the bands are.
        bands: (rows, width, channels [+ alpha]), from the top to the bottom.
        format: `png`, `tiff`, `jpg`, `webp` or `avif`.
        quality: 1..100; png and tiff ignore it.
        blocks: Metadata. Its profile does not count.

    Raises:
        UsageError: Another format, or a side longer than the format can hold.
    """
    check_format(format, image.width, image.height)
    blocks = replace(blocks, icc=None)
    if format == "tiff":
        _write_tiff(file, image, bands)
        tiff.embed_in_file(file, blocks)
    elif format == "png":
        _write_png(file, image, bands, png.chunks(blocks))
    else:
        encoded = _encoded(image, bands, format, quality)
        file.write(embed(encoded, format, blocks))


def check_format(format: str, width: int, height: int) -> None:  # noqa: A002
    """Raise UsageError for a format that is not written, or that cannot hold an image."""
    longest = LONGEST_SIDE.get(format)
    if longest is None:
        raise UsageError(f"cannot write images as {format!r}; allowed are {', '.join(LONGEST_SIDE)}")
    if max(height, width) > longest:
        raise UsageError(f"{format} holds at most {longest} pixels a side, and the image is {width} x {height}")


def to_eight_bits(samples: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Return 16-bit samples as the nearest ones of 8 bits."""
    return ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def regrouped(bands: Iterable[NDArray[Any]], rows: int) -> Iterator[NDArray[Any]]:
    """Yield the same rows in arrays of `rows` rows; the last one may have fewer."""
    kept: list[NDArray[Any]] = []
    for band in bands:
        kept.append(band)
        while sum(map(len, kept)) >= rows:
            joined = kept[0] if len(kept) == 1 else np.concatenate(kept)
            yield joined[:rows]
            kept = [joined[rows:]]
    if sum(map(len, kept)):
        yield np.concatenate(kept)


def blocks_of_rows(bands: Iterable[NDArray[Any]], rows: int) -> Iterator[NDArray[Any]]:
    """Yield the same rows in views of at most `rows` rows."""
    for band in bands:
        for top in range(0, len(band), rows):
            yield band[top : top + rows]


def in_depth(samples: NDArray[Any], deep: bool) -> NDArray[Any]:
    """Return samples of 8 or 16 bits with 16 bits, or with 8."""
    if deep == (samples.dtype == np.uint16):
        return samples
    return samples.astype(np.uint16) * np.uint16(257) if deep else to_eight_bits(samples)


def _write_tiff(file: BinaryIO, image: Original, bands: Iterable[NDArray[Any]]) -> None:
    def tiles() -> Iterator[NDArray[Any]]:
        for rows in regrouped(bands, _TILE):
            for left in range(0, image.width, _TILE):
                tile = np.zeros((_TILE, _TILE, image.samples), image.dtype)
                part = rows[:, left : left + _TILE]
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile if image.samples > 1 else tile[..., 0]

    size = image.height * image.width * image.samples * image.dtype.itemsize
    with tifffile.TiffWriter(file, bigtiff=size > _BIGTIFF_BYTES) as writer:
        writer.write(
            tiles(),
            shape=(image.height, image.width, *((image.samples,) if image.samples > 1 else ())),
            dtype=image.dtype,
            tile=(_TILE, _TILE),
            photometric=_PHOTOMETRIC[image.channels],
            planarconfig="contig" if image.samples > 1 else None,
            extrasamples=["unassalpha"] if image.alpha else None,
            compression="zlib",
            predictor=True,
            iccprofile=image.profile or None,
            metadata=None,
            software=False,
            maxworkers=1,
        )


def _write_png(file: BinaryIO, image: Original, bands: Iterable[NDArray[Any]], chunks: bytes) -> None:
    colours = _COLOUR_TYPES[image.channels, image.alpha]
    file.write(PNG)
    header = struct.pack(">IIBBBBB", image.width, image.height, 8 * image.dtype.itemsize, colours, 0, 0, 0)
    file.write(chunk(b"IHDR", header))
    if image.profile:
        file.write(chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(image.profile)))
    file.write(chunks)
    packer = zlib.compressobj(6)
    before: NDArray[np.uint8] | None = None
    for rows in regrouped(bands, _PNG_ROWS):
        raw = rows.astype(rows.dtype.newbyteorder(">")).reshape(len(rows), -1).view(np.uint8)
        _write_pixels(file, packer.compress(filtered(raw, before, image.samples * image.dtype.itemsize)))
        before = raw[-1]
    _write_pixels(file, packer.flush())
    file.write(chunk(b"IEND", b""))


def _write_pixels(file: BinaryIO, packed: bytes) -> None:
    if packed:
        file.write(chunk(b"IDAT", packed))


def _encoded(image: Original, bands: Iterable[NDArray[Any]], format: str, quality: int) -> bytes:  # noqa: A002
    """Encode with Pillow, whose own copy of the pixels is the only one."""
    opaque = format == "jpg" or not image.alpha
    picture = Image.new(_MODES[image.channels, not opaque], (image.width, image.height))
    top = 0
    for band in bands:
        samples = to_eight_bits(band) if image.deep else band
        if image.alpha and opaque:
            samples = _over_white(samples)
        picture.paste(Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples), (0, top))
        top += len(band)
    options: dict[str, Any] = {"method": 4} if format == "webp" else {"subsampling": "4:4:4"}
    file = io.BytesIO()
    picture.save(file, _PIL[format], quality=quality, icc_profile=image.profile or None, **options)
    return file.getvalue()


def _over_white(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    alpha = samples[..., -1:].astype(np.uint32)
    return ((samples[..., :-1] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def encode_in(
    pixels: NDArray[np.float32],
    space: RgbSpace,
    format: str,  # noqa: A002
    quality: int,
    depth: int | None = None,
    blocks: Blocks = NO_METADATA,
) -> bytes:
    """Encode the picture that a method made, in any space, with its profile; arguments as of `encode_picture`."""
    height, width, _ = pixels.shape
    image = Original(height, width, 3, alpha=False, deep=depth == 16, profile=space.profile)
    file = io.BytesIO()
    write_image(file, image, [to_samples(space.from_srgb(pixels), image)], format, quality, blocks)
    return file.getvalue()


def encode_picture(
    pixels: NDArray[np.float32],
    format: str,  # noqa: A002
    quality: int,
    space: str | None = None,
    depth: int | None = None,
    blocks: Blocks = NO_METADATA,
) -> bytes:
    """Encode the picture that a method made: as `files.encode` does, and in the formats and depths that it lacks.

    Args:
        pixels: (H, W, 3) float32 sRGB, clipped to [0, 1].
        format: `png`, `tiff`, `jpg`, `webp` or `avif`.
        quality: 1..100; png and tiff ignore it.
        space: `srgb` or `p3`; None: sRGB, which png, jpg and webp of 8 bits do not name.
        depth: 16 for 16 bits.
        blocks: Metadata. Its profile does not count.

    Raises:
        UsageError: The format is not written, or cannot hold the image.
    """
    if depth != 16 and format in PLAIN_FORMATS:
        return embed(encode(pixels, format, quality, space), format, replace(blocks, icc=None))
    height, width, _ = pixels.shape
    image = Original(height, width, 3, alpha=False, deep=depth == 16, profile=OUTPUT_PROFILES[space or "srgb"])
    colours = from_srgb(np.clip(pixels, 0.0, 1.0), space or "srgb")
    file = io.BytesIO()
    write_image(file, image, [to_samples(colours, image)], format, quality, blocks)
    return file.getvalue()


def to_samples(colours: NDArray[np.float32], image: Original) -> NDArray[Any]:
    """Return colours in [0, 1] as samples of the image's depth."""
    largest = np.float32(np.iinfo(image.dtype).max)
    return (colours * largest + np.float32(0.5)).astype(image.dtype)
