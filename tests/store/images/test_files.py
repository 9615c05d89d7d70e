from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from kt_batch.errors import Reason, RejectError, UsageError
from kt_batch.kernels.sizes import fit
from kt_batch.store.images import headers
from kt_batch.store.images.files import WorkingImage, decode, encode, image_id, pad_to, preview, thumbnail
from kt_batch.store.images.lcms import Floats
from kt_batch.store.images.rasters import read_raster
from tests.support import charts
from tests.support.hostile import (
    Case,
    chunk,
    cmyk_profile,
    deep,
    deep_png,
    exif,
    make_corpus,
    picture,
    png,
    saved,
    tiff,
)
from tests.support.hostile_formats import formats

T = Image.Transpose


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case]]:
    folder = tmp_path_factory.mktemp("corpus")
    return folder, make_corpus(folder)


def pixels_of(data: bytes, size: int = 512) -> Floats:
    return decode(data, size).pixels


def flat(colour: tuple[int, ...], mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (4, 4), colour)


def first_pixel(data: bytes) -> list[float]:
    return [round(float(value), 3) for value in pixels_of(data)[0, 0]]


# ---- corpus


def test_every_file_of_the_hostile_corpus_meets_its_verdict(corpus: tuple[Path, list[Case]]) -> None:
    folder, cases = corpus
    met = {case.name: verdict_on((folder / case.name).read_bytes()) for case in cases}
    assert met == {case.name: case.verdict for case in cases}
    of_files = {"good", *Reason} - {Reason.UNREADABLE, Reason.CHANGED, Reason.NAME_REFUSED, Reason.FATAL}
    of_one_file = of_files - {Reason.NOT_A_PAIR, Reason.MASK}
    assert {case.verdict for case in cases} == of_one_file - {Reason.DECODER_DIED, Reason.DECODER_SLOW}


def test_every_variant_of_every_format_meets_its_verdict() -> None:
    made = {name: (verdict_on(content), verdict) for name, verdict, _, content in formats()}
    assert len(made) > 200
    assert {name: met for name, (met, verdict) in made.items() if met != verdict} == {}


def verdict_on(data: bytes) -> str:
    try:
        image = decode(data, 40)
    except RejectError as error:
        return error.reason
    assert_sound(image, 40)
    return "good"


def assert_sound(image: WorkingImage, size: int) -> None:
    assert image.pixels.dtype == np.float32
    assert image.pixels.shape == (image.height, image.width, 3)
    assert image.pixels.flags.c_contiguous
    assert np.isfinite(image.pixels).all()
    assert image.pixels.min() >= 0
    assert image.pixels.max() <= 1
    assert (image.width, image.height) == fit(image.original_width, image.original_height, size)


def test_a_reject_has_the_same_message_each_time(corpus: tuple[Path, list[Case]]) -> None:
    folder, cases = corpus
    for case in cases:
        if case.verdict != "good":
            data = (folder / case.name).read_bytes()
            assert message_of(data) == message_of(data) != ""


def message_of(data: bytes) -> str:
    with pytest.raises(RejectError) as caught:
        decode(bytes(data), 40)
    return caught.value.message


def test_decoder_warnings_are_suppressed_and_warning_filters_stay() -> None:
    before = list(warnings.filters)
    decode(saved(picture(), "JPEG", exif=exif(6)[:15]), 64)
    assert list(warnings.filters) == before


# ---- size


@pytest.mark.parametrize(
    ("width", "height", "size", "expected"),
    [
        (1024, 768, 512, (512, 384)),
        (768, 1024, 512, (384, 512)),
        (512, 100, 512, (512, 100)),
        (300, 200, 512, (300, 200)),  # not enlarged
        (513, 513, 512, (512, 512)),
        (1000, 3, 500, (500, 2)),  # 1.5 rounds up
        (20000, 8, 512, (512, 1)),  # 0.2 would vanish
    ],
)
def test_the_long_side_shrinks_to_the_requested_size(
    width: int, height: int, size: int, expected: tuple[int, int]
) -> None:
    assert fit(width, height, size) == expected


def test_an_image_within_the_size_keeps_its_values() -> None:
    source = picture(40, 30)
    image = decode(saved(source, "PNG"), 40)
    assert (image.width, image.height) == (image.original_width, image.original_height) == (40, 30)
    np.testing.assert_allclose(image.pixels, np.asarray(source) / 255.0, atol=1e-7)


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_shrinking_averages_over_the_area(factor: int) -> None:
    board = np.indices((64 * factor, 64 * factor)).sum(axis=0) % 2 * 255
    shrunk = pixels_of(saved(Image.fromarray(board.astype(np.uint8)), "PNG"), 64)
    np.testing.assert_allclose(shrunk[4:-4, 4:-4], 0.5, atol=0.06)  # taking every n-th pixel would give 0 or 1


def test_shrinking_by_boxes_and_lanczos_agrees_with_lanczos_alone() -> None:
    source = picture(700, 430)
    reference = np.asarray(source.resize(fit(700, 430, 50), Image.Resampling.LANCZOS)) / 255.0
    # The third channel is a saw-tooth, where filters may differ; the first two are ramps, where they may not.
    np.testing.assert_allclose(pixels_of(saved(source, "PNG"), 50)[..., :2], reference[..., :2], atol=2 / 255)


def test_a_long_image_is_shrunk_in_strips_without_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(picture(300, 200), "PNG")
    whole = pixels_of(data, 20)
    monkeypatch.setattr("kt_batch.store.images.files._STRIP_SAMPLES", 1)
    np.testing.assert_array_equal(pixels_of(data, 20), whole)


@pytest.mark.parametrize(("long_side", "decoded"), [(256, 256), (257, 512), (1024, 1024), (2048, 2048), (9999, 2048)])
def test_a_large_jpeg_is_decoded_smaller_but_never_below_the_requested_size(long_side: int, decoded: int) -> None:
    raster = read_raster(saved(picture(2048, 1024), "JPEG"), long_side)
    assert raster.samples.shape[1] == decoded
    assert (raster.width, raster.height) == (2048, 1024)


def test_the_size_is_checked_before_pixels_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("the pixels were decoded")

    monkeypatch.setattr(headers, "MAX_PIXELS", 48 * 32 - 1)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    monkeypatch.setattr(imagecodecs, "png_decode", never)
    monkeypatch.setattr("tifffile.TiffPage.asarray", never)
    for data in (
        saved(picture(), "PNG"),
        saved(picture(), "JPEG"),
        deep_png(deep()),
        tiff(deep(), photometric="rgb"),
        saved(picture(), "TIFF"),
    ):
        assert verdict_on(data) == Reason.TOO_MANY_PIXELS


# ---- 16 bits


RAMP = (np.arange(4096, dtype=np.uint16) * 16).reshape(64, 64)


@pytest.mark.parametrize(
    "data",
    [
        deep_png(np.stack([RAMP] * 3, axis=-1)),
        deep_png(RAMP),
        tiff(np.stack([RAMP] * 3, axis=-1), photometric="rgb"),
        tiff(RAMP, photometric="minisblack", compression="zstd"),
        saved(Image.fromarray(RAMP), "TIFF"),
    ],
    ids=["png rgb", "png grey", "tiff rgb", "tiff grey", "tiff of another writer"],
)
def test_16_bit_values_keep_16_bits(data: bytes) -> None:
    pixels = pixels_of(data)
    assert len(np.unique(pixels)) == 4096
    np.testing.assert_allclose(pixels[..., 1], RAMP / 65535.0, atol=1e-7)


def test_16_bit_values_survive_profile_conversion() -> None:
    data = deep_png(
        np.stack([RAMP] * 3, axis=-1), chunk(b"iCCP", b"p\0\0" + compressed(imagecodecs.cms_profile("adobergb")))
    )
    assert len(np.unique(pixels_of(data)[..., 0])) > 1000


def compressed(data: bytes) -> bytes:
    return zlib.compress(data)


def test_the_same_picture_in_8_and_16_bits_agrees() -> None:
    values = np.asarray(picture())
    wide = values.astype(np.uint16) * 257
    for data in (deep_png(wide), tiff(wide, photometric="rgb")):
        np.testing.assert_allclose(pixels_of(data, 20), pixels_of(saved(picture(), "PNG"), 20), atol=1e-6)


def test_a_float_tiff_is_read_as_zero_to_one_and_clipped() -> None:
    values = np.array([[-0.5, 0.25, 0.75, 2.0]], np.float32)
    np.testing.assert_array_equal(pixels_of(tiff(values, photometric="minisblack"))[0, :, 0], [0, 0.25, 0.75, 1])


def test_white_is_zero_is_honoured() -> None:
    values = np.array([[0, 65535]], np.uint16)
    np.testing.assert_array_equal(pixels_of(tiff(values, photometric="miniswhite"))[0, :, 0], [1, 0])


# ---- colour


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (saved(flat((255, 0, 0, 0), "CMYK"), "TIFF"), [0, 1, 1]),  # cyan takes red away
        (saved(flat((0, 0, 0, 51), "CMYK"), "TIFF"), [0.8, 0.8, 0.8]),  # 51/255 black ink
        (saved(flat((255, 0, 0, 0), "CMYK"), "JPEG", quality=100, subsampling=0), [0, 1, 1]),  # inverted by Adobe
        (saved(flat((255, 0, 0, 0), "CMYK"), "TIFF", icc_profile=cmyk_profile()), [0, 0, 0]),  # as its profile says
        (saved(flat((0, 0, 0, 0), "CMYK"), "TIFF", icc_profile=cmyk_profile()), [1, 1, 1]),
        (saved(flat((51,), "L"), "PNG"), [0.2, 0.2, 0.2]),
        (saved(flat((255, 0, 0, 51), "RGBA"), "PNG"), [1, 0.8, 0.8]),  # a fifth of red over white
        (saved(flat((255, 0, 0, 0), "RGBA"), "PNG"), [1, 1, 1]),
        (saved(flat((0, 51), "LA"), "PNG"), [0.8, 0.8, 0.8]),
        (saved(flat((0, 0, 0)), "PNG", transparency=(0, 0, 0)), [1, 1, 1]),  # one colour declared transparent
        (saved(flat((0, 255, 0)).quantize(2), "PNG"), [0, 1, 0]),
        (saved(flat((0, 255, 0)).quantize(2), "PNG", transparency=0), [1, 1, 1]),
        (saved(flat((1,), "1"), "PNG"), [1, 1, 1]),
        (png(1, 1, 2, 0, b"\0\x40"), [0.333, 0.333, 0.333]),  # 2 bits: 1 of 3
        (png(1, 1, 16, 0, b"\0\x00\x64", chunk(b"tRNS", b"\x00\x64")), [1, 1, 1]),
        (deep_png(np.full((1, 1, 4), [65535, 0, 0, 13107], np.uint16)), [1, 0.8, 0.8]),
    ],
)
def test_colours_are_read_as_displayed(data: bytes, expected: list[float]) -> None:
    assert first_pixel(data) == pytest.approx(expected, abs=0.004)


def test_premultiplied_alpha_is_not_multiplied_again() -> None:
    values = np.full((4, 4, 4), [13107, 0, 0, 13107], np.uint16)  # a fifth of red, already weighted
    assert first_pixel(tiff(values, photometric="rgb", extrasamples=["assocalpha"])) == [1, 0.8, 0.8]
    # The same samples with a fourth channel of no stated meaning: dark red, and nothing shines through.
    assert first_pixel(tiff(values, photometric="rgb", extrasamples=["unspecified"])) == [0.2, 0, 0]


def test_profile_conversion_agrees_with_another_colour_engine() -> None:
    profile = imagecodecs.cms_profile("adobergb")
    source = picture()
    wide = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    reference = ImageCms.profileToProfile(source, wide, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert reference is not None
    converted = pixels_of(saved(source, "PNG", icc_profile=profile))
    np.testing.assert_allclose(converted, np.asarray(reference) / 255.0, atol=2 / 255)
    assert np.abs(converted - pixels_of(saved(source, "PNG"))).max() > 0.05


def test_an_embedded_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with_profile, without = saved(picture(), "PNG", icc_profile=profile), saved(picture(), "PNG")
    np.testing.assert_array_equal(pixels_of(with_profile), pixels_of(without))


@pytest.mark.parametrize("profile", [b"no profile", imagecodecs.cms_profile("adobergb")[:300], cmyk_profile()])
def test_a_broken_or_foreign_profile_is_ignored(profile: bytes) -> None:
    with_profile, without = saved(picture(), "PNG", icc_profile=profile), saved(picture(), "PNG")
    np.testing.assert_array_equal(pixels_of(with_profile), pixels_of(without))


def test_a_grey_profile_is_applied() -> None:
    linear = imagecodecs.cms_profile("gray", gamma=1.0)
    # 0.5 of the light of white is 0.735 in sRGB: 1.055 * 0.5 ** (1 / 2.4) - 0.055.
    assert first_pixel(saved(flat((128,), "L"), "PNG", icc_profile=linear)) == pytest.approx([0.737] * 3, abs=0.003)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_read_as_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert first_pixel(data) == pytest.approx([1, 0, 0], abs=0.02)


# ---- orientation


STORED_AS = {
    1: lambda image: image,
    2: lambda image: image.transpose(T.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(T.ROTATE_180),
    4: lambda image: image.transpose(T.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(T.TRANSPOSE),
    6: lambda image: image.transpose(T.ROTATE_90),
    7: lambda image: image.transpose(T.TRANSVERSE),
    8: lambda image: image.transpose(T.ROTATE_270),
}


def as_png(image: Image.Image, orientation: int) -> bytes:
    return saved(image, "PNG", exif=exif(orientation))


def as_jpeg(image: Image.Image, orientation: int) -> bytes:
    return saved(image, "JPEG", exif=exif(orientation), quality=100, subsampling=0)


def as_webp(image: Image.Image, orientation: int) -> bytes:
    return saved(image, "WEBP", exif=exif(orientation), lossless=True)


def as_tiff(image: Image.Image, orientation: int) -> bytes:
    return saved(image, "TIFF", exif=exif(orientation))


def as_deep_tiff(image: Image.Image, orientation: int) -> bytes:
    return tiff(widened(image), photometric="rgb", extratags=[(0x0112, "H", 1, orientation, True)])


def as_deep_png(image: Image.Image, orientation: int) -> bytes:
    return deep_png(widened(image), chunk(b"eXIf", exif(orientation).removeprefix(b"Exif\0\0")))


def widened(image: Image.Image) -> NDArray[np.uint16]:
    return np.asarray(image).astype(np.uint16) * 257


@pytest.mark.parametrize("write", [as_png, as_jpeg, as_webp, as_tiff, as_deep_tiff, as_deep_png])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_returns_a_marked_corner_to_its_place(
    orientation: int, write: Callable[[Image.Image, int], bytes]
) -> None:
    upright = Image.new("RGB", (6, 4), "black")
    upright.putpixel((0, 0), (255, 255, 255))
    upright.putpixel((5, 0), (128, 128, 128))
    image = decode(write(STORED_AS[orientation](upright), orientation), 512)
    assert (image.original_width, image.original_height) == (6, 4)
    np.testing.assert_allclose(image.pixels, np.asarray(upright) / 255.0, atol=0.02)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_invalid_orientation_is_ignored(orientation: int) -> None:
    image = decode(saved(picture(6, 4), "PNG", exif=exif(orientation)), 512)
    assert (image.original_width, image.original_height) == (6, 4)


def test_original_size_is_the_oriented_size_of_the_file_before_shrinking() -> None:
    image = decode(as_jpeg(picture(1200, 600), 6), 100)
    assert (image.original_width, image.original_height) == (600, 1200)
    assert (image.width, image.height) == (50, 100)


# ---- arbitrary bytes


VALID = {
    "png": saved(picture(9, 7), "PNG"),
    "deep png": deep_png(deep()[:7, :9]),
    "jpeg": saved(picture(9, 7), "JPEG", exif=exif(6), icc_profile=imagecodecs.cms_profile("adobergb")),
    "tiff": saved(picture(9, 7), "TIFF", compression="tiff_lzw"),
    "deep tiff": tiff(deep()[:7, :9], photometric="rgb", compression="deflate"),
    "float tiff": tiff(np.ones((7, 9), np.float32), photometric="minisblack"),
    "tiled tiff": tiff(deep()[:16, :16], photometric="rgb", tile=(16, 16)),
    "gif": saved(picture(9, 7), "GIF"),
    "webp": saved(picture(9, 7), "WEBP"),
    "bmp": saved(picture(9, 7), "BMP"),
    "ppm": saved(picture(9, 7), "PPM"),
    "bmp with a profile": charts.as_bmp(np.full((7, 9, 3), 0.5), charts.CHARTS["Display P3"].profile()),
    "webp in tiff": tiff(np.asarray(picture(9, 7)), photometric="rgb", compression="webp"),
    "planes in tiff": tiff(
        np.moveaxis(deep(2)[:7, :9].astype(np.uint8), -1, 0).copy(),
        photometric="minisblack",
        planarconfig="separate",
        extrasamples=["unassalpha"],
        compression="deflate",
    ),
    "jpeg without end": saved(picture(9, 7), "JPEG", progressive=True)[:-2],
    "png with chunks": deep_png(
        deep()[:7, :9],
        *(chunk(b"cICP", bytes((9, 16, 0, 1))), chunk(b"gAMA", bytes((0, 1, 0, 0))), chunk(b"cHRM", bytes(range(32)))),
        chunk(b"eXIf", exif(6)[6:]),
    ),
    "tiff with a profile": tiff(deep()[:7, :9], photometric="rgb", iccprofile=charts.CHARTS["ProPhoto RGB"].profile()),
    "mpo": saved(picture(9, 7), "MPO", save_all=True, append_images=[picture(9, 7)]),
}


def assert_image_or_reject(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(headers, "MAX_PIXELS", 2**20)  # an invented size may otherwise cost seconds
        try:
            image = decode(data, 16)
        except RejectError:
            return
    assert_sound(image, 16)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", *(data[:12] for data in VALID.values())]))
def test_random_bytes_are_an_image_or_a_reject(data: bytes, beginning: bytes) -> None:
    assert_image_or_reject(beginning + data)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(VALID)), st.data())
def test_damaged_files_are_an_image_or_a_reject(kind: str, data: st.DataObject) -> None:
    content = bytearray(VALID[kind])
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=8)):
        content[at] = value
    assert_image_or_reject(bytes(content[: data.draw(st.integers(0, len(content)))]))
    assert_image_or_reject(bytes(content))


def test_a_list_in_place_of_a_number_is_refused_at_once() -> None:
    data = bytearray(tiff(deep(), photometric="rgb"))
    at = max(data.find(struct.pack("<HHI", 256, kind, 1)) for kind in (3, 4))
    data[at : at + 12] = struct.pack("<HHII", 256, 3, 200, 8)  # 200 widths, read from the header on
    assert message_of(bytes(data)) == "the TIFF has a list as its imagewidth; allowed is one number"


def test_pages_that_form_a_cycle_are_not_followed() -> None:
    data = bytearray(tiff(deep(), photometric="rgb", metadata=None, software=""))
    (entries,) = struct.unpack_from("<H", data, 8)
    struct.pack_into("<I", data, 10 + 12 * entries, 8)  # the next page is this one
    assert verdict_on(bytes(data)) == "good"


def test_a_tile_of_absurd_size_is_refused() -> None:
    data = bytearray(tiff(deep(1)[:16, :16, 0], photometric="minisblack", tile=(16, 16)))
    for tag in (322, 323):  # width and length of a tile
        at = max(data.find(struct.pack("<HHI", tag, kind, 1)) for kind in (3, 4))
        data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 2**24)
    assert verdict_on(bytes(data)) == Reason.TOO_MANY_PIXELS


# ---- identity, padding, writing


def test_an_image_id_is_a_prefix_of_the_hash_of_the_bytes() -> None:
    assert image_id(b"abc") == "ba7816bf8f01cfea"  # FIPS 180-2, appendix B.1
    assert image_id(b"abc") == hashlib.sha256(b"abc").hexdigest()[:16]


def test_padding_reflects_at_the_bottom_and_right() -> None:
    row = np.array([[[1.0], [2.0], [3.0]]], np.float32)
    np.testing.assert_array_equal(pad_to(row, 2)[:, :, 0], [[1, 2, 3, 2]] * 4)


@pytest.mark.parametrize(
    ("shape", "stride", "padded"),
    [
        ((8, 12), 4, (8, 12)),
        ((9, 12), 4, (12, 12)),
        ((1, 1), 4, (8, 8)),
        ((1, 5), 8, (16, 16)),
        ((513, 512), 4, (516, 512)),
    ],
)
def test_padded_sides_are_multiples_of_the_stride_and_hold_two_cells(
    shape: tuple[int, int], stride: int, padded: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).random((*shape, 3), np.float32)
    result = pad_to(pixels, stride)
    assert result.shape == (*padded, 3)
    added = [(0, after - before) for before, after in zip(shape, padded, strict=True)]
    np.testing.assert_array_equal(result, np.pad(pixels, [*added, (0, 0)], mode="reflect"))


def test_png_round_trips_8_bit_values() -> None:
    values = np.asarray(picture())
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(encode((values / 255).astype(np.float32), "png", 95)))), values
    )


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_equal_pixels_give_equal_bytes_without_metadata(kind: str) -> None:
    pixels = pixels_of(saved(picture(), "PNG"))
    data = encode(pixels, kind, 95)
    assert data == encode(pixels.copy(), kind, 95)
    np.testing.assert_allclose(pixels_of(data), pixels, atol=0.2)
    with Image.open(io.BytesIO(data)) as image:
        assert not image.getexif()
        assert not {"icc_profile", "exif", "xmp", "comment"} & set(image.info)


def test_values_out_of_range_are_clipped_when_written() -> None:
    beyond = np.array([[[-1.0, 0.5, 2.0]]], np.float32)
    assert first_pixel(encode(beyond, "png", 95)) == [0, 0.502, 1]


def test_lower_quality_makes_smaller_files() -> None:
    pixels = np.random.default_rng(0).random((64, 64, 3), np.float32)
    assert len(encode(pixels, "jpg", 50)) < len(encode(pixels, "jpg", 95))


@pytest.mark.parametrize(("kind", "width"), [("webp", 16384), ("jpg", 65501)])
def test_a_side_too_long_for_a_format_is_refused_with_a_message(kind: str, width: int) -> None:
    with pytest.raises(
        UsageError, match=f"{kind} holds at most {width - 1} pixels a side, and the image is {width} x 1"
    ):
        encode(np.zeros((1, width, 3), np.float32), kind, 95)


def test_the_refusal_of_an_unknown_format_lists_the_allowed_ones() -> None:
    with pytest.raises(UsageError, match="cannot write images as 'tiff'; allowed are png, jpg, webp"):
        encode(np.zeros((1, 1, 3), np.float32), "tiff", 95)


def test_a_preview_is_a_jpeg_of_at_most_512_pixels() -> None:
    with Image.open(io.BytesIO(preview(np.full((300, 1024, 3), 0.5, np.float32)))) as image:
        assert (image.format, image.size) == ("JPEG", (512, 150))
    with Image.open(io.BytesIO(preview(np.full((30, 20, 3), 0.5, np.float32)))) as image:
        assert image.size == (20, 30)


def test_a_thumbnail_is_a_jpeg_of_at_most_144_pixels_near_the_picture() -> None:
    grey = np.linspace(0.1, 0.9, 1024, dtype=np.float32)[None, :, None].repeat(300, axis=0).repeat(3, axis=2)
    with Image.open(io.BytesIO(thumbnail(grey))) as image:
        assert (image.format, image.size) == ("JPEG", (144, 42))
        shown = np.asarray(image)
    # Each of 144 columns is the mean of 1024 / 144 = 7.11 steps of .8 / 1023.
    assert np.abs(shown[20, [0, 143], 0] / 255 - [0.1 + 3.06 * 0.8 / 1023, 0.9 - 3.06 * 0.8 / 1023]).max() < 0.01
    with Image.open(io.BytesIO(thumbnail(np.full((30, 20, 3), 0.5, np.float32)))) as image:
        assert image.size == (20, 30)
