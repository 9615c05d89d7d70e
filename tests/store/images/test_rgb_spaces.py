"""What an edit sees of a photograph in any space, and that it comes back."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kt_batch.errors import RejectError
from kt_batch.store.images import lcms
from kt_batch.store.images.conversion import OUTPUT_PROFILES
from kt_batch.store.images.icc import curve, matrix_profile
from kt_batch.store.images.matrix_space import MatrixSpace, matrix_space
from kt_batch.store.images.own_space import OwnSpace
from kt_batch.store.images.rgb_spaces import RgbSpace, RgbSpaces, SrgbSpace, TableSpace
from kt_batch.store.images.spaces import CURVES_BY_CODE, SRGB_CURVE, Curve
from kt_batch.store.images.writers import to_eight_bits
from tests.support.charts import CHARTS, Chart, Values, chart_colours, srgb_to_light, table_profile

SPACES: dict[str, Curve] = {
    "Adobe RGB": (563 / 256,),
    "ProPhoto RGB": (1.8,),
    "Display P3": SRGB_CURVE,
    "Rec. 2020": CURVES_BY_CODE[1],
    "linear sRGB": (1.0,),
}


def profile_of(name: str) -> bytes:
    colorants = CHARTS[name].colorants
    assert colorants is not None
    return matrix_profile(name, colorants, SPACES[name])


def back(space: RgbSpace, colours: NDArray[np.float32], dtype: Any) -> Any:
    return np.floor(space.from_srgb(colours) * np.iinfo(dtype).max + 0.5).astype(np.int64)


def all_kinds_of(dtype: Any) -> NDArray[Any]:
    """Return greys of every value, single and mixed channels, and noise."""
    most = np.iinfo(dtype).max
    ramp = np.arange(most + 1, dtype=dtype)
    nothing, full = np.zeros_like(ramp), np.full_like(ramp, most)
    rows = [(ramp, ramp, ramp), (ramp, nothing, nothing), (nothing, ramp, full), (full, full, ramp)]
    noise = np.random.default_rng(0).integers(0, most, (4, most + 1, 3), dtype=dtype, endpoint=True)
    return np.concatenate([np.stack([np.stack(row, axis=-1) for row in rows]), noise])


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(("dtype", "most"), [(np.uint8, 0), (np.uint16, 64)])
def test_every_sample_of_a_space_comes_back(name: str, dtype: Any, most: int) -> None:
    """Of 16 bits, a quarter of a level of 8 bits may change: a dark channel beside a bright one, in float32."""
    space = matrix_space(profile_of(name))
    assert space is not None
    samples = all_kinds_of(dtype)
    assert np.abs(back(space, space.to_srgb(samples), dtype) - samples).max() <= most


@pytest.mark.parametrize("name", SPACES)
def test_a_space_whose_curve_is_a_table_comes_back_at_eight_bits(name: str) -> None:
    space = matrix_space(CHARTS[name].profile())
    assert space is not None
    samples = all_kinds_of(np.uint8)
    assert np.abs(back(space, space.to_srgb(samples), np.uint8) - samples).max() <= 1


@pytest.mark.parametrize("name", SPACES)
def test_colours_inside_srgb_are_those_of_the_colour_engine(name: str) -> None:
    space = matrix_space(profile_of(name))
    assert space is not None
    values = np.round(CHARTS[name].from_srgb(chart_colours()) * 65535).astype(np.uint16)
    seen = space.to_srgb(values)
    np.testing.assert_allclose(seen, chart_colours(), atol=0.5 / 255)
    np.testing.assert_allclose(
        seen, lcms.convert((values / 65535).astype(np.float32), profile_of(name)), atol=0.5 / 255
    )


def test_the_green_of_adobe_rgb_is_seen_with_less_than_no_red() -> None:
    """Its light in sRGB is (-0.3984, 1, -0.0429). The curve makes -(1.055 * 0.3984 ** (1 / 2.4) - 0.055) of red."""
    space = matrix_space(profile_of("Adobe RGB"))
    assert space is not None
    seen = space.to_srgb(np.array([[[0, 255, 0]]], np.uint8))
    np.testing.assert_allclose(seen[0, 0], [-0.6642, 1.0, -0.2294], atol=2e-3)


def test_values_beyond_the_space_end_at_its_border_and_nan_is_black() -> None:
    for space in (SrgbSpace(), matrix_space(profile_of("ProPhoto RGB"))):
        assert space is not None
        colours = np.array([[[9.0, 9.0, 9.0], [-1.0, -1.0, -1.0]]], np.float32)
        np.testing.assert_array_equal(space.from_srgb(colours), [[[1, 1, 1], [0, 0, 0]]])
    deep = matrix_space(profile_of("ProPhoto RGB"))
    assert deep is not None
    assert deep.from_srgb(np.full((1, 1, 3), np.nan, np.float32)).tolist() == [[[0, 0, 0]]]


def test_srgb_is_only_scaled() -> None:
    samples = all_kinds_of(np.uint8)
    np.testing.assert_array_equal(SrgbSpace().to_srgb(samples), samples * np.float32(1 / 255))


@pytest.mark.parametrize("name", SPACES)
def test_every_grey_of_sixteen_bits_comes_back_within_two_levels(name: str) -> None:
    space = matrix_space(profile_of(name))
    assert space is not None
    greys = all_kinds_of(np.uint16)[:1]
    assert np.abs(back(space, space.to_srgb(greys), np.uint16) - greys).max() <= 2


# ---- curves ----------------------------------------------------------------------------------------------------------


def parameters(kind: int, *numbers: float) -> bytes:
    return (
        b"para\0\0\0\0"
        + struct.pack(">Hxx", kind)
        + struct.pack(f">{len(numbers)}i", *(round(65536 * n) for n in numbers))
    )


def table(*values: int) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(f">I{len(values)}H", len(values), *values)


@pytest.mark.parametrize(
    ("tag", "function"),
    [
        (table(), lambda x: x),
        (table(512), lambda x: x**2),
        (table(0, 65535), lambda x: x),
        (table(0, 0, 65535), lambda x: np.maximum(2 * x - 1, 0)),
        (parameters(0, 3), lambda x: x**3),
        (parameters(1, 2, 2, -1), lambda x: np.maximum(2 * x - 1, 0) ** 2),
        (parameters(2, 2, 0.5, 0, 0.5), lambda x: 0.25 * x**2 + 0.5),
        (parameters(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045), srgb_to_light),
        (
            parameters(4, 2, 0.5, 0, 0.25, 0.5, 0.25, 0.125),
            lambda x: np.where(x < 0.5, 0.25 * x + 0.125, 0.25 * x**2 + 0.25),
        ),
    ],
)  # fmt: skip
def test_every_kind_of_curve_is_evaluated(tag: bytes, function: Callable[[Values], Values]) -> None:
    places = np.linspace(0, 1, 33)
    values = curve(tag, places)
    assert values is not None
    np.testing.assert_allclose(values, function(places), atol=1e-4)


@given(st.binary(max_size=40), st.sampled_from([b"curv\0\0\0\0", b"para\0\0\0\0", b""]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_curve_or_none(tail: bytes, kind: bytes) -> None:
    values = curve(kind + tail, np.linspace(0, 1, 5))
    assert values is None or values.shape == (5,)


@pytest.mark.parametrize(
    "what",
    ["falling curve", "constant curve", "primaries on a line", "no curve", "grey", "tables", "cut", "empty"],
)
def test_what_is_no_space_of_primaries_and_rising_curves_is_left_to_the_colour_engine(what: str) -> None:
    whole = profile_of("Adobe RGB")
    chart = CHARTS["Adobe RGB"]
    assert chart.colorants is not None
    profiles: dict[str, Callable[[], bytes]] = {
        "falling curve": lambda: Chart(chart.colorants, lambda x: 1 - x).profile(),
        "constant curve": lambda: Chart(chart.colorants, lambda x: 0 * x).profile(),
        "primaries on a line": lambda: matrix_profile("line", np.ones((3, 3)), (1.0,)),
        "no curve": lambda: whole.replace(b"gTRC", b"none"),
        "grey": CHARTS["linear grey"].profile,
        "tables": lambda: table_profile(chart),
        "cut": lambda: whole[:200],
        "empty": lambda: b"",
    }
    assert matrix_space(profiles[what]()) is None


@given(st.integers(0, 600), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_a_damaged_profile_gives_a_space_with_finite_values_or_none(place: int, value: int) -> None:
    profile = bytearray(profile_of("Adobe RGB"))
    profile[place % len(profile)] = value
    space = matrix_space.__wrapped__(bytes(profile))
    if space is not None:
        seen = space.to_srgb(np.array([[[0, 128, 255]]], np.uint8))
        assert np.isfinite(seen).all()
        assert np.isfinite(space.from_srgb(seen)).all()


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_tables_are_converted_in_the_readers_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def converts(*_: Any, **__: Any) -> None:
        raise AssertionError("an untrusted profile was converted in this process")

    chart = CHARTS["Adobe RGB"]
    space = RgbSpaces().own(OwnSpace(table_profile(chart), is_srgb=False))
    assert isinstance(space, TableSpace)
    values = chart.from_srgb(chart_colours())
    monkeypatch.setattr(imagecodecs, "cms_transform", converts)
    for dtype, most in ((np.uint8, 1), (np.uint16, 300)):
        samples: NDArray[Any] = np.round(values * np.iinfo(dtype).max).astype(dtype)
        seen = space.to_srgb(samples)
        np.testing.assert_allclose(seen, chart_colours(), atol=2.5 / 255)
        assert np.abs(back(space, seen, dtype) - samples).max() <= most


def test_a_broken_profile_costs_a_reject_and_the_reader_goes_on() -> None:
    spaces = RgbSpaces()
    broken = spaces.own(OwnSpace(b"no profile", is_srgb=False))
    with pytest.raises(RejectError, match="its colour profile does not convert"):
        broken.to_srgb(np.zeros((2, 2, 3), np.uint8))
    good = spaces.own(OwnSpace(table_profile(CHARTS["Adobe RGB"]), is_srgb=False))
    assert good.to_srgb(np.full((2, 2, 3), 255, np.uint8)).min() > 0.98


# ---- outputs ---------------------------------------------------------------------------------------------------------


def test_the_space_of_an_output_is_the_one_that_is_wanted() -> None:
    spaces, adobe = RgbSpaces(), OwnSpace(profile_of("Adobe RGB"), is_srgb=False)
    assert spaces.for_output("input", adobe).profile == adobe.profile
    assert spaces.for_output("srgb", adobe).profile == OUTPUT_PROFILES["srgb"]
    assert spaces.for_output("p3", adobe).profile == OUTPUT_PROFILES["p3"]
    assert spaces.for_output("input", OwnSpace(b"called anything", is_srgb=True)).profile == b"called anything"


@pytest.mark.parametrize(
    "own",
    [None, OwnSpace(table_profile(CHARTS["Adobe RGB"], both_ways=False), is_srgb=False)],
    ids=["no profile can say it", "the profile converts in one direction alone"],
)
def test_an_output_is_srgb_where_nothing_can_be_written_in_the_space_of_the_input(own: OwnSpace | None) -> None:
    assert isinstance(RgbSpaces().for_output("input", own), SrgbSpace)


def test_eight_bits_of_an_output_are_the_nearest_ones() -> None:
    space = MatrixSpace(b"", [np.linspace(0, 1, 2**16)] * 3, np.eye(3))
    deep = all_kinds_of(np.uint16)[:1]
    np.testing.assert_array_equal(back(space, space.to_srgb(deep), np.uint8), to_eight_bits(deep))
