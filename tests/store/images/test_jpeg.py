"""A JPEG without its end marker, and a cut one."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images import jpeg
from kt_batch.store.images.files import decode
from kt_batch.store.images.lcms import Floats
from tests.support.hostile import exif, picture, saved
from tests.support.hostile_formats import ARITHMETIC, ARITHMETIC_PROGRESSIVE

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))

KINDS = {
    "baseline": saved(NOISE, "JPEG", quality=90),
    "smooth": saved(picture(40, 24), "JPEG", quality=75),
    "one colour": saved(Image.new("RGB", (40, 24), "teal"), "JPEG"),
    "full colour resolution": saved(NOISE, "JPEG", quality=95, subsampling=0),
    "optimised": saved(NOISE, "JPEG", optimize=True),
    "progressive": saved(NOISE, "JPEG", progressive=True),
    "smooth progressive": saved(picture(40, 24), "JPEG", progressive=True),
    "grey": saved(NOISE.convert("L"), "JPEG"),
    "grey progressive": saved(NOISE.convert("L"), "JPEG", progressive=True),
    "ink": saved(NOISE.convert("CMYK"), "JPEG"),
    "restart markers": saved(NOISE, "JPEG", restart_marker_blocks=2),
    "odd size": saved(NOISE.crop((0, 0, 31, 17)), "JPEG"),
    "oriented": saved(NOISE, "JPEG", exif=exif(6)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_without_its_end_marker_is_read_as_with_it(kind: str) -> None:
    whole = KINDS[kind]
    for cut in (whole[:-1], whole[:-2]):
        np.testing.assert_array_equal(decode(cut, 64).pixels, decode(whole, 64).pixels)
        np.testing.assert_array_equal(decode(cut, 4).pixels, decode(whole, 4).pixels)


def image_or_none(data: bytes) -> Floats | None:
    try:
        return decode(data, 64).pixels
    except RejectError as error:
        return None if error.reason == Reason.TRUNCATED else pytest.fail(error.message)


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_of_a_jpeg_is_the_whole_picture_or_a_reject(kind: str) -> None:
    whole = KINDS[kind]
    pixels = decode(whole, 64).pixels
    images = {length: image_or_none(whole[:length]) for length in range(len(whole) // 3, len(whole))}
    accepted = {length: image for length, image in images.items() if image is not None}
    for image in accepted.values():
        np.testing.assert_array_equal(image, pixels)
    # Beside the marker, at most the bits that fill the last byte, and what lies beyond the edge, can be missed.
    assert len(accepted) <= 2 + 8
    assert {len(whole) - 1, len(whole) - 2} <= accepted.keys()


def test_a_scan_that_was_never_begun_is_missed() -> None:
    whole = KINDS["progressive"]
    last_scan = whole.rfind(b"\xff\xda")
    assert jpeg.with_end(whole[:last_scan]) is None
    with pytest.raises(RejectError, match="the image is cut or damaged"):
        decode(whole[:last_scan], 64)


def test_a_whole_jpeg_is_not_completed() -> None:
    for whole in KINDS.values():
        assert jpeg.with_end(whole) is None


def test_the_end_marker_of_a_thumbnail_is_not_that_of_the_picture() -> None:
    tags = Image.Exif()
    tags[0x010E] = saved(picture(8, 8), "JPEG").decode("latin-1")
    whole = saved(picture(), "JPEG", exif=tags)
    np.testing.assert_array_equal(decode(whole[:-2], 64).pixels, decode(whole, 64).pixels)
    with pytest.raises(RejectError):
        decode(whole[:-60], 64)


@pytest.mark.parametrize("coded", [ARITHMETIC, ARITHMETIC_PROGRESSIVE])
def test_arithmetic_coding_without_end_is_whole_or_a_reject(coded: str) -> None:
    whole = base64.b85decode(coded)
    for length in range(len(whole) - 40, len(whole)):
        if (pixels := image_or_none(whole[:length])) is not None:
            np.testing.assert_array_equal(pixels, decode(whole, 64).pixels)


@pytest.mark.parametrize(
    "tail", [b"", b"\xff", b"\xff\xff\xff", b"\xff\xda", b"\xff\xda\0\x03\1", b"\xff\xc4", b"\0" * 9]
)
def test_odd_ends_are_an_image_or_a_reject(tail: bytes) -> None:
    pixels = image_or_none(KINDS["baseline"][:-2] + tail)
    if pixels is not None:
        np.testing.assert_array_equal(pixels, decode(KINDS["baseline"], 64).pixels)


def test_pillow_alone_refuses_what_is_completed() -> None:
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(KINDS["baseline"][:-2])).load()
