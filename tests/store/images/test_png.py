"""The orientation of a PNG, wherever it stands, in 8 and in 16 bits."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from kt_batch.store.images.files import decode
from tests.support.hostile import chunk, deep_png, exif, png

BLOCK = exif(6).removeprefix(b"Exif\0\0")
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def hexadecimal(name: str, block: bytes) -> bytes:
    """Return a block as ImageMagick writes it into a text chunk."""
    digits = block.hex()
    lines = [digits[at : at + 72] for at in range(0, len(digits), 72)]
    return "\n".join(["", name, f"{len(block):8}", *lines, ""]).encode()


def ztxt(name: str, block: bytes) -> bytes:
    return chunk(b"zTXt", f"Raw profile type {name}".encode() + b"\0\0" + zlib.compress(hexadecimal(name, block)))


def text(name: str, block: bytes) -> bytes:
    return chunk(b"tEXt", f"Raw profile type {name}".encode() + b"\0" + hexadecimal(name, block))


def xmp(packed: bool) -> bytes:
    content = zlib.compress(XMP) if packed else XMP
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0" + bytes((packed, 0)) + b"\0\0" + content)


PLACES = {
    "eXIf": chunk(b"eXIf", BLOCK),
    "zTXt exif": ztxt("exif", b"Exif\0\0" + BLOCK),
    "zTXt exif without its name": ztxt("exif", BLOCK),
    "zTXt APP1": ztxt("APP1", b"Exif\0\0" + BLOCK),
    "zTXt APP1 with XMP": ztxt("APP1", b"http://ns.adobe.com/xap/1.0/\0" + XMP),
    "zTXt xmp": ztxt("xmp", XMP),
    "tEXt exif": text("exif", BLOCK),
    "tEXt APP1": text("APP1", b"Exif\0\0" + BLOCK),
    "iTXt XMP": xmp(packed=False),
    "iTXt XMP, packed": xmp(packed=True),
}

UPRIGHT = np.arange(24, dtype=np.uint8).reshape(6, 4) * 10
STORED = np.asarray(Image.fromarray(UPRIGHT).transpose(Image.Transpose.ROTATE_90))  # orientation 6


def shallow(*chunks: bytes) -> bytes:
    return png(6, 4, 8, 0, b"".join(b"\0" + row.tobytes() for row in STORED), *chunks)


def deep(*chunks: bytes) -> bytes:
    return deep_png(STORED.astype(np.uint16) * 257, *chunks)


def behind_the_pixels(data: bytes, late: bytes) -> bytes:
    return data[:-12] + late + data[-12:]


def turned(data: bytes) -> bool:
    pixels = decode(data, 64).pixels[..., 0]
    expected = UPRIGHT if pixels.shape == UPRIGHT.shape else STORED
    np.testing.assert_allclose(pixels, expected / 255, atol=1e-6)
    return pixels.shape == UPRIGHT.shape


@pytest.mark.parametrize("make", [shallow, deep])
@pytest.mark.parametrize("place", PLACES)
def test_the_orientation_is_found_before_and_behind_the_pixels(make: Callable[..., bytes], place: str) -> None:
    assert turned(make(PLACES[place]))
    assert turned(behind_the_pixels(make(), PLACES[place]))
    assert not turned(make())


def damaged(whole: bytes) -> bytes:
    return whole[:-1] + bytes((whole[-1] ^ 1,))


@pytest.mark.parametrize(
    "late",
    [
        damaged(PLACES["eXIf"]),  # its checksum
        PLACES["eXIf"][:-6],  # cut
        chunk(b"eXIf", BLOCK[:9]),
        chunk(b"eXIf", b""),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + b"no deflate"),
        chunk(b"zTXt", b"Raw profile type exif"),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 4\nxyz\n")),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif")),
        chunk(b"tEXt", b"Raw profile type exif\0\xff\xfe\n\n\n\n"),
        ztxt("exif", b"neither EXIF nor XMP"),
        ztxt("iptc", BLOCK[:0]),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + b"no deflate"),
        chunk(b"iTXt", b"XML:com.adobe.xmp"),
        chunk(b"tEXt", b""),
        chunk(b"abcd", BLOCK),
    ],
)
@pytest.mark.parametrize("make", [shallow, deep])
def test_damaged_metadata_behind_the_pixels_costs_nothing(make: Callable[..., bytes], late: bytes) -> None:
    assert not turned(behind_the_pixels(make(), late))


@pytest.mark.parametrize("make", [shallow, deep])
def test_a_chunk_of_its_own_counts_more_than_a_text(make: Callable[..., bytes]) -> None:
    upright = ztxt("exif", exif(1))
    assert turned(make(PLACES["eXIf"], upright))
    assert turned(make(upright, PLACES["eXIf"]))


def test_a_text_that_unpacks_without_end_is_not_unpacked() -> None:
    bomb = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n1\n" + b"0" * 2**26))
    assert not turned(behind_the_pixels(deep(), bomb))


def test_of_many_texts_only_the_first_ones_are_unpacked() -> None:
    texts = [ztxt("exif", b"neither EXIF nor XMP")] * 8
    assert not turned(deep(*texts, PLACES["zTXt exif"]))
    assert turned(deep(*texts[1:], PLACES["zTXt exif"]))
    assert turned(deep(*texts, PLACES["eXIf"]))
