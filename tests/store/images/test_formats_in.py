"""HEIC, AVIF, JPEG XL, JPEG 2000 and camera raw: samples, depth, transparency, orientation, colours, and rejects."""

from __future__ import annotations

import builtins
import io
import struct
from collections.abc import Callable, Mapping
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images import jxl_profile, raw
from kt_batch.store.images.files import WorkingImage, decode
from kt_batch.store.images.rasters import read_raster
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.images.samples import Raster
from tests.support.charts import CHARTS, Values, chart_colours, in_bits, light_to_srgb, srgb_to_light
from tests.support.format_files import (
    JxlColours,
    avif,
    avif_item,
    channel_kinds,
    dng,
    enumerated,
    j2k,
    jp2,
    jp2_profile,
    jxl,
    jxl_with,
    mosaic,
)
from tests.support.heif_files import Item, alpha_box, box, full_box, heic, heif, icc_box, nclx, picture_item, size_box
from tests.support.hostile import exif, saved, tiff
from tests.support.hostile_codecs import codecs
from tests.support.jxl_encoder import jxl_with_profile

LEVEL = 1 / 255
GREY, RGB, GREY_ALPHA, RGBA = (12, 20), (12, 20, 3), (12, 20, 2), (12, 20, 4)


def noise(shape: tuple[int, ...], bits: int) -> NDArray[Any]:
    values = np.random.default_rng(7).integers(0, 2**bits, shape)
    return values.astype(np.uint8 if bits == 8 else np.uint16)


def raster_of(data: bytes) -> Raster:
    return read_raster(data, 2**14)


def pixels_of(data: bytes) -> Values:
    return decode(data, 512).pixels.astype(np.float64)


def rejection_of(data: bytes) -> RejectError:
    with pytest.raises(RejectError) as caught:
        decode(data, 512)
    return caught.value


# ---- samples and depth


LOSSLESS: Mapping[str, Callable[[NDArray[Any], int], bytes]] = {
    "HEIC": heic,
    "AVIF": avif,
    "JPEG XL": jxl,
    "JPEG 2000, JP2": jp2,
    "JPEG 2000, codestream": j2k,
}
DEPTHS = {"HEIC": (8, 10, 12), "AVIF": (8, 10, 12)}
EVERY_DEPTH = [(name, bits) for name in LOSSLESS for bits in DEPTHS.get(name, (8, 10, 12, 16))]


@pytest.mark.parametrize("shape", [GREY, RGB], ids=["grey", "RGB"])
@pytest.mark.parametrize(("name", "bits"), EVERY_DEPTH)
def test_every_sample_comes_back_with_all_its_bits(name: str, bits: int, shape: tuple[int, ...]) -> None:
    samples = noise(shape, bits)
    raster = raster_of(LOSSLESS[name](samples, bits))
    np.testing.assert_array_equal(raster.samples[:].reshape(shape), samples)
    assert raster.white == 2**bits - 1
    assert (raster.channels, raster.alpha) == (1 if shape == GREY else 3, False)
    assert (raster.width, raster.height) == (20, 12)


def test_a_jpeg_xl_in_boxes_may_have_its_codestream_in_parts() -> None:
    samples = noise(RGB, 8)
    stream = jxl(samples, usecontainer=False)
    parts = box(b"jxlp", bytes(4), stream[:20]) + box(b"jxlp", b"\x80\0\0\1", stream[20:])
    data = b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"ftyp", b"jxl \0\0\0\0jxl ") + parts
    np.testing.assert_array_equal(raster_of(data).samples, samples)


def test_a_jpeg_xl_of_floats_is_read_as_values_from_0_to_1() -> None:
    samples = np.linspace(0, 1, 12 * 20 * 3, dtype=np.float32).reshape(RGB)
    raster = raster_of(jxl(samples))
    np.testing.assert_array_equal(raster.samples, samples)
    assert raster.white == 1.0


# ---- transparency: over white, straight and premultiplied


def over_white(samples: NDArray[Any], bits: int, premultiplied: bool = False) -> Values:
    values = samples / (2**bits - 1)
    colours, alpha = values[..., :-1], values[..., -1:]
    return np.broadcast_to(
        np.clip((colours if premultiplied else colours * alpha) + 1 - alpha, 0, 1), (*samples.shape[:2], 3)
    )


def with_alpha(samples: NDArray[Any], bits: int, made: Callable[..., Item], premultiplied: bool = False) -> list[Item]:
    colours, alpha = samples[..., :-1], samples[..., -1]
    colours = colours[..., 0] if colours.shape[-1] == 1 else colours
    references: dict[bytes, tuple[int, ...]] = {b"auxl": (1,)}
    items = [made(np.ascontiguousarray(colours), bits), made(np.ascontiguousarray(alpha), bits, alpha_box())]
    items[1].references = references
    if premultiplied:
        items[0].references = {b"prem": (2,)}
    return items


TRANSPARENT: Mapping[str, Callable[[NDArray[Any], int], bytes]] = {
    "HEIC": lambda samples, bits: heif(with_alpha(samples, bits, picture_item)),
    "AVIF": lambda samples, bits: heif(with_alpha(samples, bits, avif_item), brand=b"avif"),
    "JPEG XL": lambda samples, bits: jxl_with(samples, bits, JxlColours()),
    "JPEG 2000": lambda samples, bits: jp2(samples, bits, None, channel_kinds(*(0,) * (samples.shape[2] - 1), 1)),
}


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("shape", [GREY_ALPHA, RGBA], ids=["grey", "RGB"])
@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparency_is_blended_over_white(name: str, shape: tuple[int, ...], bits: int) -> None:
    samples = noise(shape, bits)
    assert raster_of(TRANSPARENT[name](samples, bits)).alpha
    np.testing.assert_allclose(
        pixels_of(TRANSPARENT[name](samples, bits)), over_white(samples, bits), atol=0.01 * LEVEL
    )


PREMULTIPLIED: Mapping[str, Callable[[NDArray[Any], int], bytes]] = {
    "HEIC": lambda samples, bits: heif(with_alpha(samples, bits, picture_item, premultiplied=True)),
    "AVIF": lambda samples, bits: heif(with_alpha(samples, bits, avif_item, premultiplied=True), brand=b"avif"),
    "JPEG XL": lambda samples, bits: jxl_with(samples, bits, JxlColours(), premultiplied=True),
    "JPEG 2000": lambda samples, bits: jp2(samples, bits, None, channel_kinds(0, 0, 0, 2)),
}


@pytest.mark.parametrize("name", PREMULTIPLIED)
def test_colours_that_are_multiplied_by_their_opacity_are_not_multiplied_again(name: str) -> None:
    samples = noise(RGBA, 10)
    samples[..., 3] = np.maximum(samples[..., 3], samples[..., :3].max(axis=2))
    found = pixels_of(PREMULTIPLIED[name](samples, 10))
    np.testing.assert_allclose(found, over_white(samples, 10, premultiplied=True), atol=LEVEL)


def test_a_fourth_component_that_no_box_explains_is_ignored() -> None:
    samples = noise(RGBA, 8)
    np.testing.assert_allclose(pixels_of(jp2(samples)), samples[..., :3] / 255, atol=0.01 * LEVEL)


# ---- orientation


# The four corners of a picture that is stored as red, green, blue and white, after each orientation.
CORNERS = {1: "rgbw", 2: "grwb", 3: "wbgr", 4: "bwrg", 5: "rbgw", 6: "brwg", 7: "wgbr", 8: "gwrb"}
COLOURS = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "w": (255, 255, 255)}


def corners() -> NDArray[np.uint8]:
    four = np.array([[COLOURS["r"], COLOURS["g"]], [COLOURS["b"], COLOURS["w"]]], np.uint8)
    return four.repeat(16, axis=0).repeat(24, axis=1)


def corners_of(image: WorkingImage) -> str:
    names = {colour: name for name, colour in COLOURS.items()}
    pixels = np.round(image.pixels * 255).astype(int)
    places = [(0, 0), (0, -1), (-1, 0), (-1, -1)]
    return "".join(names[pixels[place][0], pixels[place][1], pixels[place][2]] for place in places)


def turned(quarters: int, mirror: int | None = None) -> list[bytes]:
    mirrored = [] if mirror is None else [box(b"imir", bytes([mirror]))]
    return [box(b"irot", bytes([quarters])), *mirrored]


# Quarters anticlockwise, then a mirror: 0 exchanges top and bottom, 1 left and right.
TURNS = {1: (0, None), 2: (0, 1), 3: (2, None), 4: (0, 0), 5: (1, 0), 6: (3, None), 7: (1, 1), 8: (1, None)}


@pytest.mark.parametrize("orientation", CORNERS)
@pytest.mark.parametrize("made", [heic, avif], ids=["HEIC", "AVIF"])
def test_properties_turn_and_mirror_a_heic_and_an_avif(made: Callable[..., bytes], orientation: int) -> None:
    image = decode(made(corners(), 8, *turned(*TURNS[orientation])), 512)
    assert corners_of(image) == CORNERS[orientation]
    assert (image.original_width, image.original_height) == ((32, 48) if orientation > 4 else (48, 32))


def test_pillow_says_the_same_orientation_of_an_avif() -> None:
    for orientation in CORNERS:
        data = avif(corners(), 8, *turned(*TURNS[orientation]))
        with Image.open(io.BytesIO(data)) as image:
            assert image.getexif().get(274, 1) == raster_of(data).orientation == orientation


@pytest.mark.parametrize("made", [picture_item, avif_item], ids=["HEIC", "AVIF"])
def test_the_orientation_of_exif_does_not_count_in_a_heic_or_an_avif(made: Callable[..., Item]) -> None:
    block = Item(b"Exif", bytes(4) + exif(6)[6:], references={b"cdsc": (1,)})
    assert corners_of(decode(heif([made(corners()), block]), 512)) == CORNERS[1]


@pytest.mark.parametrize("orientation", CORNERS)
def test_a_jpeg_xl_is_turned_once_by_its_header(orientation: int) -> None:
    image = decode(jxl_with(corners(), 8, JxlColours(), orientation), 512)
    assert corners_of(image) == CORNERS[orientation]
    assert (image.original_width, image.original_height) == ((32, 48) if orientation > 4 else (48, 32))


@pytest.mark.parametrize("made", [heic, avif], ids=["HEIC", "AVIF"])
def test_only_the_part_that_is_shown_is_read(made: Callable[..., bytes]) -> None:
    samples = noise((32, 48, 3), 8)
    shown = box(b"clap", struct.pack(">4I4i", 20, 1, 10, 1, 4, 1, -2, 1))  # 20 x 10, its centre right and up
    raster = raster_of(made(samples, 8, shown))
    # Columns (48 - 20) / 2 + 4 = 18 to 38, rows (32 - 10) / 2 - 2 = 9 to 19.
    np.testing.assert_array_equal(raster.samples, samples[9:19, 18:38])


# ---- more than one picture in a file


@pytest.mark.parametrize(("made", "brand"), [(picture_item, b"heic"), (avif_item, b"avif")], ids=["HEIC", "AVIF"])
class TestItems:
    """Files with several items."""

    def test_the_primary_picture_is_read_and_no_other(self, made: Callable[..., Item], brand: bytes) -> None:
        samples = noise((32, 48, 3), 8)
        items = [made(255 - samples), made(samples), made(samples[::2, ::2].copy())]
        items[2].references = {b"thmb": (2,)}
        np.testing.assert_array_equal(raster_of(heif(items, primary=2, brand=brand)).samples, samples)

    def test_tiles_are_put_together(self, made: Callable[..., Item], brand: bytes) -> None:
        samples = noise((128, 192, 3), 8)
        tiles = [made(samples[top : top + 64, left : left + 64].copy()) for top in (0, 64) for left in (0, 64, 128)]
        grid = Item(b"grid", struct.pack(">BBBBHH", 0, 0, 1, 2, 190, 120), [size_box(190, 120)], {b"dimg": range(2, 8)})
        data = heif([grid, *tiles], brand=brand)
        np.testing.assert_array_equal(raster_of(data).samples, samples[:120, :190])

    def test_a_gain_map_is_ignored(self, made: Callable[..., Item], brand: bytes) -> None:
        samples = noise((32, 48, 3), 8)
        gain = made(samples[..., 0].copy(), 8, full_box(b"auxC", b"urn:com:apple:photo:2020:aux:hdrgainmap\0"))
        gain.references = {b"auxl": (1,)}
        raster = raster_of(heif([made(samples), gain], brand=brand))
        np.testing.assert_array_equal(raster.samples, samples)
        assert not raster.alpha


def overlay(made: Callable[..., Item]) -> list[Item]:
    """Return a canvas of 64 x 48 pixels in blue with 32 x 16 red ones, 8 from the left and 4 from above."""
    red = np.full((16, 32, 3), (255, 0, 0), np.uint8)
    content = struct.pack(">BB4HHHhh", 0, 0, 0, 0, 65535, 65535, 64, 48, 8, 4)
    return [Item(b"iovl", content, [size_box(64, 48)], {b"dimg": (2,)}), made(red)]


def test_an_overlay_in_a_heic_is_put_together_and_one_in_an_avif_is_rejected() -> None:
    expected = np.zeros((48, 64, 3), np.uint8)
    expected[...] = (0, 0, 255)
    expected[4:20, 8:40] = (255, 0, 0)
    np.testing.assert_array_equal(raster_of(heif(overlay(picture_item))).samples, expected)
    rejection = rejection_of(heif(overlay(avif_item), brand=b"avif"))
    assert rejection.reason == Reason.UNSUPPORTED
    assert "'av01', 'iovl'" in rejection.message


def test_of_an_animated_avif_the_primary_picture_is_read() -> None:
    frames = [Image.fromarray(noise((32, 48, 3), 8) // 2 + 100 * number) for number in range(2)]
    data = saved(frames[0], "AVIF", save_all=True, append_images=frames[1:], quality=100, subsampling="4:4:4")
    np.testing.assert_allclose(pixels_of(data), np.asarray(frames[0]) / 255, atol=3 * LEVEL)


def test_of_an_animated_jpeg_xl_the_first_frame_is_read() -> None:
    frames = noise((3, 12, 20, 3), 8)
    np.testing.assert_array_equal(raster_of(jxl(frames)).samples, frames[0])


# ---- colours


def as_16_bits(values: Values) -> NDArray[Any]:
    return in_bits(values, 16)


def wide(space: str) -> JxlColours:
    encodings = {
        "sRGB": JxlColours(),
        "Display P3": JxlColours(primaries=11),
        "Adobe RGB": JxlColours(primaries=2, points=(0.64, 0.33, 0.21, 0.71, 0.15, 0.06), gamma=256 / 563),
        "Rec. 2020": JxlColours(primaries=9, transfer=1),
        "Rec. 709": JxlColours(transfer=1),
        "linear sRGB": JxlColours(transfer=8),
        "gamma 1.8": JxlColours(gamma=1 / 1.8),
        "gamma 2.2": JxlColours(gamma=1 / 2.2),
        "grey of gamma 2.2": JxlColours(gamma=1 / 2.2),
        "linear grey": JxlColours(transfer=8),
    }
    return encodings[space]


JXL_SPACES = [space for space in CHARTS if space != "ProPhoto RGB"]
CODE_POINTS = {"sRGB": (1, 13), "Display P3": (12, 13), "Rec. 2020": (9, 14), "Rec. 709": (1, 1), "linear sRGB": (1, 8)}


@pytest.mark.parametrize("space", CHARTS)
@pytest.mark.parametrize("name", ["HEIC", "AVIF", "JPEG 2000"])
def test_a_chart_comes_back_through_an_icc_profile(name: str, space: str) -> None:
    chart = CHARTS[space]
    bits = 16 if name == "JPEG 2000" else 12
    values = chart.from_srgb(chart_colours())
    samples = np.round(values * (2**bits - 1)).astype(np.uint16)
    samples = samples[..., 0] if samples.shape[2] == 1 else samples
    made: Mapping[str, Callable[[], bytes]] = {
        "HEIC": lambda: heic(samples, bits, icc_box(chart.profile())),
        "AVIF": lambda: avif(samples, bits, icc_box(chart.profile())),
        "JPEG 2000": lambda: jp2(samples, bits, jp2_profile(chart.profile())),
    }
    data = made[name]()
    np.testing.assert_allclose(pixels_of(data), chart.to_srgb(values), atol=2 * LEVEL)
    assert raster_of(data).space.source == "the ICC profile"


@pytest.mark.parametrize("space", CODE_POINTS)
@pytest.mark.parametrize("made", [heic, avif], ids=["HEIC", "AVIF"])
def test_a_chart_comes_back_through_code_points(made: Callable[..., bytes], space: str) -> None:
    values = CHARTS[space].from_srgb(chart_colours())
    samples = np.round(values * 4095).astype(np.uint16)
    data = made(samples, 12, nclx(*CODE_POINTS[space], 0))
    np.testing.assert_allclose(pixels_of(data), CHARTS[space].to_srgb(values), atol=2 * LEVEL)
    assert "nclx" in raster_of(data).space.source


@pytest.mark.parametrize("space", JXL_SPACES)
def test_a_chart_comes_back_through_the_colour_encoding_of_jpeg_xl(space: str) -> None:
    values = CHARTS[space].from_srgb(chart_colours())
    data = jxl_with(as_16_bits(values), 16, wide(space))
    np.testing.assert_allclose(pixels_of(data), CHARTS[space].to_srgb(values), atol=2 * LEVEL)


@pytest.mark.parametrize("space", CHARTS)
def test_a_chart_comes_back_through_an_icc_profile_in_a_jpeg_xl(space: str) -> None:
    values = CHARTS[space].from_srgb(chart_colours())
    data = jxl_with_profile(as_16_bits(values), CHARTS[space].profile())
    np.testing.assert_allclose(pixels_of(data), CHARTS[space].to_srgb(values), atol=2 * LEVEL)
    assert raster_of(data).space.source == "the ICC profile"


@pytest.mark.parametrize("space", ["Display P3", "Adobe RGB", "gamma 1.8", "grey of gamma 2.2"])
def test_a_lossy_jpeg_xl_is_not_converted_by_the_profile_that_it_was_made_with(space: str) -> None:
    # libjxl gives its samples in another space than that of the profile, and says in which.
    values = CHARTS[space].from_srgb(chart_colours())
    found = pixels_of(jxl_with_profile(as_16_bits(values), CHARTS[space].profile(), lossless=False))
    np.testing.assert_allclose(found[4::8, 4::8], CHARTS[space].to_srgb(values)[4::8, 4::8], atol=3 * LEVEL)


def test_without_libjxl_at_hand_a_packed_profile_is_a_reject(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jxl_with_profile(as_16_bits(chart_colours()), CHARTS["Adobe RGB"].profile())
    monkeypatch.setattr(jxl_profile, "_library", lambda: None)
    rejection = rejection_of(data)
    assert rejection.reason == Reason.UNSUPPORTED
    assert "packed ICC profile" in rejection.message


def test_a_lossy_jpeg_xl_says_its_colours_too() -> None:
    light = srgb_to_light(chart_colours())
    data = bytes(imagecodecs.jpegxl_encode(as_16_bits(light), distance=0.1, numthreads=1))
    centres = pixels_of(data)[4::8, 4::8]
    np.testing.assert_allclose(centres, chart_colours()[4::8, 4::8], atol=3 * LEVEL)


@pytest.mark.parametrize(("number", "space"), [(16, "sRGB"), (17, "grey of gamma 2.2")])
def test_enumerated_colours_of_jpeg_2000_have_the_curve_of_srgb(number: int, space: str) -> None:
    values = CHARTS[space].from_srgb(chart_colours())
    data = jp2(as_16_bits(values), 16, enumerated(number))
    np.testing.assert_allclose(pixels_of(data), np.broadcast_to(values, (48, 64, 3)), atol=LEVEL)


def test_sycc_of_jpeg_2000_is_made_rgb() -> None:
    picture = Image.fromarray(in_bits(chart_colours(), 8).astype(np.uint8))
    samples = np.asarray(picture.convert("YCbCr"))
    np.testing.assert_allclose(pixels_of(jp2(samples, 8, enumerated(18))), chart_colours(), atol=3 * LEVEL)


def test_ink_in_jpeg_2000_is_read_as_amounts_of_ink() -> None:
    ink = noise(RGBA, 8)
    expected = (1 - ink[..., :3] / 255) * (1 - ink[..., 3:] / 255)
    np.testing.assert_allclose(pixels_of(jp2(ink, 8, enumerated(12))), expected, atol=0.01 * LEVEL)


def pq(light: Values) -> Values:
    """Return the signal of light in cd/m2 (ITU-R BT.2100)."""
    power = (light / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


@pytest.mark.parametrize("name", ["HEIC", "AVIF", "JPEG XL"])
def test_a_pq_chart_with_white_at_203_comes_back(name: str) -> None:
    signal = pq(203 * srgb_to_light(chart_colours()))
    twelve = np.round(signal * 4095).astype(np.uint16)
    made: Mapping[str, Callable[[], bytes]] = {
        "HEIC": lambda: heic(twelve, 12, nclx(1, 16, 0)),
        "AVIF": lambda: avif(twelve, 12, nclx(1, 16, 0)),
        "JPEG XL": lambda: jxl_with(as_16_bits(signal), 16, JxlColours(transfer=16)),
    }
    np.testing.assert_allclose(pixels_of(made[name]()), chart_colours(), atol=2 * LEVEL)


@pytest.mark.parametrize("made", [heic, avif], ids=["HEIC", "AVIF"])
def test_hlg_is_tone_mapped_and_white_at_three_quarters_is_nearly_white(made: Callable[..., bytes]) -> None:
    samples = np.full((32, 48, 3), 767, np.uint16)  # 75 % of 1023: 203 cd/m2 on a display of 1000
    data = made(samples, 10, nclx(9, 18, 0))
    assert raster_of(data).space.transfer == "HLG"
    np.testing.assert_allclose(pixels_of(data), 1.0, atol=LEVEL)


@pytest.mark.parametrize("made", [heic, avif], ids=["HEIC", "AVIF"])
def test_an_icc_profile_counts_more_than_code_points(made: Callable[..., bytes]) -> None:
    samples = noise(RGB, 8)
    profile = CHARTS["Adobe RGB"].profile()
    assert raster_of(made(samples, 8, nclx(12, 13, 0), icc_box(profile))).space.source == "the ICC profile"
    assert "nclx" in raster_of(made(samples, 8, nclx(12, 13, 0), icc_box(b"broken"))).space.source


def test_without_code_points_in_the_file_those_of_the_coded_picture_count() -> None:
    from tests.support import heif_files

    samples = noise((32, 48, 3), 8)
    item = picture_item(samples)
    plain = heif_files.parameters(48, 32, 8, 3)
    said = heif_files.parameters(48, 32, 8, 3, (9, 16, 0, 1))
    configuration = item.properties[0].replace(
        struct.pack(">H", len(plain)) + plain, struct.pack(">H", len(said)) + said
    )
    item.properties = [struct.pack(">I", len(configuration)) + configuration[4:], *item.properties[1:3]]
    raster = raster_of(heif([item]))
    assert raster.space.transfer == "PQ"
    np.testing.assert_array_equal(raster.samples, samples)


@pytest.mark.parametrize("made", [heic, avif], ids=["HEIC", "AVIF"])
def test_adobe_rgb_is_known_by_exif_in_a_heic_and_an_avif(made: Callable[..., bytes]) -> None:
    item = picture_item(noise(RGB, 8)) if made is heic else avif_item(noise(RGB, 8))
    ifd = Image.Exif()
    ifd.get_ifd(0x8769)[0xA001] = 2
    block = Item(b"Exif", bytes(4) + ifd.tobytes()[6:], references={b"cdsc": (1,)})
    brand = b"heic" if made is heic else b"avif"
    assert raster_of(heif([item, block], brand=brand)).space.source == "the colour space of EXIF"


# ---- camera raw


def test_a_chart_comes_back_from_the_sensor_of_a_camera() -> None:
    light = srgb_to_light(chart_colours())
    found = pixels_of(dng(mosaic(light)))
    np.testing.assert_allclose(found[4::8, 4::8], chart_colours()[4::8, 4::8], atol=2 * LEVEL)


def test_the_white_balance_of_the_camera_makes_grey_grey() -> None:
    seen = np.broadcast_to(np.array([0.2, 0.4, 0.1]), (64, 96, 3))  # of a grey surface under this light
    found = pixels_of(dng(mosaic(seen), neutral=(0.5, 1.0, 0.25)))[32, 48]
    np.testing.assert_allclose(found, light_to_srgb(np.array([0.4] * 3)), atol=2 * LEVEL)


def test_a_dark_raw_picture_stays_dark_and_a_bright_one_is_not_made_brighter() -> None:
    for light in (0.01, 0.9):
        found = pixels_of(dng(mosaic(np.full((64, 96, 3), light))))
        np.testing.assert_allclose(found, light_to_srgb(np.full((64, 96, 3), light)), atol=LEVEL)


@pytest.mark.parametrize(("orientation", "found"), [(1, "rgbw"), (3, "wbgr"), (6, "brwg"), (8, "gwrb")])
def test_a_raw_picture_is_turned_once(orientation: int, found: str) -> None:
    light = srgb_to_light(corners().repeat(4, axis=0).repeat(4, axis=1) / 255)
    data = dng(mosaic(light), orientation=orientation)
    for size in (512, 64):  # the second is developed at half the size
        image = decode(data, size)
        assert corners_of(image) == found
        assert (image.original_width, image.original_height) == ((128, 192) if orientation > 4 else (192, 128))


def test_a_raw_file_whose_first_picture_is_a_thumbnail_is_no_thumbnail() -> None:
    import tifffile

    light = srgb_to_light(chart_colours())
    with tifffile.TiffFile(io.BytesIO(dng(mosaic(light)))) as file:
        tags = [
            (tag.code, tag.dtype, tag.count, tag.value, True)
            for tag in file.pages.first.tags.values()
            if tag.code in (33421, 33422, 50714, 50717)
        ]
        colours = [
            (tag.code, tag.dtype, tag.count, tag.value, True)
            for tag in file.pages.first.tags.values()
            if tag.code in (271, 272, 50706, 50708, 50721, 50728, 50778)
        ]
    made = io.BytesIO()
    with tifffile.TiffWriter(made) as writer:
        thumbnail = np.full((12, 16, 3), 255, np.uint8)
        writer.write(thumbnail, photometric="rgb", subifds=1, subfiletype=1, extratags=colours, metadata=None)
        writer.write(mosaic(light), photometric="cfa", extratags=tags, metadata=None)
    image = decode(made.getvalue(), 512)
    assert (image.width, image.height) == (64, 48)
    np.testing.assert_allclose(image.pixels[4::8, 4::8], chart_colours()[4::8, 4::8], atol=2 * LEVEL)


def tiff_with(make: bytes, *tags: tuple[int, int, int]) -> bytes:
    """Return a TIFF of one small grey picture by a camera, with a sub-directory of (tag, type, value)."""
    below = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags
    )
    first = [(256, 4, 8), (257, 4, 8), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 400), (277, 3, 1), (278, 4, 8)]
    first += [(279, 4, 64), (330, 4, 300)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in first)
    head = b"II*\0" + struct.pack("<IH", 8, len(first)) + entries + bytes(4) + make
    return head.ljust(300, b"\0") + (below + bytes(4)).ljust(100, b"\0") + bytes(64)


RAW_HEADS = {
    "RAF": b"FUJIFILMCCD-RAW 0201FF",
    "ORF": b"IIRO\x08\0\0\0",
    "RW2": b"IIU\0\x18\0\0\0",
    "CR2": b"II*\0\x10\0\0\0CR\2\0" + bytes(40),
    "CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "CRW": b"II\x1a\0\0\0HEAPCCDR",
    "MRW": b"\0MRM\0\0\1\0",
    "X3F": b"FOVb\1\0\2\0",
    "camera raw in a TIFF": tiff_with(b"NIKON CORPORATION", (259, 3, 34713), (262, 3, 32803)),
}


@pytest.mark.parametrize("kind", RAW_HEADS)
def test_a_raw_file_is_known_by_its_content(kind: str) -> None:
    assert raw.kind_of(RAW_HEADS[kind]) == kind
    assert rejection_of(RAW_HEADS[kind] + bytes(500)).reason in (Reason.UNSUPPORTED, Reason.TRUNCATED)


def test_a_tiff_that_a_camera_has_written_is_no_raw_file() -> None:
    assert raw.kind_of(tiff_with(b"NIKON CORPORATION", (259, 3, 1), (262, 3, 2))) is None
    assert raw.kind_of(tiff(noise(RGB, 8), photometric="rgb", metadata=None)) is None


def test_without_the_extra_a_raw_file_is_a_reject_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "rawpy":
            raise ModuleNotFoundError("No module named 'rawpy'", name="rawpy")
        return real(name, *rest)

    data = dng(mosaic(np.full((64, 96, 3), 0.5)))
    monkeypatch.setattr(builtins, "__import__", without)
    rejection = rejection_of(data)
    assert rejection.reason == Reason.UNSUPPORTED
    assert rejection.message == "the file is DNG; camera raw is read after `pip install 'kt-batch[raw]'`"


# ---- rejects


def inverted_profile() -> bytes:
    return b"\0" * 16 + b"Lab " + b"\0" * 108


UNSUPPORTED: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "Lab in JPEG 2000": (lambda: jp2(noise(RGB, 8), 8, enumerated(14)), "colours of Lab (number 14)"),
    "a Lab profile in JPEG 2000": (
        lambda: jp2(noise(RGB, 8), 8, jp2_profile(inverted_profile())),
        "3 components for 0",
    ),
    "six components": (lambda: jp2(noise((12, 20, 6), 8), 8, enumerated(16)), "6 components for 3 channels"),
    "the curve of digital cinema": (lambda: jxl_with(noise(RGB, 8), 8, JxlColours(transfer=17)), "not converted"),
    "logarithmic HEIC": (lambda: heic(noise(RGB, 8), 8, nclx(1, 9, 0)), "nclx"),
    "PQ of unknown primaries": (lambda: avif(noise(RGB, 10), 10, nclx(2, 16, 0)), "high dynamic range"),
    "H.264 in HEIF": (
        lambda: heif([Item(b"avc1", b"x", [size_box(8, 8)])]),
        "the picture is coded as 'avc1'; allowed are HEVC (hvc1) and AV1 (av01)",
    ),
    "a sequence alone": (
        lambda: box(b"ftyp", b"msf1\0\0\0\0hevcmsf1") + box(b"moov", bytes(40)),
        "a video or a sequence, and no still picture",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_read_is_rejected_with_the_reason(name: str) -> None:
    made, text = UNSUPPORTED[name]
    rejection = rejection_of(made())
    assert rejection.reason == Reason.UNSUPPORTED
    assert text in rejection.message


FOREIGN = {
    "a PDF document": b"%PDF-1.7\n" + bytes(50),
    "an SVG drawing": b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
    "a web page": b"<!DOCTYPE html><html></html>",
    "a Photoshop document (PSD)": b"8BPS\0\1" + bytes(50),
    "an OpenEXR image": b"\x76\x2f\x31\x01" + bytes(50),
    "a video (MP4 or QuickTime)": b"\0\0\0\x18ftypisom\0\0\2\0isommp41" + bytes(50),
    "a video": b"RIFF\0\1\0\0AVI LIST" + bytes(50),
    "a ZIP archive": b"PK\3\4" + bytes(50),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_is_no_picture_is_called_what_it_is(kind: str) -> None:
    rejection = rejection_of(FOREIGN[kind])
    assert rejection.reason == Reason.NOT_AN_IMAGE
    assert rejection.message == (
        f"the file is {kind}; allowed are JPEG, PNG, TIFF, WEBP, GIF, BMP, PPM, HEIC, AVIF, JPEG XL, JPEG 2000, "
        "camera raw"
    )


# ---- the corpus


def verdict_of(read: Callable[[bytes, int], WorkingImage], data: bytes) -> str:
    try:
        read(data, 64)
    except RejectError as error:
        return error.reason
    return "good"


def test_every_whole_cut_false_and_inflating_file_meets_its_verdict_in_the_child_too() -> None:
    made = {name: (content, verdict) for name, verdict, _, content in codecs()}
    assert len(made) > 100
    with ImageReaderProcess() as reader:
        first = reader.decode(heic(corners()), 64), reader.pid
        met = {name: verdict_of(reader.decode, content) for name, (content, _) in made.items()}
        assert reader.pid == first[1]  # no file has ended the process
    assert met == {name: verdict for name, (_, verdict) in made.items()}
