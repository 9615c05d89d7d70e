"""The part of the corpus in HEIC, AVIF, JPEG XL, JPEG 2000 and camera raw: whole, cut, false and inflating files."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import imagecodecs
import numpy as np

from kt_batch.errors import Reason
from tests.support.format_files import JxlBits, JxlColours, avif, avif_item, dng, j2k, jp2, jxl, jxl_with
from tests.support.heif_files import Item, box, full_box, heic, heif, picture_item, size_box
from tests.support.hostile import Made, Verdict, deep, picture, picture_values, saved

SHARES = (0.2, 0.5, 0.9)
HUGE = 60000


def codecs() -> Iterator[Made]:
    """Return whole, cut, false and inflating files."""
    for family in (_whole, _cut, _lying_heif, _lying_streams, _inflating):
        yield from family()


def _files() -> dict[str, tuple[bytes, int, int]]:
    """Return files, the length of their signature, and the first byte of their pixels."""
    values = picture_values()
    heic_file, avif_file, raw = heic(values), avif(values), dng(deep(1)[..., 0])
    return {
        "heic": (heic_file, 24, heic_file.index(b"mdat") + 4),
        "avif": (avif_file, 24, avif_file.index(b"mdat") + 4),
        "jxl": (jxl(values, usecontainer=False), 2, 12),
        "boxes.jxl": (jxl(deep(), usecontainer=True), 12, 60),
        "jp2": (jp2(values), 12, 200),
        "j2k": (j2k(values), 4, 130),
        "dng": (raw, 0, len(raw) - 48 * 32 * 2),
    }


def _whole() -> Iterator[Made]:
    for suffix, (content, _, _) in _files().items():
        yield f"codec_whole.{suffix}", "good", "whole", content
        yield f"codec_rubbish_behind.{suffix}", "good", "rubbish behind the picture", content + b"\0\0\0\0" * 50
    yield "codec_pillow.jp2", "good", "by Pillow", saved(picture(), "JPEG2000")
    yield "codec_pillow.avif", "good", "by Pillow", saved(picture(), "AVIF")
    yield "codec_lossy.jxl", "good", "lossy", bytes(imagecodecs.jpegxl_encode(picture_values(), distance=2.0))


def _cut() -> Iterator[Made]:
    for suffix, (content, signature, pixels) in _files().items():
        if signature:
            yield f"codec_cut_signature.{suffix}", Reason.TRUNCATED, "the signature alone", content[:signature]
            yield f"codec_cut_header.{suffix}", Reason.TRUNCATED, "in the header", content[: (signature + pixels) // 2]
        for share in SHARES:
            at = pixels + int((len(content) - pixels) * share)
            yield f"codec_cut_{int(share * 100)}_percent.{suffix}", Reason.TRUNCATED, "in the pixels", content[:at]
        last: Verdict = "good" if suffix == "dng" else Reason.TRUNCATED  # LibRaw takes half of the last sample
        yield f"codec_cut_last.{suffix}", last, "the last byte", content[:-1]


def _changed(item: Item, kind: bytes, new: bytes) -> Item:
    """Return an item with another property of a kind."""
    item.properties = [new if given[4:8] == kind else given for given in item.properties]
    return item


def _lying_heif() -> Iterator[Made]:
    values = picture_values()
    for suffix, made in (("heic", picture_item), ("avif", avif_item)):
        brand = suffix.encode()
        item = made(values)

        def lie(kind: bytes, new: bytes, item: Item = item, brand: bytes = brand) -> bytes:
            given = Item(item.kind, item.content, item.properties)
            return heif([_changed(given, kind, new)], brand=brand)

        coding = b"hvcC" if suffix == "heic" else b"av1C"
        whole, many = heif([item], brand=brand), b"\0\1\xff\xff" + bytes(8)
        places = b"\x44\0\0\1\0\1\0\0\0\1\0\0"
        assert places in whole
        files: dict[str, tuple[Verdict, bytes]] = {
            "huge": (Reason.TOO_MANY_PIXELS, lie(b"ispe", size_box(HUGE, HUGE))),
            "no_size": (Reason.TRUNCATED, lie(b"ispe", box(b"free"))),
            "size_0": (Reason.TRUNCATED, lie(b"ispe", size_box(0, 0))),
            "no_primary": (Reason.TRUNCATED, heif([item], primary=9, brand=brand)),
            "no_content": (Reason.TRUNCATED, heif([Item(item.kind, b"", item.properties)], brand=brand)),
            "another_is_whole": (
                Reason.TRUNCATED,
                heif([item, Item(item.kind, b"\x12\0" * 99, item.properties)], primary=2, brand=brand),
            ),
            "rubbish": (Reason.TRUNCATED, heif([Item(item.kind, b"\x12\0" * 99, item.properties)], brand=brand)),
            "items_far": (Reason.TRUNCATED, whole.replace(places, places[:-2] + b"\x7f\xff")),
            "box_0": (Reason.TRUNCATED, whole[:24] + b"\0\0\0\4meta" + whole[32:]),
            "box_huge": (Reason.TRUNCATED, whole[:24] + b"\0\0\0\1meta" + b"\xff" * 8 + whole[32:]),
            "grid_of_itself": (
                Reason.TRUNCATED,
                heif([Item(b"grid", bytes(8), [size_box(48, 32)], {b"dimg": (1,)}), item], brand=brand),
            ),
            "grid_of_nothing": (Reason.TRUNCATED, heif([Item(b"grid", bytes(8), [size_box(48, 32)])], brand=brand)),
            "grid_of_many": (
                Reason.TRUNCATED,
                heif([Item(b"grid", many, [size_box(48, 32)], {b"dimg": [2] * 65535}), item], brand=brand),
            ),
            "without_decoder": (Reason.TRUNCATED, lie(coding, box(b"free"))),
        }  # fmt: skip
        for name, (verdict, content) in files.items():
            yield f"codec_lie_{name}.{suffix}", verdict, "boxes that lie", content
    yield "codec_pieces.heic", Reason.TRUNCATED, "2^32 pieces without a byte of their own", _pieces()
    yield "codec_decoder_huge.heic", Reason.TOO_MANY_PIXELS, "the coded picture is larger than it says", _huge_stream()
    yield (
        "codec_mini.heic",
        Reason.UNSUPPORTED,
        "a short header",
        box(b"ftyp", b"mif3\0\0\0\0heic") + box(b"mini", bytes(40)),
    )


def _pieces() -> bytes:
    entries = b"".join(struct.pack(">HHH", number, 0, 65535) for number in range(65535))
    meta = full_box(
        b"meta",
        full_box(b"pitm", struct.pack(">H", 1)),
        full_box(b"iloc", b"\0\0", struct.pack(">H", 65535), entries),
    )
    return box(b"ftyp", b"heic\0\0\0\0mif1heic") + meta


def _huge_stream() -> bytes:
    """Return a HEIC of 48 x 32 pixels by its boxes, and of 16384 x 16384 by its parameter sets."""
    from tests.support import heif_files

    item = picture_item(picture_values())
    old, new = heif_files.parameters(48, 32, 8, 3), heif_files.parameters(16384, 16384, 8, 3)
    configuration = item.properties[0][4:].replace(struct.pack(">H", len(old)) + old, struct.pack(">H", len(new)) + new)
    item.properties = [struct.pack(">I", 4 + len(configuration)) + configuration, *item.properties[1:]]
    return heif([item])


def _lying_streams() -> Iterator[Made]:
    stream = j2k(picture_values())

    def siz(at: int, *values: int, form: str = "I") -> bytes:
        return (
            stream[:at]
            + struct.pack(f">{len(values)}{form}", *values)
            + stream[at + struct.calcsize(form) * len(values) :]
        )

    files: dict[str, tuple[Verdict, bytes]] = {
        "huge.j2k": (Reason.TOO_MANY_PIXELS, siz(8, HUGE, HUGE)),
        "size_0.j2k": (Reason.TRUNCATED, siz(8, 0, 0)),
        "left_of_0.j2k": (Reason.TRUNCATED, siz(16, 99, 99)),
        "tiles_0.j2k": (Reason.TRUNCATED, siz(24, 0, 0)),
        "tiles_of_1.j2k": (Reason.TRUNCATED, siz(8, 4000, 4000, 0, 0, 1, 1)),
        "components_16384.j2k": (Reason.TRUNCATED, siz(40, 16384, form="H")),
        "bits_38.j2k": (Reason.UNSUPPORTED, siz(42, 37, form="B")),
        "signed.j2k": (Reason.UNSUPPORTED, siz(42, 135, form="B")),
        "small_parts.j2k": (Reason.UNSUPPORTED, siz(46, 2, 2, form="B")),
        "no_stream.jp2": (Reason.TRUNCATED, jp2(picture_values()).replace(b"jp2c", b"free")),
        "no_stream.jxl": (Reason.TRUNCATED, b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"ftyp", b"jxl \0\0\0\0jxl ")),
        "huge.jxl": (Reason.TOO_MANY_PIXELS, _jxl_of(2**30, 2**30)),
        "wide.jxl": (Reason.TOO_MANY_PIXELS, _jxl_of(1, 2**29)),
        "channels.jxl": (Reason.UNSUPPORTED, _jxl_of(16, 16, further=4096)),
        "header_alone.jxl": (Reason.TRUNCATED, _jxl_of(16, 16)),
    }
    files["no_profile.jxl"] = (Reason.UNSUPPORTED, jxl_with(picture_values(), 8, JxlColours(icc=True)))
    for name, (verdict, content) in files.items():
        yield f"codec_lie_{name}", verdict, "a header that lies", content
    raw = dng(deep(1)[..., 0])
    width = raw.index(struct.pack("<HHI", 256, 4, 1)) + 8
    for name, verdict, value in (("wide", Reason.TRUNCATED, 3000), ("huge", Reason.TOO_MANY_PIXELS, HUGE)):
        size = struct.pack("<I", value)
        lying = raw[:width] + size + raw[width + 4 : width + 12] + size + raw[width + 16 :]
        yield f"codec_lie_{name}.dng", verdict, "more pixels than bytes", lying


def _jxl_of(height: int, width: int, further: int = 0) -> bytes:
    """Return the header of a JPEG XL and a few bytes."""
    bits = JxlBits().number(0, 1).number(3, 2).number(height - 1, 30).number(0, 3).number(3, 2).number(width - 1, 30)
    if not further:
        bits.number(1, 1)
    else:
        bits.number(0, 1).number(0, 1).number(0, 1).number(0, 2).number(0, 1).number(3, 2).number(further - 1, 12)
    return b"\xff\x0a" + bits.number(0, -len(bits.bits) % 8).bytes() + bytes(30)


def _inflating() -> Iterator[Made]:
    """Return pictures of one colour, which are small as files."""
    blank = np.zeros((5000, 5000), np.uint8)
    files: dict[str, tuple[Verdict, bytes]] = {
        "avif": ("good", bytes(imagecodecs.avif_encode(blank, level=50, speed=10))),
        "jxl": ("good", bytes(imagecodecs.jpegxl_encode(blank, lossless=True, effort=1))),
        "j2k": (Reason.TOO_MANY_PIXELS, bytes(imagecodecs.jpeg2k_encode(blank, level=0, codecformat="j2k"))),
    }
    for suffix, (verdict, content) in files.items():
        yield f"codec_blank.{suffix}", verdict, "5000 x 5000 pixels of one colour", content
