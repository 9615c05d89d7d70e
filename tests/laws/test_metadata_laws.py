"""Metadata of strangers: whatever the bytes are, reading and carrying raise nothing, and what comes out can be read."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_batch.store.images.metadata import xmp
from kt_batch.store.images.metadata.blocks import Blocks
from kt_batch.store.images.metadata.carry import carried
from kt_batch.store.images.metadata.directories import layout_of, numbers_of, table_at
from kt_batch.store.images.metadata.embed import embed
from kt_batch.store.images.metadata.exif import Corrections, corrected
from kt_batch.store.images.metadata.read import blocks_of
from kt_batch.store.images.metadata.xmp_edit import Made, SourceType
from tests.support.metadata import IPTC, Exif, plain
from tests.support.metadata import xmp as packet

MADE = Made("m", "l", SourceType.EDIT)
FORMATS = ["jpg", "png", "webp", "tiff", "big", "avif"]
BLOCKS = Blocks(Exif(orientation=1).block(), packet('exif:GPSLatitude="48,51.5N"'), IPTC, None)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6)


@cache
def picture(format: str) -> bytes:  # noqa: A002
    return embed(plain(format), "tiff" if format == "big" else format, BLOCKS)


def damaged(data: bytes, edits: list[tuple[float, bytes]], start: int = 0) -> bytes:
    """Return bytes of which some behind `start` are others."""
    broken = bytearray(data)
    for place, content in edits:
        at = start + int(place * (len(data) - start))
        broken[at : at + len(content)] = content
    return bytes(broken)


def check(data: bytes) -> None:
    """Read metadata, carry it over under every policy, and write it."""
    blocks = blocks_of(data)
    assert blocks.capture_time is None or len(blocks.capture_time) <= 40
    for policy in ("keep", "keep-no-gps", "strip"):
        out = carried(blocks, policy, 640, 480, MADE)
        assert out.xmp is not None
        assert xmp.parsed(out.xmp) is not None
        assert out.exif is None or len(out.exif) == len(blocks.exif or b"")
        for format in ("jpg", "png", "webp", "tiff"):  # noqa: A001
            found = blocks_of(embed(plain(format), format, out))
            assert found.xmp is not None
            assert found.exif == out.exif or format in ("jpg", "tiff")


@pytest.mark.parametrize("format", FORMATS)
@given(edits=EDITS)
@settings(deadline=None, max_examples=60)
def test_a_damaged_file_raises_nothing(format: str, edits: list[tuple[float, bytes]]) -> None:  # noqa: A002
    check(damaged(picture(format), edits, 12))


@pytest.mark.parametrize("format", FORMATS)
@given(length=st.floats(0, 1))
@settings(deadline=None, max_examples=40)
def test_a_cut_file_raises_nothing(format: str, length: float) -> None:  # noqa: A002
    data = picture(format)
    check(data[: int(length * len(data))])


@given(edits=EDITS, order=st.sampled_from("<>"), gps=st.booleans())
@settings(deadline=None, max_examples=300)
def test_damaged_exif_keeps_its_length_and_loses_its_place(
    edits: list[tuple[float, bytes]], order: str, gps: bool
) -> None:
    block = damaged(Exif(order).block(), edits, 4)
    result = corrected(block, Corrections(640, 480, 1), gps)
    if result is not None:
        assert len(result) == len(block)
        found = layout_of(result)
        assert found is not None
        main = table_at(result, *found)
        assert main is not None
        assert main.following == 0
        assert gps or 0x8825 not in {entry.tag for entry in main.entries}
        assert all(numbers_of(result, found[0], entry) == (1,) for entry in main.entries if entry.tag == 0x0112)


@given(
    text=st.binary(max_size=200), kind=st.sampled_from([b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0+"])
)
@settings(deadline=None, max_examples=200)
def test_bytes_that_only_begin_like_a_picture_raise_nothing(text: bytes, kind: bytes) -> None:
    assert isinstance(blocks_of(kind + text), Blocks)


@given(text=st.binary(max_size=300))
@settings(deadline=None, max_examples=200)
def test_bytes_that_only_begin_like_boxes_raise_nothing(text: bytes) -> None:
    assert isinstance(blocks_of(b"\0\0\0\x10ftypavif\0\0\0\0" + text), Blocks)
    assert isinstance(blocks_of(b"RIFF\0\0\0\0WEBP" + text), Blocks)


@given(text=st.text(max_size=50), edits=EDITS)
@settings(deadline=None, max_examples=200)
def test_what_is_written_of_a_packet_is_read_the_same(text: str, edits: list[tuple[float, bytes]]) -> None:
    made = Made(text, text, None)
    for before in (None, damaged(packet('exif:GPSLatitude="1"', "<a:b xmlns:a='urn:a'>c</a:b>"), edits)):
        written = carried(Blocks(xmp=before), "keep", 1, 1, made).xmp or b""
        tree = xmp.parsed(written)
        assert tree is not None
        assert xmp.written(tree) == written
