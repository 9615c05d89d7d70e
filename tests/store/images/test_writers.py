"""Images of any size and depth are written from bands of rows."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from kt_batch.errors import UsageError
from kt_batch.store.images import writers
from kt_batch.store.images.conversion import OUTPUT_PROFILES
from kt_batch.store.images.files import encode
from kt_batch.store.images.originals import Original, read_original
from kt_batch.store.images.png_filters import filtered
from kt_batch.store.images.writers import encode_picture, regrouped, to_eight_bits, write_image

FORMS = [(1, False), (1, True), (3, False), (3, True)]


def smooth(height: int, width: int, samples: int, deep: bool) -> NDArray[Any]:
    ramps = np.add.outer(np.arange(height) * 7, np.arange(width) * 3)[..., None] + 40 * np.arange(samples)
    return (ramps * 37 % 65536).astype(np.uint16) if deep else (ramps % 256).astype(np.uint8)


def written(samples: NDArray[Any], channels: int, format: str, bands: int = 3, **more: Any) -> bytes:  # noqa: A002
    height, width, count = samples.shape
    image = Original(height, width, channels, count > channels, samples.dtype == np.uint16, more.get("profile", b""))
    file = io.BytesIO()
    write_image(file, image, np.array_split(samples, bands), format, 95)
    return file.getvalue()


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(("channels", "alpha"), FORMS)
@pytest.mark.parametrize("format", ["png", "tiff"])
def test_samples_come_back_bit_for_bit(format: str, channels: int, alpha: bool, deep: bool) -> None:  # noqa: A002
    samples = smooth(700, 600, channels + alpha, deep)
    original, bands = read_original(written(samples, channels, format), ink=True)
    assert (original.channels, original.alpha, original.deep) == (channels, alpha, deep)
    np.testing.assert_array_equal(np.concatenate(list(bands)), samples)


def test_ink_comes_back_from_a_tiff() -> None:
    samples = smooth(60, 50, 4, deep=True)
    _, bands = read_original(written(samples, 4, "tiff"), ink=True)
    np.testing.assert_array_equal(np.concatenate(list(bands)), samples)


@pytest.mark.parametrize("format", ["png", "tiff", "jpg", "webp", "avif"])
def test_the_bands_make_no_difference(format: str) -> None:  # noqa: A002
    samples = smooth(200, 90, 3, deep=True)
    assert written(samples, 3, format, bands=1) == written(samples, 3, format, bands=17)


@pytest.mark.parametrize("format", ["png", "tiff", "jpg", "webp", "avif"])
def test_a_file_names_the_profile_of_its_samples(format: str) -> None:  # noqa: A002
    data = written(smooth(40, 30, 3, deep=False), 3, format, profile=OUTPUT_PROFILES["p3"])
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["icc_profile"] == OUTPUT_PROFILES["p3"]


def test_pillow_reads_what_is_written() -> None:
    samples = smooth(90, 70, 4, deep=False)
    for format in ("png", "tiff"):  # noqa: A001
        with Image.open(io.BytesIO(written(samples, 3, format))) as image:
            np.testing.assert_array_equal(np.asarray(image), samples)


@pytest.mark.parametrize("format", ["jpg", "webp", "avif"])
def test_formats_with_loss_stay_close(format: str) -> None:  # noqa: A002
    colours = np.broadcast_to(np.array([200, 120, 40], np.uint16) * 257, (64, 48, 3))
    with Image.open(io.BytesIO(written(colours, 3, format))) as image:
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - [200, 120, 40]).max() <= 3


def test_jpeg_blends_transparency_over_white() -> None:
    samples = np.zeros((16, 16, 4), np.uint8)
    samples[:, :8, 3] = 255  # black on the left, nothing on the right
    with Image.open(io.BytesIO(written(samples, 3, "jpg"))) as image:
        pixels = np.asarray(image)
    assert pixels[8, 2].max() <= 3
    assert pixels[8, 13].min() >= 252


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (128, 0), (129, 1), (32896, 128), (65406, 254), (65407, 255)])
def test_sixteen_bits_become_the_nearest_eight(value: int, expected: int) -> None:
    assert to_eight_bits(np.array([value], np.uint16)).tolist() == [expected]  # 257 x and at most 128 beside it


def test_a_side_that_a_format_cannot_hold_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="webp holds at most 16383 pixels a side, and the image is 16384 x 2"):
        writers.check_format("webp", 16384, 2)
    with pytest.raises(UsageError, match="cannot write images as 'gif'; allowed are png, jpg, webp, tiff, avif"):
        writers.check_format("gif", 2, 2)


def test_a_tiff_that_could_pass_four_gigabytes_is_a_bigtiff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "_BIGTIFF_BYTES", 1000)
    assert written(smooth(40, 30, 3, deep=True), 3, "tiff")[:4] == b"II+\0"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 12))
def test_regrouped_bands_hold_the_same_rows(sizes: list[int], rows: int) -> None:
    samples = np.arange(sum(sizes))[:, None]
    groups = list(regrouped(np.split(samples, np.cumsum(sizes)[:-1]), rows))
    np.testing.assert_array_equal(np.concatenate(groups), samples)
    assert {len(group) for group in groups[:-1]} <= {rows}
    assert 1 <= len(groups[-1]) <= rows


@given(st.integers(2, 6), st.integers(1, 9), st.sampled_from([1, 2, 3, 6, 8]), st.integers(0, 2**32))
@settings(deadline=None)
def test_filters_are_undone_by_the_definition(rows: int, pixels: int, pixel: int, seed: int) -> None:
    """PNG specification, section 9.2: each byte is its difference and a prediction from left, above and corner."""
    plain = np.random.default_rng(seed).integers(0, 256, (rows, pixels * pixel), dtype=np.uint8)
    packed = np.frombuffer(filtered(plain[1:], plain[0], pixel), np.uint8)
    above = plain[0].tolist()
    for row, expected in zip(packed.reshape(rows - 1, -1).tolist(), plain[1:].tolist(), strict=True):
        above = undone(row[0], row[1:], above, pixel)
        assert above == expected


def undone(kind: int, row: list[int], above: list[int], pixel: int) -> list[int]:
    found: list[int] = []
    for at, value in enumerate(row):
        a = found[at - pixel] if at >= pixel else 0
        b, c = above[at], above[at - pixel] if at >= pixel else 0
        nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
        found.append((value + {0: 0, 1: a, 2: b, 4: nearest}[kind]) % 256)
    return found


def test_a_smooth_image_is_packed_much_smaller_than_without_filters() -> None:
    samples = np.cumsum(np.ones((200, 300, 3), np.uint16) * 97, axis=1).astype(np.uint16)
    assert len(written(samples, 3, "png")) < len(zlib.compress(samples.tobytes())) / 2


# ---- pictures of methods ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [None, "srgb", "p3"])
def test_plain_formats_are_encoded_as_before(space: str | None) -> None:
    pixels = np.random.default_rng(1).uniform(0, 1, (20, 30, 3)).astype(np.float32)
    for format in ("png", "jpg", "webp"):  # noqa: A001
        assert encode_picture(pixels, format, 90, space) == encode(pixels, format, 90, space)


def test_a_picture_of_sixteen_bits_has_finer_steps() -> None:
    pixels = np.linspace(0.4, 0.402, 300, dtype=np.float32).reshape(10, 10, 3)
    for format in ("png", "tiff"):  # noqa: A001
        _, bands = read_original(encode_picture(pixels, format, 90, None, 16), ink=True)
        np.testing.assert_allclose(np.concatenate(list(bands)) / 65535, pixels, atol=0.51 / 65535)
    with tifffile.TiffFile(io.BytesIO(encode_picture(pixels, "tiff", 90))) as file:
        assert file.pages.first.bitspersample == 8
