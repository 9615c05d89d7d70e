"""The colour space of an input: what a file says, in which order it counts, and what is made of it."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images import icc, spaces
from kt_batch.store.images.files import decode
from kt_batch.store.images.lcms import Floats
from kt_batch.store.images.rasters import read_raster
from tests.support import charts
from tests.support.charts import CHARTS, Chart, Values, chart_colours, gamma, iccp, in_bits, srgb_to_light
from tests.support.hostile import chunk, cmyk_profile, deep_png, exif, picture, png, saved, tiff

LEVEL = 1 / 255


def pixels_of(data: bytes) -> Floats:
    return decode(data, 512).pixels


def source_of(data: bytes) -> str:
    return read_raster(data, 512).space.source


def is_read_as_srgb(data: bytes) -> bool:
    return read_raster(data, 512).space.profile is None


# ---- a chart in twelve spaces and seven formats: these eleven, and ink below


COMBINATIONS = [
    (space, kind)
    for space, chart in CHARTS.items()
    for kind in charts.FORMATS
    if chart.colorants is not None or kind not in ("WebP", "BMP")  # these two have no grey
]


@pytest.mark.parametrize(("space", "kind"), COMBINATIONS)
def test_a_chart_comes_back_from_every_space_and_format_within_two_levels(space: str, kind: str) -> None:
    chart = CHARTS[space]
    values = chart.from_srgb(chart_colours())
    data = charts.FORMATS[kind](values, chart.profile())
    steps = 2.0 ** (16 if "16" in kind else 8) - 1
    stored = charts.stored_values(data) if kind == "JPEG" else np.round(values * steps) / steps
    np.testing.assert_allclose(pixels_of(data), chart.to_srgb(stored), atol=2 * LEVEL, rtol=0)


@pytest.mark.parametrize("space", [space for space, chart in CHARTS.items() if chart.colorants is not None])
def test_16_bits_give_back_the_very_colours_of_the_chart(space: str) -> None:
    values = CHARTS[space].from_srgb(chart_colours())
    data = charts.as_png16(values, CHARTS[space].profile())
    np.testing.assert_allclose(pixels_of(data), chart_colours(), atol=LEVEL, rtol=0)


@pytest.mark.parametrize("space", CHARTS)
def test_little_cms_in_pillow_agrees(space: str) -> None:
    chart = CHARTS[space]
    data = charts.as_png8(chart.from_srgb(chart_colours()), chart.profile())
    expected = by_pillow(Image.open(io.BytesIO(data)), chart.profile())
    np.testing.assert_allclose(pixels_of(data), expected, atol=2 * LEVEL, rtol=0)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF of 8 bits", "TIFF of 16 bits"])
def test_ink_is_read_through_its_profile_as_little_cms_does(kind: str) -> None:
    ink = np.concatenate([1 - chart_colours(), np.zeros((48, 64, 1))], axis=2)
    data = saved(
        Image.fromarray(in_bits(ink, 8), "CMYK"), "JPEG", quality=100, subsampling=0, icc_profile=cmyk_profile()
    )
    if kind != "JPEG":
        data = charts.FORMATS[kind](ink, cmyk_profile())
    stored = Image.open(io.BytesIO(data)) if kind == "JPEG" else Image.fromarray(in_bits(ink, 8), "CMYK")
    np.testing.assert_allclose(pixels_of(data), by_pillow(stored, cmyk_profile()), atol=2 * LEVEL, rtol=0)


def by_pillow(image: Image.Image, profile: bytes) -> Values:
    converted = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        outputMode="RGB",
        flags=ImageCms.Flags.NOOPTIMIZE,
    )
    assert converted is not None
    return np.asarray(converted) / 255.0


# ---- the same chart, described by chunks of a PNG or by EXIF


def cicp(primaries: int, transfer: int, matrix: int = 0, full: int = 1) -> bytes:
    return chunk(b"cICP", bytes((primaries, transfer, matrix, full)))


def gama(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100000)))


def chrm(*xy: float) -> bytes:
    """Return the chunk for red, green, blue and white, in this order."""
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100000) for value in (*xy[6:], *xy[:6]))))


ADOBE = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, 0.3127, 0.3290)
PROPHOTO = (0.734699, 0.265301, 0.159597, 0.840403, 0.036598, 0.000105, 0.345704, 0.358540)


@pytest.mark.parametrize(
    ("space", "chunks"),
    [
        ("sRGB", [cicp(1, 13)]),
        ("Display P3", [cicp(12, 13)]),
        ("Rec. 709", [cicp(1, 1)]),
        ("Rec. 709", [cicp(1, 6)]),
        ("Rec. 2020", [cicp(9, 14)]),
        ("Rec. 2020", [cicp(9, 15)]),
        ("linear sRGB", [cicp(1, 8)]),
        ("gamma 2.2", [cicp(1, 4)]),
        ("linear sRGB", [gama(1)]),
        ("gamma 1.8", [gama(1 / 1.8)]),
        ("gamma 1.8", [gama(1 / 1.8), chrm(*spaces.SRGB_PRIMARIES)]),
        ("Adobe RGB", [gama(256 / 563), chrm(*ADOBE)]),
        ("ProPhoto RGB", [gama(1 / 1.8), chrm(*PROPHOTO)]),
        ("Display P3", [chrm(*spaces.P3_PRIMARIES)]),  # without gAMA the curve of sRGB is meant
        ("sRGB", [gama(1 / 2.2)]),  # how gAMA says sRGB
        ("sRGB", [gama(1 / 2.2), chrm(*spaces.SRGB_PRIMARIES)]),
        ("sRGB", [chunk(b"sRGB", b"\0")]),
        ("linear grey", [cicp(9, 8)]),
        ("linear grey", [gama(1), chrm(*ADOBE)]),
        ("grey of gamma 2.2", [cicp(1, 4)]),
    ],
)
@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_is_read_as_its_chunks_say(space: str, chunks: list[bytes], bits: int) -> None:
    chart = CHARTS[space]
    samples = in_bits(chart.from_srgb(chart_colours()), bits)
    expected = chart.to_srgb((samples / (2.0**bits - 1)).reshape(48, 64, -1))
    np.testing.assert_allclose(pixels_of(described(samples, *chunks)), expected, atol=2 * LEVEL, rtol=0)


def described(samples: NDArray[Any], *chunks: bytes) -> bytes:
    if samples.dtype == np.uint16:
        return deep_png(samples.astype(np.uint16), *chunks)
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    return png(width, height, 8, 0 if samples.ndim == 2 else 2, rows, *chunks)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_narrow_range_of_video_is_stretched(bits: int) -> None:
    step = 1 if bits == 8 else 256
    samples = np.array([[[0] * 3, [16] * 3, [126] * 3, [235] * 3, [255] * 3]], np.uint16) * step
    data = described(samples.astype(np.uint8 if bits == 8 else np.uint16), cicp(1, 13, 0, 0))
    # (126 - 16) / (235 - 16) = 0.5023; below black and above white nothing is left.
    np.testing.assert_allclose(pixels_of(data)[0, :, 1], [0, 0, 0.5023, 1, 1], atol=1e-3)


def dcf(index: str | None, colour_space: int | None = 0xFFFF) -> bytes:
    """Return EXIF with a colour space and an interoperability index."""
    tags = Image.Exif()
    tags[0x0112] = 1
    directory = tags.get_ifd(0x8769)
    directory[0x9000] = b"0232"
    if colour_space is not None:
        directory[0xA001] = colour_space
    if index is not None:
        directory[0xA005] = {1: index, 2: b"0100"}
    return tags.tobytes()


ADOBE_CHART = CHARTS["Adobe RGB"]


def adobe_samples() -> NDArray[np.uint8]:
    return in_bits(ADOBE_CHART.from_srgb(chart_colours()), 8).astype(np.uint8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_adobe_rgb_is_known_by_exif_alone(kind: str) -> None:
    options: dict[str, Any] = {"quality": 100, "subsampling": 0, "lossless": True}  # each format takes its own
    data = saved(Image.fromarray(adobe_samples()), kind, exif=dcf("R03"), **options)
    with Image.open(io.BytesIO(data)) as image:
        stored = np.asarray(image) / 255
    np.testing.assert_allclose(pixels_of(data), ADOBE_CHART.to_srgb(stored), atol=2 * LEVEL, rtol=0)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_adobe_rgb_is_known_by_exif_in_any_depth(kind: str, bits: int) -> None:
    samples = in_bits(ADOBE_CHART.from_srgb(chart_colours()), bits)
    block = chunk(b"eXIf", dcf("R03").removeprefix(b"Exif\0\0"))
    data = described(samples, block) if kind == "PNG" else dcf_tiff(samples)
    assert source_of(data) == "the colour space of EXIF"
    np.testing.assert_allclose(pixels_of(data), ADOBE_CHART.to_srgb(samples / (2.0**bits - 1)), atol=2 * LEVEL)


def dcf_tiff(samples: NDArray[Any], index: bytes = b"R03\0") -> bytes:
    """Return a TIFF with EXIF and an interoperability index; Pillow writes the latter to a wrong place."""
    height, width = samples.shape[:2]
    bits = 8 * samples.itemsize

    def directory(*entries: tuple[int, int, int, bytes]) -> bytes:
        parts = [struct.pack("<HHI4s", tag, kind, count, value) for tag, kind, count, value in entries]
        return struct.pack("<H", len(parts)) + b"".join(parts) + bytes(4)

    def number(tag: int, value: int) -> tuple[int, int, int, bytes]:
        return tag, 4, 1, struct.pack("<I", value)

    interop = 8
    exif_at = interop + 2 + 12 + 4
    depths = exif_at + 2 + 24 + 4
    pixels = depths + 6
    first = pixels + samples.nbytes
    return b"".join(
        (
            struct.pack("<2sHI", b"II", 42, first),
            directory((1, 2, 4, index)),
            directory((0xA001, 3, 1, b"\xff\xff\0\0"), number(0xA005, interop)),
            struct.pack("<3H", bits, bits, bits),
            samples.tobytes(),
            directory(
                number(256, width),
                number(257, height),
                (258, 3, 3, struct.pack("<I", depths)),
                number(259, 1),
                number(262, 2),
                number(273, pixels),
                number(277, 3),
                number(278, height),
                number(279, samples.nbytes),
                number(34665, exif_at),
            ),
        )
    )


@pytest.mark.parametrize(
    ("block", "adobe"),
    [
        (dcf("R03"), True),
        (dcf("R03", None), True),
        (dcf(None, 2), True),  # what some cameras write
        (dcf("R98"), False),
        (dcf("R98", 1), False),
        (dcf("R03", 1), False),  # ColorSpace says sRGB
        (dcf(None), False),
        (dcf(None, 1), False),
        (dcf("R03")[:60], False),  # cut
        (exif(1), False),
    ],
)
def test_exif_says_adobe_rgb_by_the_rule_of_dcf(block: bytes, adobe: bool) -> None:
    data = saved(Image.fromarray(adobe_samples()), "WEBP", lossless=True, exif=block)
    assert (source_of(data) == "the colour space of EXIF") == adobe
    assert is_read_as_srgb(data) != adobe


# ---- precedence


GREY = np.full((2, 2, 3), 128, np.uint8)
AS_SRGB, AS_LINEAR = 0.502, 0.737  # of 128: 128 / 255, and 1.055 * 0.502 ** (1 / 2.4) - 0.055
LINEAR_ICC, SRGB_ICC = iccp(CHARTS["linear sRGB"].profile()), iccp(CHARTS["sRGB"].profile())
BROKEN_ICC, FOREIGN_ICC = iccp(b"no profile" * 20), iccp(cmyk_profile())
SRGB_CHUNK = chunk(b"sRGB", b"\1")


@pytest.mark.parametrize(
    ("chunks", "expected", "source"),
    [
        ([], AS_SRGB, "nothing"),
        ([cicp(1, 13), LINEAR_ICC], AS_SRGB, "the chunk cICP"),
        ([LINEAR_ICC, cicp(1, 13)], AS_SRGB, "the chunk cICP"),  # the order in the file does not count
        ([cicp(1, 8), SRGB_ICC, SRGB_CHUNK, gama(1 / 2.2)], AS_LINEAR, "the chunk cICP"),
        ([cicp(1, 8), gama(1 / 2.2)], AS_LINEAR, "the chunk cICP"),
        ([LINEAR_ICC, SRGB_CHUNK], AS_LINEAR, "the ICC profile"),
        ([SRGB_ICC, gama(1)], AS_SRGB, "the ICC profile"),
        ([LINEAR_ICC, gama(1 / 2.2), chrm(*ADOBE)], AS_LINEAR, "the ICC profile"),
        ([SRGB_CHUNK, gama(1), chrm(*ADOBE)], AS_SRGB, "the chunk sRGB"),
        ([gama(1), SRGB_CHUNK], AS_SRGB, "the chunk sRGB"),
        ([gama(1), chunk(b"eXIf", dcf("R03")[6:])], AS_LINEAR, "the chunks gAMA and cHRM"),
        # A statement that cannot be used gives way to the next one.
        ([cicp(2, 2), LINEAR_ICC], AS_LINEAR, "the ICC profile"),  # unspecified
        ([cicp(1, 13, 1), LINEAR_ICC], AS_LINEAR, "the ICC profile"),  # a matrix, which RGB has not
        ([cicp(1, 13, 0, 2), LINEAR_ICC], AS_LINEAR, "the ICC profile"),
        ([cicp(77, 13), LINEAR_ICC], AS_LINEAR, "the ICC profile"),  # reserved
        ([cicp(1, 99), LINEAR_ICC], AS_LINEAR, "the ICC profile"),
        ([chunk(b"cICP", b"\1\x0d"), LINEAR_ICC], AS_LINEAR, "the ICC profile"),
        ([BROKEN_ICC, gama(1)], AS_LINEAR, "the chunks gAMA and cHRM"),
        ([FOREIGN_ICC, SRGB_CHUNK, gama(1)], AS_SRGB, "the chunk sRGB"),
        ([chunk(b"sRGB", b"\x09"), gama(1)], AS_LINEAR, "the chunks gAMA and cHRM"),
        ([chunk(b"gAMA", bytes(4))], AS_SRGB, "nothing"),
        ([chunk(b"gAMA", b"\xff" * 4)], AS_SRGB, "nothing"),
        ([chrm(*[0.0] * 8)], AS_SRGB, "nothing"),
        ([chrm(0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3)], AS_SRGB, "nothing"),  # a point, no triangle
        ([chunk(b"cHRM", b"\xff" * 32)], AS_SRGB, "nothing"),
        ([chunk(b"cHRM", b"\xff" * 32), gama(1)], AS_LINEAR, "the chunks gAMA and cHRM"),
        ([chrm(0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.0)], AS_SRGB, "nothing"),
    ],
)
@pytest.mark.parametrize("bits", [8, 16])
def test_the_first_statement_that_can_be_used_decides(
    chunks: list[bytes], expected: float, source: str, bits: int
) -> None:
    data = described(GREY if bits == 8 else GREY.astype(np.uint16) * 257, *chunks)
    assert pixels_of(data)[0, 0] == pytest.approx([expected] * 3, abs=0.003)
    assert source_of(data) == source


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_a_profile_outweighs_exif(kind: str) -> None:
    image = Image.fromarray(adobe_samples())
    plain = saved(image, kind, exif=dcf(None))
    both = saved(image, kind, exif=dcf("R03"), icc_profile=CHARTS["sRGB"].profile())
    np.testing.assert_array_equal(pixels_of(both), pixels_of(plain))
    assert source_of(both) == "the ICC profile"
    broken = saved(image, kind, exif=dcf("R03"), icc_profile=b"no profile" * 20)
    assert source_of(broken) == "the colour space of EXIF"


def test_colour_chunks_behind_the_pixels_say_nothing() -> None:
    data = described(GREY)
    for late in (cicp(1, 8), LINEAR_ICC, gama(1)):
        assert pixels_of(data[:-12] + late + data[-12:])[0, 0, 0] == pytest.approx(AS_SRGB, abs=0.002)


def test_a_palette_is_read_through_the_profile() -> None:
    image = Image.fromarray(GREY).quantize(2)
    data = saved(image, "PNG", icc_profile=CHARTS["linear sRGB"].profile())
    assert pixels_of(data)[0, 0] == pytest.approx([AS_LINEAR] * 3, abs=0.003)


# ---- profiles are judged by what they do


def parametric_srgb() -> bytes:
    """Return sRGB as a profile of version 4 with the function type 4, which has two offsets more."""
    values = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045, 0.0, 0.0)
    curve = b"para\0\0\0\0\0\4\0\0" + struct.pack(">7i", *(round(value * 65536) for value in values))
    tags = {name: charts.xyz(charts.SRGB_D50[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return charts.profile("some numbers", b"RGB ", tags, version=0x04200000)


SRGB_PROFILES: Mapping[str, bytes] = {
    "version 2, 1024 points": charts.matrix_profile("monitor of 1998", charts.SRGB_D50, srgb_to_light),
    "version 2, 4096 points": charts.matrix_profile("x", charts.SRGB_D50, srgb_to_light, 4096),
    "version 2, a tiny table": charts.matrix_profile("c2", charts.SRGB_D50, srgb_to_light, 32),
    "version 4, parametric": parametric_srgb(),
    "Pillow's": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "Little CMS's": imagecodecs.cms_profile("srgb"),
    "rounded colorants": charts.matrix_profile("HP", np.round(charts.SRGB_D50, 4), srgb_to_light),
    "named after another space": charts.matrix_profile("Adobe RGB (1998)", charts.SRGB_D50, srgb_to_light),
}


@pytest.mark.parametrize("name", SRGB_PROFILES)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_srgb_under_any_name_equals_no_profile(name: str, kind: str) -> None:
    with_profile = saved(picture(), kind, icc_profile=SRGB_PROFILES[name])
    np.testing.assert_array_equal(pixels_of(with_profile), pixels_of(saved(picture(), kind)))


@pytest.mark.parametrize(
    "space", [space for space in CHARTS if space not in ("sRGB", "linear grey", "grey of gamma 2.2")]
)
def test_another_space_named_srgb_is_not_srgb(space: str) -> None:
    chart = CHARTS[space]
    data = charts.as_png16(chart.from_srgb(chart_colours()), chart.profile("sRGB IEC61966-2.1"))
    assert not is_read_as_srgb(data)
    np.testing.assert_allclose(pixels_of(data), chart_colours(), atol=LEVEL, rtol=0)


def tables_profile(**curves: Callable[[Values], Values]) -> bytes:
    """Return a profile of tables to XYZ with the primaries of sRGB and a curve for each intent, such as A2B0."""
    corners = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1).reshape(8, 3) @ charts.SRGB_D50.T
    grid = np.round(corners * 32768).astype(">u2").tobytes()
    ramp = np.linspace(0, 1, 4096)
    tags = {}
    for name, curve in curves.items():
        table = np.round(curve(ramp) * 65535).astype(">u2").tobytes()
        head = (
            b"mft2\0\0\0\0" + bytes((3, 3, 2, 0)) + struct.pack(">9iHH", *(65536 * np.eye(3, dtype=int)).flat, 4096, 2)
        )
        tags[name.encode()] = head + table * 3 + grid + struct.pack(">2H", 0, 65535) * 3
    return charts.profile("tables", b"RGB ", {b"wtpt": charts.xyz(np.array([0.9642, 1, 0.8249])), **tags})


def test_the_colorimetric_tables_of_a_profile_decide_whether_it_is_srgb() -> None:
    def read_as_srgb(profile: bytes) -> bool:
        return is_read_as_srgb(saved(picture(), "PNG", icc_profile=profile))

    assert read_as_srgb(tables_profile(A2B0=srgb_to_light))
    assert read_as_srgb(tables_profile(A2B0=gamma(1.8), A2B1=srgb_to_light))  # as sRGB v4 (preference) is made
    assert not read_as_srgb(tables_profile(A2B0=gamma(1.8)))
    assert not read_as_srgb(tables_profile(A2B0=srgb_to_light, A2B1=gamma(1.8)))


@pytest.mark.parametrize("exponent", [1.0, 1.8, 2.0, 2.2, 2.4])
def test_a_power_is_not_the_curve_of_srgb(exponent: float) -> None:
    profile = Chart(charts.SRGB_D50, gamma(exponent)).profile("sRGB")
    assert not is_read_as_srgb(saved(picture(), "PNG", icc_profile=profile))


def test_a_grey_profile_with_the_curve_of_srgb_equals_no_profile() -> None:
    grey = picture().convert("L")
    profile = Chart(None, srgb_to_light).profile("sGray")
    np.testing.assert_array_equal(pixels_of(saved(grey, "PNG", icc_profile=profile)), pixels_of(saved(grey, "PNG")))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_grey_in_an_rgb_profile_is_rgb_with_equal_channels(kind: str) -> None:
    options = {"quality": 100} if kind == "JPEG" else {}
    data = saved(Image.new("L", (8, 8), 128), kind, icc_profile=CHARTS["ProPhoto RGB"].profile(), **options)
    # ProPhoto's 128 gives 0.502 ** 1.8 = 0.289 of the light of white, which is 0.575 in sRGB.
    assert pixels_of(data)[0, 0] == pytest.approx([0.575] * 3, abs=0.003)


@pytest.mark.parametrize("kind", ["PNG of 8 bits", "PNG of 1 bit", "PNG of 16 bits"])
def test_grey_with_a_transparent_level_is_read_through_its_grey_profile(kind: str) -> None:
    icc, clear = charts.iccp(CHARTS["linear grey"].profile()), chunk(b"tRNS", b"\0\0")
    data = {
        "PNG of 8 bits": png(2, 1, 8, 0, b"\0\0\x80", icc, clear),
        "PNG of 1 bit": png(2, 1, 1, 0, b"\0\x40", icc, clear),
        "PNG of 16 bits": deep_png(np.array([[0, 0x8080]], np.uint16), icc, clear),
    }[kind]
    shown = 1.0 if kind == "PNG of 1 bit" else 0.737  # the light 0.502 is 0.737 in sRGB
    assert pixels_of(data)[0] == pytest.approx(np.array([[1.0] * 3, [shown] * 3]), abs=0.003)


def test_the_profile_of_another_file_is_not_remembered() -> None:
    for _ in range(2):
        for space in ("linear sRGB", "sRGB", "Display P3"):
            data = charts.as_png8(np.full((2, 2, 3), 128 / 255), CHARTS[space].profile())
            assert is_read_as_srgb(data) == (space == "sRGB")


@pytest.mark.parametrize("length", [0, 1, 20, 127, 128, 131, 132, 140, 200, 1000])
@pytest.mark.parametrize("space", ["linear sRGB", "sRGB"])
def test_a_cut_profile_is_ignored(space: str, length: int) -> None:
    cut = CHARTS[space].profile()[:length]
    for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        if cut or kind in ("PNG", "JPEG"):
            np.testing.assert_array_equal(
                pixels_of(saved(picture(), kind, icc_profile=cut)), pixels_of(saved(picture(), kind))
            )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (slice(12, 16), b"link"),
        (slice(12, 16), b"nmcl"),
        (slice(16, 20), b"Lab "),
        (slice(16, 20), b"XYZ "),
        (slice(16, 20), b"4CLR"),
        (slice(36, 40), b"none"),
        (slice(128, 132), b"\xff\xff\xff\xff"),  # the number of tags
        (slice(136, 140), b"\xff\xff\xff\xf0"),  # where the first one lies
    ],
)
def test_a_profile_of_another_kind_is_ignored(field: slice, value: bytes) -> None:
    profile = bytearray(CHARTS["linear sRGB"].profile())
    profile[field] = value
    data = saved(picture(), "PNG", icc_profile=bytes(profile))
    space = read_raster(data, 512).space
    if space.profile is None:
        np.testing.assert_array_equal(pixels_of(data), pixels_of(saved(picture(), "PNG")))
    else:  # Little CMS does not need the damaged field
        assert field.start >= 128


def test_a_profile_with_many_tags_over_all_of_it_costs_little_memory() -> None:
    directory = struct.pack(">I", 2**16) + b"".join(
        struct.pack(">4sII", f"{number:04}".encode(), 0, 2**23) for number in range(2000)
    )
    profile = bytes(128) + directory + bytes(2**23)
    assert sum(map(len, icc.tags_of(profile).values())) <= 2**26


@pytest.mark.parametrize("offset", [0, 124, 2**31, 2**32 - 1])
def test_a_bmp_whose_profile_lies_elsewhere_has_none(offset: int) -> None:
    data = bytearray(charts.as_bmp(np.full((2, 2, 3), 128 / 255), CHARTS["linear sRGB"].profile()))
    struct.pack_into("<I", data, 14 + 112, offset)
    assert pixels_of(bytes(data))[0, 0, 0] == pytest.approx(AS_SRGB, abs=0.002)


# ---- high dynamic range


PQ_OF_203 = 0.5807  # ITU-R BT.2408, table 1
PQ_OF_1000 = 0.7518
REC2020 = Chart(charts.REC2020_D50, gamma(1.0))


def pq(light: Values) -> Values:
    """Return the signal of light in cd/m2: SMPTE ST 2084, equation 5.2."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    root = (np.clip(light, 0, None) / 10000) ** m1
    return np.asarray(((c1 + c2 * root) / (1 + c3 * root)) ** m2)


def pq_chart() -> NDArray[np.uint16]:
    """Return the chart with white at 203 cd/m2, as ITU-R BT.2408 has it."""
    return in_bits(pq(203 * REC2020.from_srgb(chart_colours())), 16).astype(np.uint16)


def hdr_profile(curve_of: Values | None, points: tuple[int, int] | None, name: str = "sRGB") -> bytes:
    """Return a profile of Rec. 2020 with a curve, and with code points in the tag cicp."""
    table = np.linspace(0, 1, 4096) if curve_of is None else curve_of
    trc = b"curv\0\0\0\0" + struct.pack(">I", len(table)) + np.round(table * 65535).astype(">u2").tobytes()
    tags = {key: charts.xyz(charts.REC2020_D50[:, i]) for i, key in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags |= {b"wtpt": charts.xyz(np.array([0.9642, 1, 0.8249])), **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), trc)}
    if points:
        tags[b"cicp"] = b"cicp\0\0\0\0" + bytes((*points, 0, 1))
    return charts.profile(name, b"RGB ", tags, version=0x04400000)


def pq_table() -> Values:
    light = np.concatenate([[0.0], np.geomspace(1e-7, 1, 20000)])
    return np.asarray(np.interp(np.linspace(0, 1, 4096), pq(light * 10000), light))


@pytest.mark.parametrize(
    "data",
    [
        deep_png(pq_chart(), cicp(9, 16)),
        deep_png(pq_chart(), cicp(9, 16), iccp(CHARTS["sRGB"].profile())),
        deep_png(pq_chart(), iccp(hdr_profile(None, (9, 16)))),
        deep_png(pq_chart(), iccp(hdr_profile(pq_table(), None))),
        tiff(pq_chart(), photometric="rgb", iccprofile=hdr_profile(pq_table(), (9, 16))),
    ],
    ids=["cICP", "cICP over ICC", "ICC with code points", "ICC with the curve", "TIFF with both"],
)
def test_a_pq_chart_with_white_at_203_comes_back(data: bytes) -> None:
    np.testing.assert_allclose(pixels_of(data), chart_colours(), atol=2 * LEVEL, rtol=0)


def test_grey_of_a_pq_profile_has_white_at_203() -> None:
    samples = np.round(np.array([[PQ_OF_203, 0.0]]) * 65535).astype(np.uint16)
    curve = b"curv\0\0\0\0" + struct.pack(">I", 4096) + np.round(pq_table() * 65535).astype(">u2").tobytes()
    for tags in ({b"kTRC": curve}, {b"kTRC": curve, b"cicp": b"cicp\0\0\0\0" + bytes((9, 16, 0, 1))}):
        profile = charts.profile("grey", b"GRAY", {b"wtpt": charts.xyz(np.array([0.9642, 1, 0.8249])), **tags})
        np.testing.assert_allclose(pixels_of(deep_png(samples, iccp(profile)))[0, :, 0], [1, 0], atol=2e-3)


@pytest.mark.parametrize("gain", [0.0, -1.0, 100.0, 30000.0])
@pytest.mark.parametrize("transfer", [16, 18])
def test_absurd_colorants_of_high_range_give_an_image(gain: float, transfer: int) -> None:
    tags = {key: charts.xyz(gain * charts.SRGB_D50[:, i]) for i, key in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags |= {b"cicp": b"cicp\0\0\0\0" + bytes((77, transfer, 0, 1))}
    pixels = pixels_of(deep_png(pq_chart(), iccp(charts.profile("x", b"RGB ", tags))))
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_hlg_has_white_at_three_quarters() -> None:
    samples = np.round(np.array([[[0.75] * 3, [0.5] * 3, [0.0] * 3]]) * 65535).astype(np.uint16)
    pixels = pixels_of(deep_png(samples, cicp(9, 18)))
    # 0.5 is 1/12 of the light of the scene; 1000 * (1/12) ** 1.2 = 50.7 cd/m2 are 0.25 of 203, which is 0.537 in sRGB.
    np.testing.assert_allclose(pixels[0, :, 1], [1.0, 0.537, 0.0], atol=3e-3)


@pytest.mark.parametrize("system_gamma", [1.0, 1.2])
def test_hlg_in_a_profile_equals_hlg_in_a_chunk(system_gamma: float) -> None:
    signal = np.linspace(0, 1, 4096)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    expected = pixels_of(deep_png(pq_chart(), cicp(9, 18)))
    for profile in (hdr_profile(scene**system_gamma, None), hdr_profile(None, (9, 18))):
        np.testing.assert_allclose(pixels_of(deep_png(pq_chart(), iccp(profile))), expected, atol=LEVEL)


@pytest.mark.parametrize("kind", ["JPEG", "PNG of 8 bits", "WebP", "BMP", "TIFF of 8 bits"])
def test_8_bits_of_pq_are_tone_mapped_too(kind: str) -> None:
    values = pq(203 * REC2020.from_srgb(chart_colours()))
    pixels = pixels_of(charts.FORMATS[kind](values, hdr_profile(None, (9, 16))))
    greys = np.ptp(chart_colours(), axis=2) == 0  # of other colours, 8 bits keep the weak channels badly
    np.testing.assert_allclose(pixels[greys], chart_colours()[greys], atol=6 * LEVEL)


def test_highlights_are_compressed_and_keep_their_order_and_hue() -> None:
    light = np.array([0, 20, 100, 203, 400, 1000, 4000.0])
    samples = in_bits(pq(np.stack([light, light / 2, light / 4], axis=-1))[None], 16).astype(np.uint16)
    pixels = pixels_of(deep_png(samples, cicp(1, 16)))[0].astype(np.float64)
    red = pixels[:, 0]
    assert (np.diff(red) > 0).all()
    assert red[-1] == pytest.approx(1.0, abs=1e-3)  # the brightest becomes white
    assert red[1] == pytest.approx(float(charts.light_to_srgb(np.array(20 / 203))), abs=2e-3)  # the dark stay
    shares = srgb_to_light(pixels[1:]) / srgb_to_light(pixels[1:, :1])
    np.testing.assert_allclose(shares, [[1, 0.5, 0.25]] * 6, atol=5e-3)


def test_what_shines_through_a_bright_picture_is_white_and_not_the_brightest_light() -> None:
    samples = np.zeros((2, 2, 4), np.uint16)
    samples[0] = [round(PQ_OF_203 / 2 * 65535)] * 3 + [65535]
    pixels = pixels_of(deep_png(samples, cicp(9, 16)))
    alone = pixels_of(deep_png(samples[:1, :, :3], cicp(9, 16)))
    np.testing.assert_allclose(pixels[1], 1.0, atol=2e-3)
    np.testing.assert_array_equal(pixels[0], alone[0])


@pytest.mark.parametrize("transfer", [16, 18])
def test_grey_of_high_range_equals_rgb_with_equal_channels(transfer: int) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    grey = pixels_of(deep_png(ramp, cicp(9, transfer)))
    np.testing.assert_allclose(grey, pixels_of(deep_png(np.stack([ramp] * 3, -1), cicp(9, transfer))), atol=2e-3)


@pytest.mark.parametrize("points", [(1, 9), (9, 10), (10, 17), (10, 13)])
def test_code_points_that_are_not_converted_are_rejected_with_the_reason(points: tuple[int, int]) -> None:
    with pytest.raises(RejectError, match=r"the chunk cICP has primaries \d+ and transfer function \d+ of ITU-T H.273"):
        decode(deep_png(pq_chart(), cicp(*points)), 64)


@pytest.mark.parametrize("transfer", [16, 18])
@pytest.mark.parametrize("rest", [(2, 0, 1), (3, 0, 1), (9, 9, 1), (9, 0, 2)])
def test_high_range_that_is_not_fully_described_is_rejected(transfer: int, rest: tuple[int, int, int]) -> None:
    primaries, matrix, full = rest
    data = deep_png(pq_chart(), cicp(primaries, transfer, matrix, full))
    with pytest.raises(RejectError, match=f"high dynamic range by transfer function {transfer}") as caught:
        decode(data, 64)
    assert caught.value.reason == Reason.UNSUPPORTED


def test_an_ordinary_profile_with_code_points_is_read_as_ever() -> None:
    assert is_read_as_srgb(saved(picture(), "PNG", icc_profile=with_points(CHARTS["sRGB"].profile(), 1, 13)))


def with_points(profile: bytes, primaries: int, transfer: int) -> bytes:
    tags = {key: charts.xyz(charts.SRGB_D50[:, i]) for i, key in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    curve = profile[profile.index(b"curv") :][: 12 + 2 * 1024]
    tags |= {b"cicp": b"cicp\0\0\0\0" + bytes((primaries, transfer, 0, 1))}
    return charts.profile("x", b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve), version=0x04400000)


def gain_map_jpeg(base_is_bright: bool) -> bytes:
    """Return a JPEG with a gain map as its second picture, and the XMP that says so."""
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" '
        f'hdrgm:BaseRenditionIsHDR="{base_is_bright}" hdrgm:GainMapMax="2.3"/></rdf:RDF></x:xmpmeta>'
    )
    return saved(picture(), "MPO", save_all=True, append_images=[picture(12, 8).convert("L")], xmp=xmp.encode())


def test_of_a_picture_with_a_gain_map_the_standard_picture_is_read() -> None:
    np.testing.assert_array_equal(pixels_of(gain_map_jpeg(False)), pixels_of(saved(picture(), "JPEG")))


def test_a_gain_map_whose_main_picture_is_the_bright_one_is_rejected() -> None:
    with pytest.raises(RejectError, match="the main picture has high dynamic range") as caught:
        decode(gain_map_jpeg(True), 64)
    assert caught.value.reason == Reason.UNSUPPORTED


def xmp_of_gain_map(base_is_bright: bool) -> bytes:
    content = b"http://ns.adobe.com/xap/1.0/\0<hdrgm:BaseRenditionIsHDR>%s</hdrgm:BaseRenditionIsHDR>"
    return app(1, content % str(base_is_bright).encode())


def iso_gain_map(base: tuple[int, int], other: tuple[int, int]) -> bytes:
    """Return the segment of ISO 21496-1 with two headrooms as fractions, and one channel of zeros."""
    content = b"urn:iso:std:iso:ts:21496:-1\0" + struct.pack(">HHB4I40x", 0, 0, 0x40, *base, *other)
    return app(2, content)


def iso_gain_map_of_a_draft(base: int, other: int) -> bytes:
    """Return the same segment with one denominator for all numbers."""
    return app(2, b"urn:iso:std:iso:ts:21496:-1\0" + struct.pack(">HHB3I20x", 0, 0, 0x48, 100, base, other))


def app(number: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, 0xE0 + number, 2 + len(content)) + content


MAIN = app(2, b"urn:iso:std:iso:ts:21496:-1\0" + bytes(4))  # what ISO 21496-1 puts into the main picture


@pytest.mark.parametrize(
    ("of_the_map", "bright"),
    [
        (xmp_of_gain_map(True), True),
        (xmp_of_gain_map(False), False),
        (iso_gain_map((0, 1), (23, 10)), False),
        (iso_gain_map((23, 10), (0, 1)), True),
        (iso_gain_map((1, 2), (2, 5)), True),
        (iso_gain_map_of_a_draft(0, 230), False),
        (iso_gain_map_of_a_draft(230, 0), True),
        (b"", False),
    ],
)
def test_the_map_itself_says_which_picture_is_the_bright_one(of_the_map: bytes, bright: bool) -> None:
    main, small = saved(picture(), "JPEG"), saved(picture(12, 8).convert("L"), "JPEG")
    data = main[:2] + MAIN + main[2:] + small[:2] + of_the_map + small[2:]
    if bright:
        with pytest.raises(RejectError, match="the main picture has high dynamic range"):
            decode(data, 64)
    else:
        np.testing.assert_array_equal(pixels_of(data), pixels_of(main))


def test_xmp_of_a_gain_map_counts_in_other_formats() -> None:
    with pytest.raises(RejectError, match="the main picture has high dynamic range"):
        decode(saved(picture(), "WEBP", xmp=b'<x hdrgm:BaseRenditionIsHDR="True"/>'), 64)


# ---- the numbers of the spaces


@pytest.mark.parametrize(
    ("primaries", "published"),
    [
        (spaces.SRGB_PRIMARIES, charts.SRGB_D50),
        (spaces.P3_PRIMARIES, charts.P3_D50),
        (spaces.ADOBE_PRIMARIES, charts.ADOBE_D50),
        (PROPHOTO, charts.PROPHOTO_D50),
        (spaces.PRIMARIES_BY_CODE[9], charts.REC2020_D50),
    ],
)
def test_colorants_are_those_that_are_published(primaries: tuple[float, ...], published: Values) -> None:
    np.testing.assert_allclose(spaces.colorants(primaries), published, atol=5e-4)


def test_the_curve_of_bt709_has_its_corner_at_0_081() -> None:
    profile = spaces.profile_of("x", spaces.SRGB_PRIMARIES, spaces.CURVES_BY_CODE[1], 3)
    values = np.linspace(0, 1, 500).repeat(3).reshape(1, 500, 3)
    data = deep_png(in_bits(values, 16).astype(np.uint16), iccp(profile))
    np.testing.assert_allclose(pixels_of(data), CHARTS["Rec. 709"].to_srgb(values), atol=LEVEL / 2)
