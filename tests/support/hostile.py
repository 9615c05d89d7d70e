"""A generated corpus of image files as they arrive in practice and in attacks.

for case in make_corpus(folder):
    case.name      # the file, below `folder`
    case.verdict   # "good", or the Reason it must be rejected for
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from kt_batch.errors import Reason

Verdict = Literal["good"] | Reason
Made = tuple[str, Verdict, str, bytes]  # name, verdict, note, content


@dataclass(frozen=True)
class Case:
    """One file of the corpus, its expected verdict, and what it tests."""

    name: str
    verdict: Verdict
    note: str


def make_corpus(folder: Path) -> list[Case]:
    """Write the corpus of about 60 small files into `folder`; return the expected verdict of each."""
    cases = []
    for name, verdict, note, content in (
        *_jpegs(),
        *_transparent(),
        *_other_formats(),
        *_shapes(),
        *_deep(),
        *_deep_rejects(),
        *_oriented(),
        *_broken(),
        *_bombs(),
        *_named(),
    ):
        (folder / name).write_bytes(content)
        cases.append(Case(name, verdict, note))
    return cases


# ---- parts -----------------------------------------------------------------------------------------------------------


def picture(width: int = 48, height: int = 32) -> Image.Image:
    """Return a smooth RGB picture without symmetries."""
    y, x = np.mgrid[0:height, 0:width]
    values = np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x + 2 * y) % 256], axis=-1)
    return Image.fromarray(values.astype(np.uint8))


def saved(image: Image.Image, format: str, **options: Any) -> bytes:  # noqa: A002
    """Return the bytes that Pillow writes for an image."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def tiff(values: NDArray[Any], **options: Any) -> bytes:
    """Return the bytes that tifffile writes for an array."""
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return one PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """Return a PNG whose fields may all be false.

    Each of `rows` begins with its filter byte; `more` are chunks.
    """
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *more, pixels, chunk(b"IEND", b"")))


def deep_png(values: NDArray[np.uint16], *more: bytes) -> bytes:
    """Return (H, W) or (H, W, 2 | 3 | 4) uint16 as a 16-bit PNG."""
    height, width = values.shape[:2]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[values.reshape(height, width, -1).shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(width, height, 16, colour, rows, *more)


def deep(channels: int = 3) -> NDArray[np.uint16]:
    """Return a (32, 48, channels) uint16 ramp."""
    ramp = np.linspace(0, 65535, 32 * 48 * channels).reshape(32, 48, channels)
    return ramp.astype(np.uint16)


def exif(orientation: int) -> bytes:
    """Return an EXIF block with only an orientation."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def cmyk_profile() -> bytes:
    """Return a minimal printer profile: no ink is white, any full ink is black.

    It is one 2x2x2x2 table to Lab.
    """
    lightness = [0xFF if corner == 0 else 0 for corner in range(16)]
    table = b"".join(bytes((value, 0x80, 0x80)) for value in lightness)
    identity = struct.pack(">9I", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + ramp * 4 + table + ramp * 3
    tags = struct.pack(">I4sII", 1, b"A2B0", 128 + 16, len(lut))
    header = bytearray(128)
    header[0:4] = struct.pack(">I", 128 + len(tags) + len(lut))
    header[8:12] = b"\x02\x40\0\0"
    header[12:24] = b"prtrCMYKLab "
    header[36:40] = b"acsp"
    header[68:80] = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    return bytes(header) + tags + lut


# ---- cases -----------------------------------------------------------------------------------------------------------


def _jpegs() -> Iterator[Made]:
    rgb, adobe = picture(), imagecodecs.cms_profile("adobergb")
    yield "rgb.jpg", "good", "the everyday case", saved(rgb, "JPEG", quality=90)
    yield "progressive.jpg", "good", "progressive", saved(rgb, "JPEG", progressive=True)
    yield "grey.jpg", "good", "one channel", saved(rgb.convert("L"), "JPEG")
    yield "cmyk.jpg", "good", "inks, stored inverted as Adobe does", saved(rgb.convert("CMYK"), "JPEG")
    yield (
        "cmyk_profile.jpg",
        "good",
        "inks and their profile",
        saved(rgb.convert("CMYK"), "JPEG", icc_profile=cmyk_profile()),
    )
    yield "adobe_rgb.jpg", "good", "a wide profile", saved(rgb, "JPEG", icc_profile=adobe)
    yield (
        "broken_profile.png",
        "good",
        "a profile that is no profile",
        saved(rgb, "PNG", icc_profile=b"no profile" * 20),
    )
    yield "wrong_profile.png", "good", "an RGB profile on grey", saved(rgb.convert("L"), "PNG", icc_profile=adobe)
    yield "broken_exif.jpg", "good", "an EXIF block cut in half", saved(rgb, "JPEG", exif=exif(6)[:15])
    yield "stereo.mpo", "good", "two JPEG in one file", saved(rgb, "MPO", save_all=True, append_images=[rgb])


def _transparent() -> Iterator[Made]:
    rgb = picture()
    clear = rgb.copy()
    clear.putalpha(Image.linear_gradient("L").resize(rgb.size))
    yield "rgba.png", "good", "transparency", saved(clear, "PNG")
    yield "grey_alpha.png", "good", "grey with transparency", saved(clear.convert("LA"), "PNG")
    yield "palette.png", "good", "palette", saved(rgb.quantize(16), "PNG")
    yield (
        "palette_clear.png",
        "good",
        "palette with a transparent entry",
        saved(rgb.quantize(16), "PNG", transparency=3),
    )
    yield "bilevel.png", "good", "1 bit", saved(rgb.convert("1"), "PNG")
    yield "rgba.webp", "good", "transparency", saved(clear, "WEBP")


def _other_formats() -> Iterator[Made]:
    rgb = picture()
    frames = [picture(), Image.new("RGB", (48, 32), "red"), Image.new("RGB", (48, 32), "blue")]
    yield (
        "animated.gif",
        "good",
        "the first frame counts",
        saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
    )
    yield "animated.webp", "good", "first frame", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    yield "bitmap.bmp", "good", "BMP", saved(rgb, "BMP")
    yield "portable.ppm", "good", "PPM", saved(rgb, "PPM")
    yield "strips.tif", "good", "8-bit TIFF", saved(rgb, "TIFF", compression="tiff_lzw")
    yield "inks.tif", "good", "CMYK TIFF", saved(rgb.convert("CMYK"), "TIFF")
    yield "fax.tif", "good", "1-bit TIFF", saved(rgb.convert("1"), "TIFF", compression="group4")


def _shapes() -> Iterator[Made]:
    rgb = picture()
    yield "1x1.png", "good", "a single pixel", saved(picture(1, 1), "PNG")
    yield "1x5.png", "good", "one column", saved(picture(1, 5), "PNG")
    yield "5x1.jpg", "good", "one row", saved(picture(5, 1), "JPEG")
    yield "20000x8.png", "good", "a banner", saved(picture(20000, 8), "PNG")
    yield "20000x100.jpg", "good", "long, yet few pixels", saved(picture(20000, 100), "JPEG")
    yield "photo_without_suffix", "good", "the bytes decide", saved(rgb, "JPEG")
    yield "png_inside.jpg", "good", "a PNG under a wrong suffix", saved(rgb, "PNG")


def _deep() -> Iterator[Made]:
    unit = (deep() / 65535.0).astype(np.float32)
    yield "deep.png", "good", "16-bit RGB", deep_png(deep())
    yield "deep_grey.png", "good", "16-bit grey", deep_png(deep(1)[..., 0])
    yield "deep_grey_alpha.png", "good", "16-bit grey, transparency", deep_png(deep(2))
    yield "deep_rgba.png", "good", "16-bit RGB, transparency", deep_png(deep(4))
    yield "deep.tif", "good", "16-bit RGB", tiff(deep(), photometric="rgb", compression="deflate")
    yield (
        "deep_planes.tif",
        "good",
        "planes",
        tiff(np.moveaxis(deep(), -1, 0), photometric="rgb", planarconfig="separate"),
    )
    yield "deep_grey.tif", "good", "16-bit grey, white is zero", tiff(deep(1)[..., 0], photometric="miniswhite")
    yield "deep_rgba.tif", "good", "16-bit RGBA", tiff(deep(4), photometric="rgb", extrasamples=["unassalpha"])
    yield "deep_inks.tif", "good", "16-bit CMYK", tiff(deep(4), photometric="separated")
    yield "big.tif", "good", "BigTIFF, big-endian", tiff(deep(), photometric="rgb", bigtiff=True, byteorder=">")
    yield "float.tif", "good", "float in [0, 1]", tiff(unit, photometric="rgb")
    yield "half.tif", "good", "float16", tiff(unit.astype(np.float16), photometric="rgb")
    yield "pages.tif", "good", "a document: its first page", tiff(np.stack([deep(), deep()]), photometric="rgb")


def _deep_rejects() -> Iterator[Made]:
    unit = (deep() / 65535.0).astype(np.float32)
    yield "nan.tif", Reason.NON_FINITE, "one NaN", tiff(np.where(unit > 0.999, np.nan, unit), photometric="rgb")
    yield (
        "infinite.tif",
        Reason.NON_FINITE,
        "float64 beyond float32",
        tiff(unit.astype(np.float64) * 1e300, photometric="rgb"),
    )
    yield (
        "7_channels.tif",
        Reason.UNSUPPORTED,
        "a satellite",
        tiff(deep(7), photometric="minisblack", planarconfig="contig"),
    )
    yield "signed.tif", Reason.UNSUPPORTED, "heights", tiff(deep(1)[..., 0].astype(np.int16), photometric="minisblack")
    yield (
        "complex.tif",
        Reason.UNSUPPORTED,
        "a spectrum",
        tiff(unit[..., 0].astype(np.complex64), photometric="minisblack"),
    )
    volume = np.zeros((16, 16, 16), np.uint16)
    yield (
        "volume.tif",
        Reason.UNSUPPORTED,
        "voxels",
        tiff(volume, volumetric=True, tile=(16, 16, 16), photometric="minisblack"),
    )
    stack = np.zeros((3, 2, 8, 8), np.uint16)
    yield "5_axes.tif", Reason.UNSUPPORTED, "time and depth", tiff(stack, photometric="minisblack")
    raw = tiff(picture_values(), photometric="rgb", subfiletype=1)
    yield "camera_raw.dng", Reason.UNSUPPORTED, "the first image is a thumbnail", raw


def picture_values() -> NDArray[np.uint8]:
    """Return the picture as (32, 48, 3) uint8."""
    return np.asarray(picture())


def _oriented() -> Iterator[Made]:
    for orientation in range(1, 9):
        yield f"turned_{orientation}.jpg", "good", "EXIF", saved(picture(), "JPEG", exif=exif(orientation))


def _broken() -> Iterator[Made]:
    jpeg, portable = saved(picture(), "JPEG", quality=95), saved(picture(), "PNG")
    noise = np.random.default_rng(0).bytes(4096)
    yield "half.jpg", Reason.TRUNCATED, "cut", jpeg[:-100]
    yield "header_only.jpg", Reason.TRUNCATED, "cut in the header", jpeg[:100]
    yield "half.png", Reason.TRUNCATED, "cut", portable[:-60]
    yield "signature_only.png", Reason.TRUNCATED, "8 bytes", portable[:8]
    yield "half_deep.png", Reason.TRUNCATED, "cut", deep_png(deep())[:-600]
    yield "half_deep.tif", Reason.TRUNCATED, "cut", tiff(deep(), photometric="rgb")[:-600]
    yield "half.gif", Reason.TRUNCATED, "cut", saved(picture(), "GIF")[:-200]
    yield "half.webp", Reason.TRUNCATED, "cut", saved(picture(), "WEBP")[:100]
    yield "half.bmp", Reason.TRUNCATED, "cut", saved(picture(), "BMP")[:-600]
    yield "empty.jpg", Reason.EMPTY, "zero bytes", b""
    yield "text.jpg", Reason.NOT_AN_IMAGE, "renamed", b"Dear reader,\nthis is a letter.\n"
    yield "noise.png", Reason.NOT_AN_IMAGE, "random bytes", noise
    yield "page.jpg", Reason.NOT_AN_IMAGE, "what a server sent instead", b"<!DOCTYPE html><title>404</title>"
    yield "drawing.svg", Reason.NOT_AN_IMAGE, "never interpreted", b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    yield (
        "program.eps",
        Reason.NOT_AN_IMAGE,
        "never run",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    )


def _bombs() -> Iterator[Made]:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(4 << 20), 9))
    profile = chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(4 << 20), 9))
    huge = tiff(np.zeros((8, 8), np.uint16), photometric="minisblack")
    sizes = {
        struct.pack("<HHIH", tag, kind, 1, 8): struct.pack("<HHII", tag, 4, 1, 60000)
        for tag in (256, 257)
        for kind in (3, 4)
    }
    for old, new in sizes.items():
        at = huge.find(old)
        huge = huge if at < 0 else huge[:at] + new + huge[at + 12 :]
    yield "bomb.png", Reason.TOO_MANY_PIXELS, "declares 60000 x 60000", png(60000, 60000, 8, 2, b"\0")
    yield "bomb_deep.png", Reason.TOO_MANY_PIXELS, "the same in 16 bits", png(60000, 60000, 16, 2, b"\0")
    yield "bomb_over.png", Reason.TOO_MANY_PIXELS, "one row over", png(16384, 16385, 1, 0, b"\0")
    yield "bomb.tif", Reason.TOO_MANY_PIXELS, "the same as TIFF", huge
    yield "bomb.ppm", Reason.TOO_MANY_PIXELS, "the same in 15 bytes", b"P6 60000 60000 255\n"
    yield "bomb_text.png", Reason.TOO_MANY_PIXELS, "a comment that inflates", png(1, 1, 8, 0, b"\0\0", text)
    yield "bomb_profile.png", Reason.TOO_MANY_PIXELS, "a profile that inflates", png(1, 1, 8, 0, b"\0\0", profile)


def _named() -> Iterator[Made]:
    content = saved(picture(8, 6), "PNG")
    names = {
        "caf\u00e9.png": "composed accent",
        "cafe\u0301.png": "the same name decomposed is another file",
        "\u5bcc\u58eb\u5c71 \U0001f5fb.png": "no Latin letter, and one beyond 16 bits",
        "two  spaces .png": "spaces",
        "'quotes' and \"more\".png": "quotes",
        "-rf.png": "a leading dash",
        "new\nline.png": "a line break",
        "50% [a]*?.png": "what patterns are made of",
        "$(touch x); `id`.png": "what shells run",
    }
    for name, note in names.items():
        yield name, "good", note, content
