"""The format part of the corpus: supported variants, other formats and odd sizes."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from kt_batch.errors import Reason
from tests.support.hostile import Made, chunk, deep, deep_png, exif, picture, picture_values, png, saved, tiff

# 16 x 12 pixels with arithmetic coding, sequential and progressive, which no available encoder writes.
ARITHMETIC = (
    "|JeWF01!$>Nk#wx0RR9200961|JwjV02B@n5)Ta&5)cv>6%-gAG9exu93DL^E+jHZKuk+VKt@GST61DhRc%&9Mr4R(ZFhTtf`Lw8"
    "jhBplmUDiAeE-`3Lje^R7akfOJ0T%Ed{ahKe0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0=}O"
    "01*fP3;+-V0U`hb5di}c0sqVZ3IGrg1pyEd1^?Or3<CiG0ucid06zf#06sC-Wv>9h-bITTua6P9-EYYn)RAkGiH85#"
)
ARITHMETIC_PROGRESSIVE = (
    "|JeWF01!$>Nk#wx0RR9200961|JwjV02B@n5)Ta&5)cv>6%-gAG9exu93DL^E+jHZKuk+VKt@GST61DhRc%&9Mr4R(ZFhTtf`Lw8"
    "jhBplmUDiAeE-`3Lje^R7akfOJ0T%Ed{ahKe0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0+R-e0=}P"
    "01*fP3;+-V0U`hb5di}c0sqVZ1^^HN5dYc$3<CiG0uTcb00060e8K9Oxc|%m1P}%P+5iXv0RRC70uuZ0|I7dc5e5I+00;pC0RcY&"
    "6L-M>%m4%t1^?Or2mt~C0Y3ps`2WlR1P}%P+5iXv0RRR+0>J;w00a;P|Jncu0RaF3KOw}g!2j9+3<CiG0ssR5000oo|I7dc5e5I+"
    "00;pC0RcY{sDS^>00a>Q|Jncu0RjO5KM-jD%m4%s1^?Or2mt{A0Y4DaLOdJ5|Je"
)


def formats() -> Iterator[Made]:
    """Return variants of supported formats, unsupported formats and extreme sizes."""
    for family in (_jpeg, _png, _png_chunks, _gif_and_webp, _bmp, _tiff, _tiff_samples, _portable, _foreign, _sizes):
        yield from family()


# ---- parts -----------------------------------------------------------------------------------------------------------


def interlaced_png(values: NDArray[np.uint8]) -> bytes:
    """Return (H, W, 3) uint8 as a PNG in the seven passes of Adam7."""
    height, width = values.shape[:2]
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b"".join(
        b"\0" + row.tobytes()
        for left, top, across, down in passes
        for row in values[top::down, left::across]
        if row.size
    )
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def packed_png(depth: int, colour: int, *more: bytes) -> bytes:
    """Return a 48 x 32 PNG of `depth` bits; colour 0 is grey, 3 a palette."""
    row = bytes(range(48 * depth // 8))
    return png(48, 32, depth, colour, b"".join(b"\0" + row for _ in range(32)), *more)


def bmp(width: int, height: int, bits: int, rows: bytes, compression: int = 0, palette: bytes = b"") -> bytes:
    """Return a BMP with a 40-byte header; `palette` may be masks."""
    offset = 54 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(rows), 2835, 2835, 0, 0)
    return struct.pack("<2sIHHI", b"BM", offset + len(rows), 0, 0, offset) + info + palette + rows


def pillow_tiff(image: Image.Image, **options: Any) -> bytes:
    """Return a TIFF by Pillow; `tags` maps numbers to values."""
    directory = ImageFileDirectory_v2()
    for tag, value in options.pop("tags", {}).items():
        directory[tag] = value
    return saved(image, "TIFF", tiffinfo=directory, **options)


def grey_ramp() -> NDArray[np.uint8]:
    """Return a (32, 48) uint8 ramp."""
    return picture_values()[..., 0].copy()


# ---- families --------------------------------------------------------------------------------------------------------


def _jpeg() -> Iterator[Made]:
    rgb, values = picture(), picture_values()
    plain = saved(rgb, "JPEG", quality=90)
    comment = b"\xff\xfe" + struct.pack(">H", 65535) + b"x" * 65533
    variants = {
        "quality_1": saved(rgb, "JPEG", quality=1),
        "quality_100": saved(rgb, "JPEG", quality=100),
        "444": saved(rgb, "JPEG", subsampling=0),
        "422": saved(rgb, "JPEG", subsampling=1),
        "420": saved(rgb, "JPEG", subsampling=2),
        "progressive_grey": saved(rgb.convert("L"), "JPEG", progressive=True),
        "progressive_cmyk": saved(rgb.convert("CMYK"), "JPEG", progressive=True),
        "optimised": saved(rgb, "JPEG", optimize=True),
        "restarts": saved(rgb, "JPEG", restart_marker_blocks=1),
        "ycck": imagecodecs.jpeg8_encode(np.asarray(rgb.convert("CMYK")), colorspace="CMYK", outcolorspace="YCCK"),
        "stored_as_rgb": imagecodecs.jpeg8_encode(values, colorspace="RGB", outcolorspace="RGB"),
        "arithmetic": base64.b85decode(ARITHMETIC),
        "arithmetic_progressive": base64.b85decode(ARITHMETIC_PROGRESSIVE),
        "long_comments": plain[:2] + comment * 40 + plain[2:],
        "rubbish_behind": plain + b"\0rubbish" * 500,
        "another_behind": plain + plain,
        "dpi_zero": saved(rgb, "JPEG", dpi=(0, 0)),
        "xmp": saved(rgb, "JPEG", xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"),
    }
    for name, content in variants.items():
        yield f"jpeg_{name}.jpg", "good", "JPEG", bytes(content)
    yield "jpeg_lossless.jpg", "good", "SOF3", bytes(imagecodecs.jpeg8_encode(values, lossless=True))
    twelve = imagecodecs.jpeg8_encode((values.astype(np.uint16) << 4), bitspersample=12)
    yield "jpeg_12_bits.jpg", Reason.UNSUPPORTED, "12 bits", bytes(twelve)
    yield "jpeg_ls.jpg", Reason.UNSUPPORTED, "JPEG-LS", bytes(imagecodecs.jpegls_encode(values))
    yield "jpeg_no_end_marker.jpg", "good", "the last two bytes are missing, and no pixel", plain[:-2]
    start = plain.find(b"\xff\xc0")
    for name, at, field, verdict in (
        ("no_height", 5, b"\0\0", Reason.TRUNCATED),
        ("no_width", 7, b"\0\0", Reason.TRUNCATED),
        ("9_bits", 4, b"\x09", Reason.UNSUPPORTED),
        ("200_channels", 9, b"\xc8", Reason.TRUNCATED),
    ):
        lie = plain[: start + at] + field + plain[start + at + len(field) :]
        yield f"jpeg_{name}.jpg", verdict, "a header that lies", lie


def _png() -> Iterator[Made]:
    rgb, values = picture(), picture_values()
    palette = {depth: chunk(b"PLTE", bytes(range(3 * 2**depth))) for depth in (1, 2, 4)}
    palette[8] = chunk(b"PLTE", bytes(range(256)) * 3)
    for depth in (1, 2, 4, 8):
        yield f"png_grey_{depth}.png", "good", "grey", packed_png(depth, 0)
        yield f"png_palette_{depth}.png", "good", "palette", packed_png(depth, 3, palette[depth])
    yield "png_interlaced.png", "good", "Adam7", interlaced_png(values)
    for side in (1, 2, 3, 5):
        small = np.ascontiguousarray(values[:side, :side])
        yield f"png_interlaced_{side}.png", "good", "Adam7 with empty passes", interlaced_png(small)
    frames = [Image.new("RGB", (48, 32), colour) for colour in ("red", "blue")]
    yield "png_animated.png", "good", "APNG", saved(rgb, "PNG", save_all=True, append_images=frames)
    yield "png_animated.apng", "good", "APNG by its suffix", saved(rgb, "PNG", save_all=True, append_images=frames)
    yield "png_level_0.png", "good", "stored, not deflated", saved(rgb, "PNG", compress_level=0)
    yield "png_key_8.png", "good", "one colour is clear", saved(rgb, "PNG", transparency=(0, 0, 0))
    yield "png_key_grey.png", "good", "one grey is clear", saved(rgb.convert("L"), "PNG", transparency=7)
    yield "png_key_16.png", "good", "one deep colour is clear", deep_png(deep(), chunk(b"tRNS", bytes(6)))
    yield "png_bilevel_key.png", "good", "black is clear", packed_png(1, 0, chunk(b"tRNS", b"\0\0"))
    bilevel = rgb.quantize(2)
    yield "png_two_colours.png", "good", "palette of two", saved(bilevel, "PNG", bits=1)
    yield "png_wide_profile.png", "good", "profile", saved(rgb, "PNG", icc_profile=imagecodecs.cms_profile("adobergb"))
    for orientation in (2, 3, 6, 8):
        yield f"png_turned_{orientation}.png", "good", "EXIF", saved(rgb, "PNG", exif=exif(orientation))


def _png_chunks() -> Iterator[Made]:
    rows = b"".join(b"\0" + row.tobytes() for row in picture_values())
    whole = png(48, 32, 8, 2, rows)
    body = zlib.compress(rows)
    head, data, end = whole[:33], chunk(b"IDAT", body), chunk(b"IEND", b"")
    pieces = b"".join(chunk(b"IDAT", body[at : at + 1]) for at in range(len(body)))
    good = {
        "unknown_chunk": head + chunk(b"xyZz", b"private") + data + end,
        "gamma_zero": head + chunk(b"gAMA", bytes(4)) + data + end,
        "gamma": head + chunk(b"gAMA", struct.pack(">I", 45455)) + data + end,
        "srgb": head + chunk(b"sRGB", b"\0") + data + end,
        "text": head + chunk(b"tEXt", b"Comment\0hello") + data + end,
        "bytes_in_chunks": head + pieces + end,
        "empty_chunks": head + chunk(b"IDAT", b"") * 50 + data + end,
        "more_data": head + chunk(b"IDAT", zlib.compress(rows * 3)) + end,
        "no_end": head + data,
        "rubbish_behind": whole + b"PK\3\4" * 100,
        "broken_exif": head + chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff") + data + end,
        "rubbish_exif": head + chunk(b"eXIf", b"what is this") + data + end,
        "length_lies": head + struct.pack(">I", 2**31 - 1) + data[4:] + end,
        "palette_unused": head + chunk(b"PLTE", bytes(9)) + data + end,
    }
    for name, content in good.items():
        yield f"png_{name}.png", "good", "PNG's chunks", content

    def ihdr(*fields: int) -> bytes:
        return whole[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", *fields)) + data + end

    broken = {
        "width_0": ihdr(0, 32, 8, 2, 0, 0, 0),
        "height_0": ihdr(48, 0, 8, 2, 0, 0, 0),
        "depth_3": ihdr(48, 32, 3, 2, 0, 0, 0),
        "depth_0": ihdr(48, 32, 0, 2, 0, 0, 0),
        "colour_7": ihdr(48, 32, 8, 7, 0, 0, 0),
        "no_header": whole[:8] + data + end,
        "short_header": whole[:8] + chunk(b"IHDR", bytes(5)) + data + end,
        "no_data": head + end,
        "no_palette": packed_png(8, 3),
        "rubbish_data": head + chunk(b"IDAT", b"\x78\x9c" + b"\xff" * 400) + end,
        "too_little_data": head + chunk(b"IDAT", zlib.compress(rows[:500])) + end,
        "wrong_crc": head + data[:-1] + bytes([data[-1] ^ 1]) + end,
        "wrong_header_crc": head[:-1] + bytes([head[-1] ^ 1]) + data + end,
    }
    for name, content in broken.items():
        yield f"png_{name}.png", Reason.TRUNCATED, "PNG's chunks", content


def _gif_and_webp() -> Iterator[Made]:
    rgb = picture()
    grey, clear = rgb.convert("L"), rgb.convert("RGBA")
    frames = [Image.new("P", (1, 1), n % 2) for n in range(5000)]
    plain = saved(rgb, "GIF")
    yield "gif_87a.gif", "good", "the first GIF", b"GIF87a" + plain[6:]
    yield "gif_grey.gif", "good", "grey", saved(grey, "GIF")
    yield "gif_interlaced.gif", "good", "interlaced", saved(grey, "GIF", interlace=True)
    yield "gif_clear.gif", "good", "a clear entry", saved(rgb.quantize(8), "GIF", transparency=0)
    yield (
        "gif_5000_frames.gif",
        "good",
        "frames without end",
        saved(frames[0], "GIF", save_all=True, append_images=frames),
    )
    yield "gif_rubbish_behind.gif", "good", "rubbish", plain + bytes(5000)
    yield "gif_huge_screen.gif", Reason.TOO_MANY_PIXELS, "65535 x 65535", plain[:6] + b"\xff" * 4 + plain[10:]
    at = plain.find(b",", 13 + 3 * 2 ** ((plain[10] & 7) + 1))
    yield (
        "gif_huge_frame.gif",
        Reason.TOO_MANY_PIXELS,
        "a frame beyond its screen",
        plain[: at + 5] + b"\xff" * 4 + plain[at + 9 :],
    )
    yield "gif_nothing.gif", Reason.TRUNCATED, "a screen without a frame", plain[:at] + b";"
    yield "webp_lossy.webp", "good", "lossy", saved(rgb, "WEBP", quality=50)
    yield "webp_lossless.webp", "good", "lossless", saved(rgb, "WEBP", lossless=True)
    yield "webp_lossless_clear.webp", "good", "lossless, alpha", saved(clear, "WEBP", lossless=True)
    yield "webp_grey.webp", "good", "from grey", saved(grey, "WEBP")
    for orientation in (3, 6):
        yield f"webp_turned_{orientation}.webp", "good", "EXIF", saved(rgb, "WEBP", exif=exif(orientation))
    yield "webp_profile.webp", "good", "profile", saved(rgb, "WEBP", icc_profile=imagecodecs.cms_profile("adobergb"))
    wide = bytearray(saved(clear, "WEBP", exif=exif(6)))
    wide[24:30] = b"\xff\xff\x01" * 2
    yield "webp_huge_canvas.webp", Reason.TOO_MANY_PIXELS, "a canvas of 131072 x 131072", bytes(wide)
    yield "webp_other_riff.webp", Reason.NOT_AN_IMAGE, "a sound", b"RIFF\x24\0\0\0WAVEfmt " + bytes(40)


def _bmp() -> Iterator[Made]:
    values = picture_values()[::-1, :, ::-1]
    rows = values.tobytes()
    quads = np.concatenate([values, np.full((32, 48, 1), 255, np.uint8)], axis=-1).tobytes()
    fifteen = ((values >> 3).astype("<u2") << np.array([0, 5, 10], "<u2")).sum(-1).astype("<u2").tobytes()
    colours = bytes(range(256)) * 4
    masks = struct.pack("<3I", 0xF800, 0x7E0, 0x1F)
    nibbles = bytes(range(24)) * 32
    runs = b"".join(bytes((48, n)) + b"\0\0" for n in range(32)) + b"\0\1"
    good = {
        "1": bmp(48, 32, 1, bytes(8 * 32), palette=colours[:8]),
        "4": bmp(48, 32, 4, nibbles, palette=colours[:64]),
        "8": bmp(48, 32, 8, bytes(range(48)) * 32, palette=colours),
        "16": bmp(48, 32, 16, fifteen),
        "565": bmp(48, 32, 16, fifteen, compression=3, palette=masks),
        "24": bmp(48, 32, 24, rows),
        "32": bmp(48, 32, 32, quads),
        "runs": bmp(48, 32, 8, runs, compression=1, palette=colours),
        "top_down": bmp(48, -32, 24, rows),
        "rubbish_behind": bmp(48, 32, 24, rows) + bytes(999),
        "os2": struct.pack("<2sIHHI", b"BM", 26 + len(rows), 0, 0, 26)
        + struct.pack("<IHHHH", 12, 48, 32, 1, 24)
        + rows,
    }
    for name, content in good.items():
        yield f"bmp_{name}.bmp", "good", "BMP", content
    yield "bmp_dib.dib", "good", "BMP by another suffix", good["24"]
    yield "bmp_huge.bmp", Reason.TOO_MANY_PIXELS, "60000 x 60000", bmp(60000, 60000, 24, rows)
    yield "bmp_huge_runs.bmp", Reason.TOO_MANY_PIXELS, "the same in runs", bmp(60000, 60000, 8, runs, 1, colours)
    yield "bmp_negative_width.bmp", Reason.TOO_MANY_PIXELS, "read as 2^32 - 48", bmp(-48, 32, 24, rows)
    broken = {
        "width_0": bmp(0, 32, 24, rows),
        "height_0": bmp(48, 0, 24, rows),
        "5_bits": bmp(48, 32, 5, rows),
        "compression_77": bmp(48, 32, 24, rows, compression=77),
        "no_rows": bmp(48, 32, 24, b""),
    }
    for name, content in broken.items():
        yield f"bmp_{name}.bmp", Reason.TRUNCATED, "BMP", content


def _tiff() -> Iterator[Made]:
    rgb, values, grey = picture(), picture_values(), grey_ramp()
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd"):
        yield f"tiff_{compression}.tif", "good", "compression", saved(rgb, "TIFF", compression=compression)
    for compression in ("group3", "group4", "tiff_ccitt"):
        yield f"tiff_{compression}.tif", "good", "fax", saved(rgb.convert("1"), "TIFF", compression=compression)
    for orientation in range(1, 9):
        yield f"tiff_turned_{orientation}.tif", "good", "turned", pillow_tiff(rgb, tags={274: orientation})
        turned = tiff(deep(), photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
        yield f"tiff_deep_turned_{orientation}.tif", "good", "turned, 16 bits", turned
    large = np.tile(values, (4, 3, 1))
    variants: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {
        "tiles": (large, {"photometric": "rgb", "tile": (32, 32)}),
        "deep_tiles": (np.tile(deep(), (4, 3, 1)), {"photometric": "rgb", "tile": (32, 48), "compression": "lzw"}),
        "planes": (np.moveaxis(values, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}),
        "big_endian": (values, {"photometric": "rgb", "byteorder": ">"}),
        "bigtiff": (values, {"photometric": "rgb", "bigtiff": True}),
        "bigtiff_big_endian": (values, {"photometric": "rgb", "bigtiff": True, "byteorder": ">"}),
        "one_row_a_strip": (values, {"photometric": "rgb", "rowsperstrip": 1}),
        "predictor": (deep(), {"photometric": "rgb", "compression": "deflate", "predictor": True}),
        "float_predictor": (
            (deep() / 65535).astype(np.float32),
            {"photometric": "rgb", "compression": "deflate", "predictor": True},
        ),
        "white_is_zero": (grey, {"photometric": "miniswhite"}),
        "grey_alpha": (values[..., :2], {"photometric": "minisblack", "extrasamples": ["unassalpha"]}),
        "premultiplied": (deep(4), {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
        "unknown_fourth": (deep(4), {"photometric": "rgb", "extrasamples": ["unspecified"]}),
        "pages": (np.stack([values] * 4), {"photometric": "rgb"}),
        "ink_and_profile": (deep(4), {"photometric": "separated", "iccprofile": b"no profile" * 30}),
        "volume_of_2": (np.stack([values] * 2), {"photometric": "rgb", "metadata": {"axes": "ZYXS"}}),
    }
    for name, (pixels, options) in variants.items():
        yield f"tiff_{name}.tif", "good", "TIFF", tiff(pixels, **options)


def _tiff_samples() -> Iterator[Made]:
    grey = grey_ramp()
    unit = (deep() / 65535.0).astype(np.float32)
    yield "tiff_palette.tif", "good", "palette", saved(picture().quantize(16), "TIFF")
    yield "tiff_double.tif", "good", "float64", tiff(unit.astype(np.float64), photometric="rgb")
    yield "tiff_beyond_1.tif", "good", "brighter than white", tiff(unit * 7, photometric="rgb")
    yield "tiff_negative.tif", "good", "darker than black", tiff(unit - 3, photometric="rgb")
    yield "tiff_uint32.tif", "good", "32 bits", tiff(deep().astype(np.uint32) << 16, photometric="rgb")
    yield "tiff_12_bits.tif", "good", "12 bits, packed", packed_tiff()
    yield "tiff_int8.tif", Reason.UNSUPPORTED, "signed", tiff(grey.astype(np.int8), photometric="minisblack")
    yield "tiff_int32.tif", Reason.UNSUPPORTED, "signed", tiff(grey.astype(np.int32), photometric="minisblack")
    lab = tiff(deep(), photometric="cielab")
    yield "tiff_lab.tif", Reason.UNSUPPORTED, "Lab", lab
    yield "tiff_2_channels.tif", "good", "a second channel of no meaning", tiff(deep(2), photometric="minisblack")
    five = tiff(deep(5), photometric="separated", extrasamples=["unspecified"])
    yield "tiff_5_inks.tif", "good", "inks and one more", five
    six = tiff(np.dstack([deep(4), deep(2)]), photometric="rgb")
    yield "tiff_6_channels.tif", Reason.UNSUPPORTED, "multispectral", six


def packed_tiff() -> bytes:
    """Return a grey TIFF of 12 bits per sample, two samples in three bytes."""
    samples = (deep(1)[..., 0] >> 4).astype(np.uint32)
    pairs = samples[:, ::2] << 12 | samples[:, 1::2]
    packed = np.stack([pairs >> 16, pairs >> 8, pairs], axis=-1).astype(np.uint8).tobytes()
    tags = [
        (256, 3, 48), (257, 3, 32), (258, 3, 12), (259, 3, 1), (262, 3, 1),
        (273, 4, 200), (277, 3, 1), (278, 3, 32), (279, 4, len(packed)),
    ]  # fmt: skip
    return directory(tags).ljust(200, b"\0") + packed


def directory(tags: list[tuple[int, int, int]], following: int = 0) -> bytes:
    """Return a little-endian TIFF header and one directory of (tag, type, value).

    `following` is the offset of the next directory.
    """
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", following)


def _portable() -> Iterator[Made]:
    values, grey = picture_values(), grey_ramp()
    text = " ".join(map(str, values.ravel())).encode()
    good = {
        "p1.pbm": b"P1 4 2 0 1 0 1 1 0 1 0",
        "p2.pgm": b"P2\n48 32 255\n" + " ".join(map(str, grey.ravel())).encode(),
        "p3.ppm": b"P3 48 32 255\n" + text,
        "p4.pbm": b"P4 48 32\n" + bytes(6 * 32),
        "p5.pgm": b"P5 48 32 255\n" + grey.tobytes(),
        "p6.ppm": b"P6 # a comment\n48 # another\n32 255\n" + values.tobytes(),
        "deep.pgm": b"P5 48 32 65535\n" + deep(1).astype(">u2").tobytes(),
        "few_greys.pgm": b"P5 48 32 7\n" + (grey >> 5).tobytes(),
        "float.pfm": b"Pf\n48 32\n-1.0\n" + (grey / 255).astype("<f4").tobytes(),
        "pnm.pnm": b"P6 48 32 255\n" + values.tobytes(),
        "deep.ppm": b"P6 48 32 65535\n" + deep().astype(">u2").tobytes(),
    }
    for name, content in good.items():
        yield f"portable_{name}", "good", "portable", content
    broken = {
        "no_white": b"P5 48 32 0\n" + grey.tobytes(),
        "white_70000": b"P5 48 32 70000\n" + grey.tobytes(),
        "short": b"P6 48 32 255\n" + values.tobytes()[:-1],
        "header_only": b"P6 48",
        "words": b"P3 48 32 255\nred green blue",
        "negative": b"P6 -48 32 255\n" + values.tobytes(),
        "width_0": b"P6 0 32 255\n" + values.tobytes(),
        "long_number": b"P6 " + b"9" * 5000 + b" 32 255\n",
    }
    for name, content in broken.items():
        yield f"portable_{name}.ppm", Reason.TRUNCATED, "portable", content


def _foreign() -> Iterator[Made]:
    rgb, values = picture(), picture_values()
    raw = {
        "icon.ico": saved(rgb, "ICO", sizes=[(32, 32)]),
        "icon.icns": saved(rgb.resize((32, 32)), "ICNS"),
        "targa.tga": saved(rgb, "TGA"),
        "paintbrush.pcx": saved(rgb, "PCX"),
        "silicon.sgi": saved(rgb, "SGI"),
        "direct.dds": saved(rgb, "DDS"),
        "jpeg2000.jp2": saved(rgb, "JPEG2000"),
        "av1.avif": saved(rgb, "AVIF"),
        "xl.jxl": imagecodecs.jpegxl_encode(values),
        "xr.jxr": imagecodecs.jpegxr_encode(values),
        "ok.qoi": imagecodecs.qoi_encode(values),
        "light.hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n\x80\x80\x80\x80",
        "light.exr": b"\x76\x2f\x31\x01" + bytes(400),
        "layers.psd": b"8BPS\0\1" + bytes(400),
        "document.pdf": saved(rgb, "PDF"),
        "archive.zip": b"PK\5\6" + bytes(18),
        "film.mp4": b"\0\0\0\x18ftypisom" + bytes(200),
        "program.elf": b"\x7fELF" + bytes(400),
        "script.sh": b"#!/bin/sh\ntouch escaped\n",
        "array.npy": b"\x93NUMPY\1\0" + bytes(120),
        "state.pkl": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        "entities.xml": b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>',
        "picture.wmf": b"\xd7\xcd\xc6\x9a" + bytes(100),
        "picture.xbm": b"#define w_width 8\n#define w_height 1\nstatic char w_bits[] = {0};\n",
        "arbitrary.pam": b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\nabc",
        "one_byte": b"\x89",
        "one_zero": b"\0",
        "zeros": bytes(100_000),
        "line_breaks": b"\n" * 5000,
    }
    for name, content in raw.items():
        yield f"foreign_{name}.jpg", Reason.NOT_AN_IMAGE, "not read, whatever it is called", bytes(content)
    for suffix, content in {"tif": saved(rgb, "BMP"), "gif": saved(rgb, "WEBP"), "webp": saved(rgb, "TIFF")}.items():
        yield f"foreign_inside.{suffix}", "good", "another format than its suffix says", content


def _sizes() -> Iterator[Made]:
    for side in range(2, 10):
        yield f"size_{side}x{side}.png", "good", "around the encoder's stride", saved(picture(side, side), "PNG")
        yield f"size_{side}x1.png", "good", "one row", saved(picture(side, 1), "PNG")
        yield f"size_2x{side}.jpg", "good", "two columns", saved(picture(2, side), "JPEG")
    for side in (15, 16, 17, 63, 64, 65):
        yield f"size_{side}x{side}.png", "good", "around multiples", saved(picture(side, side), "PNG")
    yield "size_65500x1.jpg", "good", "as long as a JPEG can be", saved(picture(65500, 1), "JPEG", quality=30)
    yield "size_1x60000.png", "good", "a thread", saved(picture(1, 60000), "PNG")
    yield "size_300000x1.png", "good", "longer than 16 bits", saved(picture(300000, 1), "PNG")
    yield "size_16383x1.webp", "good", "as long as a WebP can be", saved(picture(16383, 1), "WEBP")
    yield "size_grey_4000x3000.png", "good", "12 million pixels", saved(Image.new("L", (4000, 3000), 90), "PNG")
