"""Small TIFF files whose samples are many bytes: by the header of the file, or by the header of a strip."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator

import imagecodecs
from PIL import Image

from kt_batch.errors import Reason
from tests.support.hostile import Made, saved

FLOAT, UNSIGNED = 3, 1  # SampleFormat
JPEG, PNG, WEBP, OLD_WEBP, JPEG_2000, LERC, ZSTD = 7, 34933, 50001, 34927, 34712, 34887, 50000

# LERC of nothing but zeros. Encoding it here would take the samples themselves, up to 512 MiB.
ZEROS_4096_4096_4_FLOAT64 = "Ol5LoG9Uy1001FbdtU$$0000G000C400000009U9002e+000L7" + "0" * 38
ZEROS_4096_4096_3_FLOAT32 = "Ol5LoG9Uy1001FZdp7_O0000G0009300000009U9002e+000I6" + "0" * 38
ZEROS_4096_4096_3_UINT16 = "Ol5LoG9Uy1003b$IjR5<0000G0009300000009U9002e+0009300" + "0" * 8 + ";6DHW" + "0" * 23
ZEROS_2047_2048_4_FLOAT32 = "Ol5LoG9Uy1000P=3v&Ml00008000C40002^KL7{-002e+000I6" + "0" * 38


def samples() -> Iterator[Made]:
    """Return files of at most 17 kB that take up to 512 MiB, and the largest that is still read."""
    sizes = {
        "rgba_float64": (4096, 4096, 4, 64, FLOAT, ZEROS_4096_4096_4_FLOAT64),
        "rgb_float32": (4096, 4096, 3, 32, FLOAT, ZEROS_4096_4096_3_FLOAT32),
        "rgb_uint16": (4096, 4096, 3, 16, UNSIGNED, ZEROS_4096_4096_3_UINT16),
    }
    for name, (height, width, channels, bits, kind, zeros) in sizes.items():
        content = one_strip(height, width, LERC, base64.b85decode(zeros), channels, bits, kind)
        yield f"samples_lerc_{name}.tif", Reason.TOO_MANY_PIXELS, "a strip of zeros", content
    within = one_strip(2047, 2048, LERC, base64.b85decode(ZEROS_2047_2048_4_FLOAT32), 4, 32, FLOAT)
    yield "samples_lerc_within.tif", "good", "just below 64 MiB of samples", within
    frames = bytes(imagecodecs.zstd_encode(bytes(2**24))) * 32
    content = one_strip(4096, 4096, ZSTD, frames, 4, 64, FLOAT)
    yield "samples_zstd_rgba_float64.tif", Reason.TOO_MANY_PIXELS, "a strip of zeros", content
    for name, (compression, segment) in segments().items():
        content = one_strip(64, 64, compression, segment, bits=16)  # libtiff reads JPEG of 8 bits
        yield f"samples_strip_{name}.tif", Reason.TOO_MANY_PIXELS, "a strip larger than the picture", content


def segments() -> dict[str, tuple[int, bytes]]:
    """Return strips that declare 5000 x 5000 pixels or more by themselves, and how they are compressed."""
    jpeg = bytearray(saved(Image.new("RGB", (8, 8)), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 5000, 5000)
    jpeg_2000 = bytearray(saved(Image.new("RGB", (8, 8)), "JPEG2000", no_jp2=True))
    at = jpeg_2000.index(b"\xff\x51") + 6
    jpeg_2000[at : at + 8] = struct.pack(">II", 5000, 5000)
    png = bytearray(saved(Image.new("RGB", (8, 8)), "PNG"))
    png[16:24] = struct.pack(">II", 5000, 5000)
    return {
        "webp": (WEBP, webp_of_one_colour(8191)),
        "old_webp": (OLD_WEBP, webp_of_one_colour(8191)),
        "jpeg": (JPEG, bytes(jpeg)),
        "jpeg_2000": (JPEG_2000, bytes(jpeg_2000)),
        "png": (PNG, png_with_sound_header(bytes(png))),
        "lerc": (LERC, base64.b85decode(ZEROS_4096_4096_3_FLOAT32)),
    }


def png_with_sound_header(data: bytes) -> bytes:
    """Return a PNG whose header was changed with the checksum that belongs to it."""
    return data[:29] + struct.pack(">I", zlib.crc32(data[12:29])) + data[33:]


def webp_of_one_colour(side: int) -> bytes:
    """Return a lossless WebP of one colour: 34 bytes whatever its size."""
    head = b"\x2f" + struct.pack("<I", (side - 1) | (side - 1) << 14)
    body = head + saved(Image.new("RGB", (8, 8)), "WEBP", lossless=True)[25:]
    return b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body


def one_strip(
    height: int,
    width: int,
    compression: int,
    strip: bytes,
    channels: int = 3,
    bits: int = 8,
    kind: int = UNSIGNED,
) -> bytes:
    """Return a TIFF of one strip; its header is 272 bytes."""
    start = 272
    tags = [
        (256, width), (257, height), (258, bits), (259, compression), (262, 2), (273, start), (277, channels),
        (278, height), (279, len(strip)), (338, 2), (339, kind),
    ]  # fmt: skip
    if channels == 3:
        tags = [tag for tag in tags if tag[0] != 338]  # no extra samples
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries
    return head.ljust(start, b"\0") + strip
