"""Small files that declare large images: refused by their header, before anything is decoded."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images.headers import (
    MAX_BYTES_OF_ANY_FILE,
    MAX_PIXELS_OF_ANY_FILE,
    MAX_PIXELS_PER_BYTE,
    bytes_of_segment,
    check_bytes,
    check_pixels,
    declared_bytes,
    size_of_webp,
)
from kt_batch.store.images.reader_process import ImageReaderProcess
from tests.support.hostile import picture, png, saved, tiff
from tests.support.hostile_formats import packed_tiff
from tests.support.hostile_samples import samples, webp_of_one_colour

MIB = 1 << 20


def tiff_of_one_strip(side: int, compression: int, samples: int = 3, bits: int = 8) -> bytes:
    """Return 248 bytes that declare a whole picture in a strip of 10 bytes."""
    tags = [
        (256, side), (257, side), (258, bits), (259, compression), (262, 2), (273, 200), (277, samples), (278, side),
        (279, 10),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (256, 257) else 3, 1, value) for tag, value in tags)
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)).ljust(
        200, b"\0"
    ) + b"\x80\0\x10" * 16


def bmp_of_runs(side: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 4, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1082, 0, 0, 1078) + header + bytes(1024) + b"\0\1"


def jpeg_of_one_block(side: int, progressive: bool) -> bytes:
    data = bytearray(saved(Image.new("L", (8, 8)), "JPEG", progressive=progressive))
    frame = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def gif_of_nothing(side: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", side, side, 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, side, side, 0)
        + b"\x02\x02\x44\x01\0;"
    )


SMALL_FILES = {
    **{f"one_colour_{side}.webp": webp_of_one_colour(side) for side in (4097, 8191, 16383)},
    **{f"empty_{side}.png": png(side, side, 8, 2, b"\0") for side in (4097, 8191, 16384)},
    **{f"empty_deep_{side}.png": png(side, side, 16, 6, b"\0") for side in (4097, 8191, 16384)},
    **{f"empty_grey_{side}.png": png(side, side, 1, 0, b"\0") for side in (8191, 16384)},
    **{
        f"strip_{side}_{compression}_{samples}x{bits}.tif": tiff_of_one_strip(side, compression, samples, bits)
        for side in (4097, 16384)
        for compression, samples, bits in (
            (1, 3, 8), (5, 3, 8), (8, 3, 8), (32773, 3, 8), (8, 4, 16), (8, 4, 64), (50000, 3, 8),
        )
    },
    **{f"runs_{side}.bmp": bmp_of_runs(side) for side in (5000, 16384)},
    **{f"block_{side}.jpg": jpeg_of_one_block(side, False) for side in (5000, 16384)},
    **{f"progressive_{side}.jpg": jpeg_of_one_block(side, True) for side in (5000, 16384)},
    **{f"nothing_{side}.gif": gif_of_nothing(side) for side in (5000, 16384)},
    **{f"short_{side}.ppm": b"P6 %d %d 255\n" % (side, side) + b"x" * 200 for side in (5000, 16384)},
    **{f"short_{side}.pbm": b"P4 %d %d\n" % (side, side) + b"x" * 200 for side in (5000, 16384)},
    **{f"short_{side}.pgm": b"P5 %d %d 65535\n" % (side, side) + b"x" * 200 for side in (5000, 16384)},
    **{name: content for name, verdict, _, content in samples() if verdict != "good"},
}  # fmt: skip


@pytest.fixture(scope="module")
def small_reader() -> ImageReaderProcess:
    return ImageReaderProcess()


@pytest.mark.parametrize("name", SMALL_FILES)
def test_a_small_file_that_declares_a_large_image_is_refused(name: str, small_reader: ImageReaderProcess) -> None:
    with pytest.raises(RejectError) as caught:
        small_reader.decode(SMALL_FILES[name], 64)
    assert caught.value.reason == Reason.TOO_MANY_PIXELS
    peak = Path(f"/proc/{small_reader.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
    assert int(peak) << 10 < 200 * MIB  # of all files so far


def test_an_image_of_one_colour_within_the_limit_is_read(small_reader: ImageReaderProcess) -> None:
    assert small_reader.decode(webp_of_one_colour(2000), 64).pixels.shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("width", "height", "length"),
    [(4096, 4096, 34), (16384, 16384, 16384), (1, 1, 0), (16384, 1024 * 16, 2**30)],
)
def test_a_size_that_the_bytes_can_hold_is_allowed(width: int, height: int, length: int) -> None:
    check_pixels(width, height, length)


@pytest.mark.parametrize(
    ("width", "height", "length"),
    [(4096, 4097, 34), (16384, 16384, 16383), (16384, 16385, 2**30), (2**31 - 1, 1, 1000)],
)
def test_a_size_that_the_bytes_cannot_hold_is_refused(width: int, height: int, length: int) -> None:
    with pytest.raises(RejectError, match=f"declares {width} x {height} pixels"):
        check_pixels(width, height, length)


def test_blank_pages_that_compress_best_are_allowed() -> None:
    # 2^13 pixels a byte is the most of deflate with 1 bit a pixel: 258 bytes of 8 pixels in 2 bits.
    blank = saved(Image.new("1", (10000, 10000)), "PNG", compress_level=9)
    assert 10**8 / len(blank) < MAX_PIXELS_PER_BYTE
    assert MAX_PIXELS_OF_ANY_FILE < 10**8
    check_pixels(10000, 10000, len(blank))


def test_the_largest_samples_of_a_small_file_are_read(small_reader: ImageReaderProcess) -> None:
    (within,) = (content for _, verdict, _, content in samples() if verdict == "good")
    assert declared_bytes(within) == 2047 * 2048 * 16
    assert small_reader.decode(within, 64).pixels.shape == (64, 64, 3)


@pytest.mark.parametrize(("declared", "length"), [(2**26, 0), (2**14 * 5000, 5000), (0, 0)])
def test_samples_that_the_bytes_can_hold_are_allowed(declared: int, length: int) -> None:
    check_bytes(declared, length)


@pytest.mark.parametrize(("declared", "length"), [(2**26 + 1, 0), (2**14 * 5000 + 1, 5000)])
def test_samples_that_the_bytes_cannot_hold_are_refused(declared: int, length: int) -> None:
    with pytest.raises(RejectError, match=f"declares samples of {declared} bytes in {length} bytes") as caught:
        check_bytes(declared, length)
    assert caught.value.reason == Reason.TOO_MANY_PIXELS


def blank_images() -> dict[str, bytes]:
    """Return blank images of more than 64 MiB of samples in each format that compresses."""
    rgb, bilevel = Image.new("RGB", (5000, 5000), "white"), Image.new("1", (9000, 9000), 1)
    deep = np.zeros((3500, 3500, 3), np.uint16)
    images = {
        "PNG": saved(rgb, "PNG", compress_level=9),
        "PNG of 1 bit": saved(bilevel, "PNG", compress_level=9),
        "PNG of a palette": saved(bilevel.convert("P"), "PNG", compress_level=9, bits=1),
        "PNG of 16 bits": png(3500, 3500, 16, 2, bytes(3500 * (1 + 3500 * 6))),
        "GIF": saved(bilevel.convert("L"), "GIF"),
        "JPEG": saved(rgb, "JPEG", progressive=True, quality=1),
        "WebP": saved(Image.new("RGB", (4200, 4200)), "WEBP", quality=1),
        "fax": saved(bilevel, "TIFF", compression="group4"),
    }
    for compression in ("deflate", "lzw", "packbits", "lzma", "zstd", "lerc"):
        images[f"TIFF, {compression}"] = tiff(deep, photometric="rgb", compression=compression)
    images["TIFF, deflate in tiles"] = tiff(deep, photometric="rgb", compression="deflate", tile=(512, 512))
    return images


def test_blank_images_that_compress_best_are_allowed() -> None:
    for name, data in blank_images().items():
        declared = declared_bytes(data)
        assert declared > MAX_BYTES_OF_ANY_FILE, name
        check_bytes(declared, len(data))


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
def test_the_bytes_of_a_lerc_follow_from_its_header(dtype: str, version: int) -> None:
    grey = np.zeros((5, 7), dtype)
    assert bytes_of_segment(bytes(imagecodecs.lerc_encode(grey, version=version))) == grey.nbytes
    bands = np.zeros((2, 5, 7), dtype)
    assert bytes_of_segment(bytes(imagecodecs.lerc_encode(bands, version=version, planar=True))) == bands.nbytes
    if version >= 4:
        rgba = np.zeros((5, 7, 4), dtype)
        assert bytes_of_segment(bytes(imagecodecs.lerc_encode(rgba, version=version))) == rgba.nbytes


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "JPEG2000"])
def test_the_bytes_of_a_segment_follow_from_its_header(format_: str) -> None:
    channels = 4 if format_ == "WEBP" else 3  # its decoder writes four
    assert bytes_of_segment(saved(picture(20, 10), format_)) == 20 * 10 * channels
    assert bytes_of_segment(b"something else") == 0


@pytest.mark.parametrize(
    ("data", "declared"),
    [
        (saved(picture(20, 10), "JPEG"), 20 * 10 * 3),
        (saved(picture(20, 10), "PNG"), 20 * 10 * 3),
        (png(20, 10, 16, 2, b"\0"), 20 * 10 * 6),
        (saved(picture(20, 10), "WEBP"), 20 * 10 * 4),
        (saved(picture(20, 10).convert("L"), "BMP"), 20 * 10),
        (tiff(np.zeros((10, 20, 4), np.float64), photometric="rgb"), 20 * 10 * 32),
        (packed_tiff(), 48 * 32 * 2),
        (b"P5 20 10 65535\n" + bytes(400), 20 * 10 * 4),
        (b"", 0),
        (b"no image", 0),
        (b"II*\0" + b"\xff" * 20, 0),
        (zlib.compress(b"no image"), 0),
    ],
)
def test_the_bytes_of_the_samples_follow_from_the_header(data: bytes, declared: int) -> None:
    assert declared_bytes(data) == declared


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}])
def test_the_canvas_of_a_webp_is_read_as_pillow_reads_it(options: dict[str, object]) -> None:
    for size in ((1, 1), (20, 10), (301, 77)):
        data = saved(picture(*size), "WEBP", **options)
        assert size_of_webp(data) == Image.open(io.BytesIO(data)).size
    assert size_of_webp(data[:29]) is None
