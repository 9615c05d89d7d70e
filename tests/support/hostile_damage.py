"""The damaged part of the corpus: truncated files, flipped bits and false headers."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from kt_batch.errors import Reason
from tests.support.hostile import Made, Verdict, chunk, deep, deep_png, exif, picture, picture_values, png, saved, tiff
from tests.support.hostile_formats import bmp, directory

SHARES = (0.1, 0.5, 0.9)
LONG = 4  # TIFF field type
GREY = bytes(48 * 32)


def damage() -> Iterator[Made]:
    """Return truncations, bit flips, false headers and decompression bombs."""
    for family in (_cut, _flipped, _broken_metadata, _lying_tiff, _inflating):
        yield from family()


# ---- families --------------------------------------------------------------------------------------------------------


def _cut() -> Iterator[Made]:
    """Truncate files in signature and header, at fractions, and before the last byte.

    A format ends with its pixels or with a word after them: where only that word is cut, the image is whole.
    """
    noise = Image.fromarray(np.random.default_rng(5).integers(0, 256, (32, 48, 3), dtype=np.uint8))
    whole: dict[str, tuple[bytes, int, int, Verdict]] = {  # content, signature, header, without its last byte
        "jpg": (saved(noise, "JPEG"), 3, 30, "good"),
        "progressive.jpg": (saved(noise, "JPEG", progressive=True), 3, 30, "good"),
        "png": (saved(noise, "PNG"), 8, 24, "good"),
        "deep.png": (deep_png(deep()), 8, 24, "good"),
        "gif": (saved(noise, "GIF"), 6, 12, "good"),
        "webp": (saved(noise, "WEBP"), 12, 24, Reason.TRUNCATED),
        "bmp": (saved(noise, "BMP"), 18, 40, Reason.TRUNCATED),
        "tif": (tiff(np.asarray(noise), photometric="rgb"), 4, 60, Reason.TRUNCATED),
        "deep.tif": (tiff(deep(), photometric="rgb"), 4, 60, Reason.TRUNCATED),
        "ppm": (saved(noise, "PPM"), 4, 10, Reason.TRUNCATED),
    }
    for suffix, (content, signature, header, last) in whole.items():
        yield f"cut_1.{suffix}", Reason.NOT_AN_IMAGE, "one byte", content[:1]
        yield f"cut_2.{suffix}", Reason.NOT_AN_IMAGE, "two bytes", content[:2]
        yield f"cut_signature.{suffix}", Reason.TRUNCATED, "the signature alone", content[:signature]
        yield f"cut_header.{suffix}", Reason.TRUNCATED, "in the header", content[:header]
        for share in SHARES:
            at = int(len(content) * share)
            yield f"cut_{int(share * 100)}_percent.{suffix}", Reason.TRUNCATED, "in the pixels", content[:at]
        yield f"cut_last.{suffix}", last, "the last byte", content[:-1]


def _flipped() -> Iterator[Made]:
    """Flip one bit per file; only PNG has checksums that detect it."""
    sources: dict[str, tuple[bytes, int, Verdict]] = {  # content, first byte that is pixels, verdict
        "png": (saved(picture(), "PNG"), 41, Reason.TRUNCATED),
        "deep.png": (deep_png(deep()), 41, Reason.TRUNCATED),
        "bmp": (saved(picture(), "BMP"), 54, "good"),
        "ppm": (saved(picture(), "PPM"), 13, "good"),
        "tif": (tiff(picture_values(), photometric="rgb", metadata=None), 0, "good"),
        "jpg": (saved(picture(), "JPEG", quality=90), 0, "good"),
    }
    chance = np.random.default_rng(8)
    for suffix, (content, first, verdict) in sources.items():
        start = content.find(b"\xff\xda") + 14 if suffix == "jpg" else first
        start = len(content) - 4608 if suffix == "tif" else start
        end = len(content) - (16 if "png" in suffix else 3)
        for number in range(5):
            at, bit = int(chance.integers(start, end)), int(chance.integers(8))
            flipped = bytearray(content)
            flipped[at] ^= 1 << bit
            yield f"flipped_{number}.{suffix}", verdict, "one bit", bytes(flipped)


def _broken_metadata() -> Iterator[Made]:
    rgb = picture()
    whole = exif(6)
    blocks = {
        "empty": b"Exif\0\0",
        "half": whole[:15],
        "loop": b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "far": b"Exif\0\0II*\0\xff\xff\xff\x7f",
        "many": b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(300),
        "rubbish": b"Exif\0\0" + b"\xa5" * 500,
        "zero": exif(0),
        "nine": exif(9),
        "65535": exif(65535),
        "words": b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 274, 2, 4, 0x00393939) + bytes(4),
        "rational": b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 274, 5, 1, 26) + bytes(12),
    }
    for name, block in blocks.items():
        yield (
            f"exif_{name}.jpg",
            "good",
            "a damaged EXIF block says nothing of the pixels",
            saved(rgb, "JPEG", exif=block),
        )
    profiles = {
        "empty": b"",
        "zeros": bytes(200),
        "short": b"\0\0\0\x80acsp",
        "size_lies": b"\xff\xff\xff\xff" + bytes(124),
    }
    for name, profile in profiles.items():
        yield f"icc_{name}.jpg", "good", "a profile that is none", saved(rgb, "JPEG", icc_profile=profile)
        yield (
            f"icc_{name}.tif",
            "good",
            "a profile that is none",
            tiff(deep(), photometric="rgb", iccprofile=profile or b"\0"),
        )
    piece = saved(rgb, "JPEG", icc_profile=bytes(70000))
    yield "icc_piece_missing.jpg", "good", "half a profile", piece.replace(b"ICC_PROFILE\0\2\2", b"ICC_PROFILE\0\2\3")


def _lie(following: int = 0, **fields: tuple[int, int] | None) -> bytes:
    """Return a grey TIFF of 48 x 32 with other tags: `t256=(type, value)`, None to leave one out."""
    honest = {
        256: (3, 48), 257: (3, 32), 258: (3, 8), 259: (3, 1), 262: (3, 1),
        273: (4, 256), 277: (3, 1), 278: (3, 32), 279: (4, len(GREY)),
    }  # fmt: skip
    tags = honest | {int(name[1:]): field for name, field in fields.items() if field}
    for name, field in fields.items():
        if field is None:
            del tags[int(name[1:])]
    return directory([(tag, *field) for tag, field in tags.items()], following).ljust(256, b"\0") + GREY


def _lying_tiff() -> Iterator[Made]:
    for name, (verdict, content) in (_lying_directories() | _lying_sizes() | _lying_pixels()).items():
        yield f"tiff_lie_{name}.tif", verdict, "a directory that lies", content
    yield "tiff_many_pages.tif", "good", "300 pages", tiff(np.zeros((300, 8, 8), np.uint8), photometric="minisblack")


def _lying_directories() -> dict[str, tuple[Verdict, bytes]]:
    return {
        "honest": ("good", _lie()),
        "cycle": ("good", _lie(8)),
        "next_page_far": ("good", _lie(2**31)),
        "next_page_rubbish": ("good", _lie(300)),
        "directory_far": (Reason.TRUNCATED, b"II*\0" + struct.pack("<I", 2**31) + GREY),
        "directory_0": (Reason.TRUNCATED, b"II*\0" + bytes(4) + GREY),
        "directory_in_header": (Reason.TRUNCATED, b"II*\0" + struct.pack("<I", 4) + bytes(8)),
        "no_tags": (Reason.UNSUPPORTED, b"II*\0\x08\0\0\0\0\0" + bytes(100)),
        "65535_tags": (Reason.TRUNCATED, b"II*\0\x08\0\0\0\xff\xff" + bytes(100)),
    }


def _lying_sizes() -> dict[str, tuple[Verdict, bytes]]:
    return {
        "width_0": (Reason.TRUNCATED, _lie(t256=(LONG, 0))),
        "height_0": (Reason.TRUNCATED, _lie(t257=(LONG, 0))),
        "no_width": (Reason.TRUNCATED, _lie(t256=None)),
        "huge": (Reason.TOO_MANY_PIXELS, _lie(t256=(LONG, 60000), t257=(LONG, 60000))),
        "huger": (Reason.TOO_MANY_PIXELS, _lie(t256=(LONG, 2**32 - 1), t257=(LONG, 2**32 - 1))),
        "wide": (Reason.TOO_MANY_PIXELS, _lie(t256=(LONG, 2**27))),
        "deep_huge": (Reason.TOO_MANY_PIXELS, _lie(t256=(LONG, 60000), t257=(LONG, 60000), t258=(3, 16))),
        "0_bits": (Reason.UNSUPPORTED, _lie(t258=(3, 0))),
        "77_bits": (Reason.UNSUPPORTED, _lie(t258=(3, 77))),
        "0_channels": (Reason.UNSUPPORTED, _lie(t277=(3, 0))),
        "65535_channels": (Reason.UNSUPPORTED, _lie(t277=(3, 65535))),
    }


def _lying_pixels() -> dict[str, tuple[Verdict, bytes]]:
    return {
        "compression_999": (Reason.UNSUPPORTED, _lie(t259=(3, 999))),
        "photometric_999": (Reason.UNSUPPORTED, _lie(t262=(3, 999))),
        "strip_far": (Reason.TRUNCATED, _lie(t273=(LONG, 2**31))),
        "strip_long": ("good", _lie(t279=(LONG, 2**32 - 1))),
        "strip_0": ("good", _lie(t279=(LONG, 0))),
        "deep_strip_far": (Reason.TRUNCATED, _lie(t258=(3, 16), t273=(LONG, 2**31))),
        "rows_0": (Reason.TRUNCATED, _lie(t278=(3, 0))),
        "rows_huge": ("good", _lie(t278=(LONG, 2**32 - 1))),
        "tile_huge": (
            Reason.TOO_MANY_PIXELS,
            _lie(t322=(LONG, 2**30), t323=(LONG, 2**30), t324=(LONG, 256), t325=(LONG, 9)),
        ),
        "orientation_99": ("good", _lie(t274=(3, 99))),
        "deflate_rubbish": (Reason.TRUNCATED, _lie(t259=(3, 8))),
        "lzw_rubbish": (Reason.TRUNCATED, _lie(t259=(3, 5))),
        "jpeg_rubbish": (Reason.TRUNCATED, _lie(t259=(3, 7))),
    }


def _inflating() -> Iterator[Made]:
    """Return images that are small on disk; those over 2^28 pixels are refused undecoded."""
    zeros = _zeros(60000 * (60000 // 8 + 1))
    yield "inflating_60000.png", Reason.TOO_MANY_PIXELS, "450 MB of zeros", _stored_png(60000, 60000, 1, zeros)
    yield "inflating_inside.png", "good", "64 million pixels", _stored_png(8192, 8192, 1, _zeros(8192 * 1025))
    yield "inflating_wrong.png", "good", "1 GB behind one pixel", _stored_png(1, 1, 8, _zeros(2**30))
    strips = zlib.compress(bytes(2**26), 9)
    tags = [
        (256, 4, 16), (257, 4, 16), (258, 3, 16), (259, 3, 8), (262, 3, 1),
        (273, 4, 256), (277, 3, 1), (278, 4, 16), (279, 4, len(strips)),
    ]  # fmt: skip
    yield "inflating_strip.tif", Reason.TRUNCATED, "64 MB behind 256 pixels", directory(tags).ljust(256, b"\0") + strips
    for kind in (b"zTXt", b"iTXt"):
        text = b"Comment\0" + (b"\1\0\0\0" if kind == b"iTXt" else b"\0") + zlib.compress(bytes(2**24), 9)
        yield (
            f"inflating_{kind.decode()}.png",
            Reason.TOO_MANY_PIXELS,
            "a comment of 16 MB",
            png(1, 1, 8, 0, b"\0\0", chunk(kind, text)),
        )
    many = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**19), 9)) * 300
    yield "inflating_comments.png", Reason.TOO_MANY_PIXELS, "300 comments of 512 KB", png(1, 1, 8, 0, b"\0\0", many)
    runs = b"\0\xff\xff\0" * 1
    yield (
        "inflating_runs.bmp",
        Reason.TOO_MANY_PIXELS,
        "runs that end early",
        bmp(16000, 16000, 8, runs, 1, bytes(1024)),
    )


def _zeros(count: int) -> bytes:
    """Return `count` deflated zeros without allocating them."""
    engine, piece = zlib.compressobj(9), bytes(2**20)
    parts = [engine.compress(piece) for _ in range(count // len(piece))]
    return b"".join([*parts, engine.compress(bytes(count % len(piece))), engine.flush()])


def _stored_png(width: int, height: int, depth: int, body: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")
