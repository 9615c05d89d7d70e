"""Metadata read from files and written into files of every format."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from itertools import product
from typing import cast

import numpy as np
import pytest
import tifffile
from PIL import Image, IptcImagePlugin

from kt_batch.errors import UsageError
from kt_batch.store.images.files import decode
from kt_batch.store.images.metadata import tiff
from kt_batch.store.images.metadata.blocks import Blocks
from kt_batch.store.images.metadata.embed import embed
from kt_batch.store.images.metadata.read import blocks_of
from kt_batch.store.images.spaces import ADOBE_CURVE, ADOBE_PRIMARIES, profile_of
from tests.support import metadata as made
from tests.support.hostile import chunk
from tests.support.metadata import IPTC, Exif, plain, raw_profile, with_chunks, with_segments, xmp

BLOCK = Exif(thumbnail=False, orientation=1).block()
ICC = profile_of("made", ADOBE_PRIMARIES, ADOBE_CURVE, 3)
XMP = xmp('crs:Exposure2012="+0.50"')
FULL = Blocks(BLOCK, XMP, IPTC, ICC)
FORMATS = ["jpg", "png", "webp", "tiff", "big", "avif"]
WITHOUT_IPTC = {"webp", "avif"}


def holding(format: str, blocks: Blocks, alpha: bool = False) -> bytes:  # noqa: A002
    """Return a picture of a format with metadata."""
    if format == "avif":
        return embed(plain("avif", alpha, icc_profile=blocks.icc), "avif", blocks)
    return embed(plain(format, alpha), "tiff" if format == "big" else format, blocks)


def tags(block: bytes | None) -> dict[str, dict[int, object]]:
    """Return the tags of EXIF as Pillow reads them, without the places of directories."""
    exif = Image.Exif()
    exif.load(block or b"")
    parts = {
        "image": dict(exif),
        "exif": exif.get_ifd(0x8769),
        "gps": exif.get_ifd(0x8825),
        "interop": exif.get_ifd(0xA005),
    }
    places = (0x8769, 0x8825, 0xA005)
    return {name: {tag: value for tag, value in part.items() if tag not in places} for name, part in parts.items()}


def expected_of(block: bytes, moved: bool = True) -> dict[str, dict[int, object]]:
    """Return the tags of a block, without maker notes where they cannot be moved."""
    expected = tags(block)
    if moved:
        del expected["exif"][0x927C]
    return expected


# ---- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_every_format_hands_its_metadata_to_every_other(source: str, target: str) -> None:
    blocks = blocks_of(holding(source, FULL))
    found = blocks_of(holding(target, blocks))
    assert found.xmp == XMP
    assert found.icc == ICC
    assert found.iptc == (None if {source, target} & WITHOUT_IPTC else IPTC)
    assert tags(found.exif) == expected_of(BLOCK, moved=bool({source, target} & {"tiff", "big"}))
    assert found.capture_time == "2019-08-07T06:05:04.120+02:00"


@pytest.mark.parametrize("format", ["jpg", "png", "webp", "avif"])
def test_exif_comes_back_byte_for_byte(format: str) -> None:  # noqa: A002
    assert blocks_of(holding(format, FULL)).exif == BLOCK


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("of_file", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_tiff_takes_exif_of_any_byte_order(order: str, of_file: str, big: bool) -> None:
    block = Exif(order, thumbnail=False).block()
    data = embed(
        plain("tiff", byteorder=of_file) if not big else plain("big", byteorder=of_file), "tiff", Blocks(exif=block)
    )
    assert tags(blocks_of(data).exif) == expected_of(block)


@pytest.mark.parametrize("beginning", [b"Apple iOS\0", b"FUJIFILM\0\0", b"Nikon\0\2\0\0\0", b"OLYMPUS\0\0\0"])
def test_maker_notes_that_count_from_their_own_start_may_move(beginning: bytes) -> None:
    block = BLOCK.replace(b"MAKERNOTE ", beginning)
    assert tags(blocks_of(embed(plain("tiff"), "tiff", Blocks(exif=block))).exif) == tags(block)


def test_text_of_exif_3_in_utf_8_is_carried_to_tiff() -> None:
    block = BLOCK.replace(struct.pack("<HH", 0x8298, 2), struct.pack("<HH", 0x8298, 129))
    assert block != BLOCK
    found = blocks_of(embed(plain("tiff"), "tiff", Blocks(exif=block))).exif or b""
    assert struct.pack("<HHI", 0x8298, 129, 7) in found
    assert b"Author\0" in found


def test_tags_of_the_exposure_in_the_directory_of_the_image_are_carried() -> None:
    block = bytearray(BLOCK)
    block[10:22] = struct.pack("<HHII", 0xA402, 3, 1, 1)  # exposure mode, in place of the maker
    data = embed(plain("tiff"), "tiff", Blocks(exif=bytes(block)))
    assert tags(blocks_of(data).exif)["image"][0xA402] == 1


@pytest.mark.parametrize(("format", "alpha"), [*product(FORMATS[1:], (False, True)), ("jpg", False)])
def test_the_pixels_are_untouched(format: str, alpha: bool) -> None:  # noqa: A002
    before, after = plain(format, alpha), holding(format, FULL, alpha)
    if format in ("tiff", "big"):
        assert np.array_equal(tifffile.imread(io.BytesIO(before)), tifffile.imread(io.BytesIO(after)))
    with Image.open(io.BytesIO(before)) as one, Image.open(io.BytesIO(after)) as other:
        assert (one.mode, one.size) == (other.mode, other.size)
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("format", ["jpg", "png", "webp", "tiff", "avif"])
def test_without_a_block_the_file_is_the_same(format: str) -> None:  # noqa: A002
    assert embed(plain(format), format, Blocks()) == plain(format)


@pytest.mark.parametrize("format", ["jpg", "png", "webp", "tiff"])
def test_a_second_block_replaces_the_first(format: str) -> None:  # noqa: A002
    other = Blocks(
        Exif(">", gps=False, thumbnail=False).block(), xmp('crs:Exposure2012="-1"'), made.record(5, b"b"), ICC
    )
    found = blocks_of(embed(embed(plain(format), format, FULL), format, other))
    assert (found.xmp, found.icc) == (other.xmp, ICC)
    assert found.iptc == (None if format == "webp" else other.iptc)


def test_another_format_is_refused() -> None:
    with pytest.raises(UsageError, match=r"cannot write metadata into 'gif'; allowed are jpg, png, webp, tiff, avif"):
        embed(b"", "gif", FULL)


@pytest.mark.parametrize("format", FORMATS)
def test_pillow_reads_all_of_it(format: str) -> None:  # noqa: A002
    with Image.open(io.BytesIO(holding(format, FULL))) as image:
        exif = image.getexif()
        assert (exif[0x010F], exif[0x8298], exif[0x0112]) == ("Maker", "Author", 1)
        assert exif.get_ifd(0x8769)[0x9003] == "2019:08:07 06:05:04"
        assert exif.get_ifd(0x8825)[1] == "N"
        assert image.info.get("icc_profile") == ICC
        packet = image.tag_v2[700] if format in ("tiff", "big") else image.info.get("xmp")  # type: ignore[attr-defined]
        assert packet == XMP
        if format in ("jpg", "tiff"):
            records = cast("dict[tuple[int, int], bytes]", IptcImagePlugin.getiptcinfo(image))
            assert records[2, 90] == b"Paris"


@pytest.mark.parametrize("format", ["jpg", "png", "webp", "tiff", "big"])
def test_an_output_with_metadata_is_an_input(format: str) -> None:  # noqa: A002
    blocks = replace(FULL, icc=None)
    image = decode(holding(format, blocks), 64)
    assert (image.original_width, image.original_height) == (24, 16)


# ---- JPEG ------------------------------------------------------------------------------------------------------------

HEAD = b"http://ns.adobe.com/xap/1.0/\0"
MORE = b"http://ns.adobe.com/xmp/extension/\0"


def test_a_profile_in_several_segments_is_put_together_whatever_their_order() -> None:
    texts = ((2, ICC[200:300]), (1, ICC[:200]), (3, ICC[300:]))
    parts = [(0xE2, b"ICC_PROFILE\0" + bytes([number, 3]) + text) for number, text in texts]
    assert blocks_of(with_segments(plain("jpg"), *parts)).icc == ICC
    assert blocks_of(with_segments(plain("jpg"), *parts[:2])).icc is None


def test_long_blocks_take_several_segments() -> None:
    blocks = Blocks(None, None, made.record(120, b"x" * 30000) * 5, ICC + bytes(200_000))
    assert blocks_of(embed(plain("jpg"), "jpg", blocks)) == blocks


def test_exif_that_is_too_long_for_jpeg_is_written_without_maker_notes() -> None:
    block = Exif(note=8000, thumbnail=False).block()
    assert len(block) > 65535
    assert tags(blocks_of(embed(plain("jpg"), "jpg", Blocks(exif=block))).exif) == expected_of(block)


def test_xmp_that_is_too_long_for_one_segment_is_extended_and_read_again() -> None:
    long, short = "x" * 150_000, "<dc:source>short</dc:source>"
    packet = xmp("", f"{short}<crs:a>{long}</crs:a><crs:b><rdf:Bag><rdf:li>{long}</rdf:li></rdf:Bag></crs:b>")
    data = embed(plain("jpg"), "jpg", Blocks(xmp=packet))
    with Image.open(io.BytesIO(data)) as image:
        main = image.info["xmp"]
    assert b"short" in main
    assert b"HasExtendedXMP" in main
    assert b"xxxx" not in main
    found = blocks_of(data).xmp or b""
    assert found.count(long.encode()) == 2
    assert b"HasExtendedXMP" not in found
    assert blocks_of(embed(plain("png"), "png", Blocks(xmp=found))).xmp == found


def test_ten_thousand_short_properties_are_extended_as_well() -> None:
    packet = xmp(elements="".join(f"<crs:p{number}>{number}</crs:p{number}>" for number in range(10_000)))
    found = blocks_of(embed(plain("jpg"), "jpg", Blocks(xmp=packet))).xmp or b""
    assert all(f":p{number}>{number}<".encode() in found for number in (0, 5_000, 9_999))


def test_an_extension_that_is_not_whole_is_passed_over() -> None:
    data = embed(plain("jpg"), "jpg", Blocks(xmp=xmp("", f"<crs:a>{'x' * 200_000}</crs:a>")))
    at = data.rindex(MORE) - 4
    (length,) = struct.unpack_from(">H", data, at + 2)
    found = blocks_of(data[:at] + data[at + 2 + length :]).xmp or b""
    assert b"xxxx" not in found
    assert b"xmpmeta" in found


def test_iptc_stands_among_other_resources() -> None:
    resources = b"Photoshop 3.0\0" + made.OTHER_RESOURCE + made.RESOURCE
    assert blocks_of(with_segments(plain("jpg"), (0xED, resources))).iptc == IPTC


def test_the_first_exif_counts_and_blocks_behind_the_pixels_do_not() -> None:
    one, two = b"Exif\0\0" + BLOCK, b"Exif\0\0" + Exif(">").block()
    assert blocks_of(with_segments(plain("jpg"), (0xE1, one), (0xE1, two))).exif == BLOCK
    assert blocks_of(plain("jpg") + with_segments(plain("jpg"), (0xE1, one))) == Blocks()


def test_bytes_between_segments_are_skipped() -> None:
    data = with_segments(plain("jpg"), (0xE1, b"Exif\0\0" + BLOCK))
    assert blocks_of(data[:20] + b"between" + data[20:]).exif == BLOCK


def test_exif_in_several_segments_is_put_together() -> None:
    block = Exif(note=8000, thumbnail=False).block()
    parts = [(0xE1, b"Exif\0\0" + block[at : at + 60_000]) for at in range(0, len(block), 60_000)]
    assert blocks_of(with_segments(plain("jpg"), *parts)).exif == block


@pytest.mark.parametrize("format", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("profile", [b"profile", ICC[:-1], ICC[:36] + b"none" + ICC[40:]])
def test_a_profile_that_is_cut_or_none_is_damaged(format: str, profile: bytes) -> None:  # noqa: A002
    assert blocks_of(embed(plain(format), format, Blocks(icc=profile))).icc is None


def test_metadata_stands_behind_the_header_of_jfif() -> None:
    data = embed(plain("jpg"), "jpg", FULL)
    assert data[2:4] == b"\xff\xe0"
    length = struct.unpack_from(">H", data, 4)[0]
    assert data[4 + length : 6 + length] == b"\xff\xe1"


# ---- PNG -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt"])
@pytest.mark.parametrize(
    ("kind", "block", "expected"),
    [
        ("exif", b"Exif\0\0" + BLOCK, Blocks(exif=BLOCK)),
        ("exif", BLOCK, Blocks(exif=BLOCK)),
        ("APP1", b"Exif\0\0" + BLOCK, Blocks(exif=BLOCK)),
        ("APP1", HEAD + XMP, Blocks(xmp=XMP)),
        ("xmp", XMP, Blocks(xmp=XMP)),
        ("iptc", made.RESOURCE, Blocks(iptc=IPTC)),
        ("iptc", b"Photoshop 3.0\0" + made.RESOURCE, Blocks(iptc=IPTC)),
        ("iptc", IPTC, Blocks(iptc=IPTC)),
        ("icc", ICC, Blocks(icc=ICC)),
        ("other", b"abc", Blocks()),
    ],
)
def test_blocks_that_others_wrote_as_text_are_read(name: bytes, kind: str, block: bytes, expected: Blocks) -> None:
    assert blocks_of(with_chunks(plain("png"), raw_profile(name, kind, block))) == expected


def test_a_chunk_of_its_own_counts_more_than_a_text() -> None:
    other = Exif(">", thumbnail=False).block()
    chunks = raw_profile(b"zTXt", "exif", other), chunk(b"eXIf", BLOCK)
    assert blocks_of(with_chunks(plain("png"), *chunks)).exif == BLOCK


def test_metadata_behind_the_pixels_of_a_png_is_read() -> None:
    data = plain("png")
    assert blocks_of(data[:-12] + chunk(b"eXIf", BLOCK) + data[-12:]).exif == BLOCK


@pytest.mark.parametrize("packed", [False, True])
def test_xmp_of_a_png_may_be_compressed_and_have_a_language(packed: bool) -> None:
    text = zlib.compress(XMP) if packed else XMP
    content = b"XML:com.adobe.xmp\0" + bytes([packed, 0]) + b"en\0title\0" + text
    assert blocks_of(with_chunks(plain("png"), chunk(b"iTXt", content))).xmp == XMP


def test_a_chunk_with_a_wrong_checksum_is_damaged() -> None:
    broken = bytearray(chunk(b"eXIf", BLOCK))
    broken[-1] ^= 1
    assert blocks_of(with_chunks(plain("png"), bytes(broken))) == Blocks()


def test_text_that_unpacks_to_too_much_is_dropped() -> None:
    bomb = zlib.compress(bytes(2**26), 9)
    chunks = [chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb), chunk(b"iCCP", b"p\0\0" + bomb)]
    assert blocks_of(with_chunks(plain("png"), *chunks)) == Blocks()


def test_a_profile_replaces_what_a_png_says_about_its_colours() -> None:
    data = embed(with_chunks(plain("png"), chunk(b"sRGB", b"\0")), "png", Blocks(icc=ICC))
    assert b"sRGB" not in data
    assert data.index(b"iCCP") < data.index(b"IDAT")


# ---- WebP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("lossless", [False, True])
def test_webp_becomes_extended_with_all_chunks_in_order(alpha: bool, lossless: bool) -> None:
    data = embed(plain("webp", alpha, lossless=lossless), "webp", FULL)
    at, names = 12, []
    while at < len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        names.append(name)
        at += 8 + size + size % 2
    assert at == len(data) == struct.unpack_from("<I", data, 4)[0] + 8
    assert names[:2] == [b"VP8X", b"ICCP"]
    assert names[-2:] == [b"EXIF", b"XMP "]
    assert data[20] == 0x2C | (0x10 if alpha else 0)
    assert data[24:30] == bytes([23, 0, 0, 15, 0, 0])


def test_exif_of_a_webp_may_have_the_name_of_exif_before_it() -> None:
    data = plain("webp", exif=b"Exif\0\0" + BLOCK)
    assert blocks_of(data).exif == BLOCK


# ---- TIFF ------------------------------------------------------------------------------------------------------------


def test_iptc_in_a_resource_of_photoshop_is_read() -> None:
    resources = made.OTHER_RESOURCE + made.RESOURCE
    data = plain("tiff", extratags=[(34377, 7, len(resources), resources, True)])
    assert blocks_of(data).iptc == IPTC


def test_iptc_whose_words_were_turned_around_is_read() -> None:
    padded = IPTC + bytes(-len(IPTC) % 4)
    words = struct.unpack(f">{len(padded) // 4}I", padded)
    data = plain("tiff", byteorder="<", extratags=[(33723, 4, len(words), words, True)])
    assert blocks_of(data).iptc == IPTC


def test_descriptive_tags_of_a_tiff_become_exif() -> None:
    data = plain(
        "tiff",
        description="A bridge",
        datetime="2020:01:02 03:04:05",
        resolution=(300, 300),
        extratags=[(271, 2, 0, "Maker", True), (315, 2, 0, "Artist", True), (33432, 2, 0, "Copyright", True)],
    )
    found = tags(blocks_of(data).exif)["image"]
    expected = {270: "A bridge", 271: "Maker", 306: "2020:01:02 03:04:05", 315: "Artist", 33432: "Copyright"}
    assert {tag: found[tag] for tag in expected} == expected
    assert found[282] == 300
    assert not {256, 257, 258, 259, 273, 279} & set(found)


def test_a_description_for_software_is_no_description() -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, made.pixels(), photometric="rgb")
    assert 270 not in tags(blocks_of(file.getvalue()).exif)["image"]


def test_further_pages_of_a_tiff_stay() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for _ in range(3):
            writer.write(made.pixels(), photometric="rgb", metadata=None)
    with tifffile.TiffFile(io.BytesIO(embed(file.getvalue(), "tiff", FULL))) as read:
        assert [page.shape for page in read.pages] == [(16, 24, 3)] * 3


def test_a_tiff_on_disk_is_finished_without_reading_its_pixels() -> None:
    class Watched(io.BytesIO):
        most = 0

        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(size)
            self.most = max(self.most, len(content))
            return content

    file = Watched(plain("tiff") + bytes(2**20))
    tiff.embed_in_file(file, FULL)
    assert file.most < 2**16
    assert blocks_of(file.getvalue()).xmp == XMP


# ---- boxes -----------------------------------------------------------------------------------------------------------


def jpeg_xl(*boxes: bytes) -> bytes:
    return b"\0\0\0\x0cJXL \r\n\x87\n" + made.box(b"ftyp", b"jxl \0\0\0\0jxl ") + b"".join(boxes)


def test_boxes_of_jpeg_xl_are_read_and_packed_ones_passed_over() -> None:
    boxes = made.box(b"Exif", bytes(4) + BLOCK), made.box(b"xml ", XMP), made.box(b"brob", b"xml " + XMP)
    assert blocks_of(jpeg_xl(*boxes)) == Blocks(exif=BLOCK, xmp=XMP)
    assert blocks_of(jpeg_xl(boxes[2])) == Blocks()


def heic(method: int, kind: bytes, content: bytes) -> bytes:
    """Return the boxes of a HEIC with one item, stored in the file (0) or in the box `idat` (1)."""
    infe = made.box(b"infe", b"\2\0\0\0" + struct.pack(">HH", 1, 0) + kind)
    iinf = made.box(b"iinf", bytes(4) + struct.pack(">H", 1) + infe)

    def meta(place: int) -> bytes:
        item = struct.pack(">HHHHII", 1, method, 0, 1, place, len(content))
        iloc = made.box(b"iloc", b"\1\0\0\0" + b"\x44\0" + struct.pack(">H", 1) + item)
        return made.box(b"meta", bytes(4) + iinf + iloc + (made.box(b"idat", content) if method else b""))

    head = made.box(b"ftyp", b"heic\0\0\0\0mif1")
    place = 0 if method else len(head) + len(meta(0)) + 8
    return head + meta(place) + (b"" if method else made.box(b"mdat", content))


@pytest.mark.parametrize("method", [0, 1])
def test_items_of_heic_are_read(method: int) -> None:
    exif = struct.pack(">I", 6) + b"Exif\0\0" + BLOCK
    assert blocks_of(heic(method, b"Exif\0", exif)) == Blocks(exif=BLOCK)
    assert blocks_of(heic(method, b"mime\0application/rdf+xml\0", XMP)) == Blocks(xmp=XMP)
    assert blocks_of(heic(method, b"mime\0text/plain\0", XMP)) == Blocks()


def test_the_profile_of_an_avif_is_the_business_of_its_encoder() -> None:
    with pytest.raises(UsageError, match="another profile than its encoder was given"):
        embed(plain("avif"), "avif", FULL)


def test_an_avif_keeps_the_metadata_it_has() -> None:
    with pytest.raises(UsageError, match="it has some"):
        embed(holding("avif", FULL), "avif", FULL)


@pytest.mark.parametrize("data", [b"", plain("jpg"), plain("avif")[:32]])
def test_what_is_no_avif_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="no AVIF with a list of items"):
        embed(data, "avif", Blocks(xmp=XMP))


def test_xmp_that_stands_in_exif_is_found() -> None:
    block = bytearray(Exif(gps=False, thumbnail=False).block())
    block[10:22] = struct.pack("<HHII", 700, 1, len(XMP), len(block))
    assert blocks_of(with_chunks(plain("png"), chunk(b"eXIf", bytes(block) + XMP))).xmp == XMP
