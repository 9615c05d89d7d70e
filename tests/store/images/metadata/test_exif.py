"""EXIF that is carried over: what changes, what does not, and what is dropped."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from kt_batch.store.images.metadata.blocks import Blocks
from kt_batch.store.images.metadata.exif import Corrections, corrected
from tests.support.metadata import Exif

ORDERS = pytest.mark.parametrize("order", ["<", ">"])
GPS = 0x8825


def parsed(block: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(block)
    return exif


def changed(block: bytes, gps: bool = True, space: int | None = None) -> bytes:
    result = corrected(block, Corrections(640, 480, space), gps)
    assert result is not None
    return result


@ORDERS
def test_orientation_and_size_are_those_of_the_output(order: str) -> None:
    exif = parsed(changed(Exif(order).block()))
    assert exif[0x0112] == 1
    assert (exif.get_ifd(0x8769)[0xA002], exif.get_ifd(0x8769)[0xA003]) == (640, 480)


def test_a_size_that_2_bytes_cannot_hold_is_written_in_4() -> None:
    block = corrected(Exif().block(), Corrections(70000, 80000), gps=True)
    assert block is not None
    directory = parsed(block).get_ifd(0x8769)
    assert (directory[0xA002], directory[0xA003]) == (70000, 80000)


@ORDERS
def test_all_else_stays_where_it_is_byte_for_byte(order: str) -> None:
    made = Exif(order, thumbnail=False)
    before, after = made.block(), changed(made.block())
    differences = {at for at in range(len(before)) if before[at] != after[at]}
    tables = {at for name in ("image", "exif") for at in range(*made.parts[name])}
    assert len(after) == len(before)
    assert differences <= tables
    assert len(differences) <= 12  # one number for orientation, two for the size
    assert made.part("exif 0x927c", after) == b"MAKERNOTE " * 5


@ORDERS
def test_the_thumbnail_is_unlinked_and_its_bytes_are_gone(order: str) -> None:
    made = Exif(order)
    after = changed(made.block())
    assert b"THUMBNAIL" not in after
    for name in ("second", "thumbnail"):
        assert made.part(name, after) == bytes(len(made.part(name)))
    assert parsed(after).get_ifd(0x0201) == {}
    assert made.part("image", after)[-4:] == bytes(4)


@ORDERS
def test_gps_is_unlinked_and_its_bytes_and_values_are_gone(order: str) -> None:
    made = Exif(order)
    after = changed(made.block(), gps=False)
    for name in ("gps", "gps 0x0002", "gps 0x0004"):
        assert made.part(name, after) == bytes(len(made.part(name)))
    exif = parsed(after)
    assert GPS not in exif
    assert (exif[0x010F], exif[0x8298]) == ("Maker", "Author")
    assert exif.get_ifd(0x8769)[0x927C] == b"MAKERNOTE " * 5


@ORDERS
def test_gps_is_kept_when_it_is_wanted(order: str) -> None:
    made = Exif(order)
    after = changed(made.block())
    assert made.part("gps", after) == made.part("gps")
    assert parsed(after).get_ifd(GPS)[2] == (48.0, 51.0, 29.0)


def test_every_pointer_to_gps_is_removed() -> None:
    made = Exif()
    block = bytearray(made.block())
    start = made.parts["image"][0] + 2
    pointer = bytes(block[start + 9 * 12 : start + 10 * 12])
    block[start : start + 12] = pointer  # a second one, in place of the maker
    assert struct.pack("<H", GPS) + struct.pack("<HI", 4, 1) not in changed(bytes(block), gps=False)


def test_values_that_gps_shares_with_the_image_are_zeroed_for_privacy() -> None:
    made = Exif()
    block = bytearray(made.block())
    entry = made.parts["gps"][0] + 2 + 2 * 12
    block[entry + 8 : entry + 12] = made.long(made.parts["exif 0x927c"][0])
    after = changed(bytes(block), gps=False)
    assert made.part("exif 0x927c", after)[:24] == bytes(24)


def test_gps_in_the_place_of_another_directory_makes_the_block_damaged() -> None:
    made = Exif()
    block = bytearray(made.block())
    at = made.parts["image"][0] + 2 + 9 * 12 + 8
    block[at : at + 4] = made.long(made.parts["exif"][0])
    assert corrected(bytes(block), Corrections(1, 1), gps=False) is None


def test_a_value_that_thumbnail_and_image_share_stays() -> None:
    made = Exif()
    block = bytearray(made.block())
    entry = made.parts["second"][0] + 2 + 12
    block[entry + 8 : entry + 12] = made.long(made.parts["image 0x8298"][0])
    assert parsed(changed(bytes(block)))[0x8298] == "Author"


def test_a_place_that_only_the_thumbnail_has_is_gone_as_well() -> None:
    made = Exif()
    block = bytearray(made.block())
    image = made.parts["image"][0] + 2 + 9 * 12
    second = made.parts["second"][0] + 2
    block[second : second + 12] = block[image : image + 12]
    block[image : image + 2] = made.short(0x9999)  # the image has no place any more
    after = changed(bytes(block), gps=False)
    assert made.part("gps 0x0002", after) == bytes(24)


def test_a_place_that_image_and_thumbnail_share_is_kept_when_it_is_wanted() -> None:
    made = Exif()
    block = bytearray(made.block())
    image = made.parts["image"][0] + 2 + 9 * 12
    second = made.parts["second"][0] + 2
    block[second : second + 12] = block[image : image + 12]
    assert parsed(changed(bytes(block))).get_ifd(GPS)[2] == (48.0, 51.0, 29.0)


@ORDERS
def test_after_a_conversion_to_srgb_exif_no_longer_says_adobe_rgb(order: str) -> None:
    exif = parsed(changed(Exif(order).block(), space=1))
    assert exif.get_ifd(0x8769)[0xA001] == 1
    assert exif.get_ifd(0xA005)[1] == "R98"
    unchanged = parsed(changed(Exif(order).block()))
    assert (unchanged.get_ifd(0x8769)[0xA001], unchanged.get_ifd(0xA005)[1]) == (0xFFFF, "R03")


def test_a_block_of_another_kind_inside_of_exif_is_removed() -> None:
    made = Exif(gps=False, thumbnail=False)
    block = bytearray(made.block())
    packet = b"<x:xmpmeta> 48,51.5N"
    start = made.parts["image"][0] + 2
    block[start : start + 12] = struct.pack("<HHII", 700, 1, len(packet), len(block))
    assert b"48,51" not in changed(bytes(block) + packet)


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\0",
        b"II*\0\x08\0\0\0",
        b"II*\0\x08\0\0\0\0\0",
        b"II*\0\xff\xff\xff\xff\0\0",
        b"MM\0+\0\x08\0\0\0\0\0\0\0\0\0\x10",
        b"II*\0\x08\0\0\0\xff\xff" + bytes(12),
        b"<xml>" * 10,
    ],
)
def test_a_block_without_directory_is_damaged(block: bytes) -> None:
    assert corrected(block, Corrections(1, 1), gps=True) is None


@pytest.mark.parametrize(
    ("date", "offset", "fraction", "time"),
    [
        (b"2019:08:07 06:05:04\0", b"+02:00\0", b"120\0", "2019-08-07T06:05:04.120+02:00"),
        (b"2019:08:07 06:05:04\0", b"   :  \0", b"120\0", "2019-08-07T06:05:04.120"),
        (b"2019:08:07 06:05:04\0", b"+02:00\0", b"  \0\0", "2019-08-07T06:05:04+02:00"),
        (b"    :  :     :  :  \0", b"+02:00\0", b"120\0", None),
        (b"0000:00:00 00:00:00\0", b"+02:00\0", b"120\0", None),
    ],
)
def test_the_capture_time_is_that_of_exif(date: bytes, offset: bytes, fraction: bytes, time: str | None) -> None:
    made = Exif()
    block = made.block().replace(b"2019:08:07 06:05:04\0", date).replace(b"+02:00\0", offset)
    assert Blocks(exif=block.replace(b"120\0", fraction)).capture_time == time


def test_without_exif_the_capture_time_is_unknown() -> None:
    assert Blocks().capture_time is None
    assert Blocks(exif=b"II*\0").capture_time is None
