"""The colour space of outputs: what they say, and that it is true."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from kt_batch.config import MethodConfig
from kt_batch.errors import UsageError
from kt_batch.store.images.conversion import OUTPUT_PROFILES
from kt_batch.store.images.files import decode, encode
from kt_batch.store.images.lcms import Floats
from kt_batch.store.images.rasters import read_raster
from tests.support.charts import CHARTS, chart_colours

FORMATS = ["png", "jpg", "webp"]


def chart() -> Floats:
    return chart_colours().astype(np.float32)


def middles(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the pixel in the middle of each patch, where WebP has not mixed the colours of two."""
    return pixels[4::8, 4::8]


def atol(kind: str) -> float:
    """Return what 8 bits, and the loss of a format, may change."""
    return {"png": 2.0, "jpg": 5.0, "webp": 16.0}[kind] / 255


@pytest.mark.parametrize("kind", FORMATS)
def test_srgb_is_named_and_changes_no_pixel(kind: str) -> None:
    data, untagged = encode(chart(), kind, 100, "srgb"), encode(chart(), kind, 100)
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(data))), np.asarray(Image.open(io.BytesIO(untagged)))
    )
    np.testing.assert_array_equal(decode(data, 64).pixels, decode(untagged, 64).pixels)
    said = "the chunk sRGB" if kind == "png" else "the ICC profile"
    assert read_raster(data, 64).space.source == said
    assert len(data) - len(untagged) < 700


@pytest.mark.parametrize("kind", FORMATS)
def test_p3_holds_other_numbers_for_the_same_colours(kind: str) -> None:
    data = encode(chart(), kind, 100, "p3")
    np.testing.assert_allclose(middles(decode(data, 64).pixels), middles(chart()), atol=atol(kind))
    with Image.open(io.BytesIO(data)) as image:
        stored = np.asarray(image) / 255
        assert image.info["icc_profile"] == OUTPUT_PROFILES["p3"]
    expected = CHARTS["Display P3"].from_srgb(chart_colours())
    np.testing.assert_allclose(middles(stored), middles(expected), atol=atol(kind))


def test_without_a_space_an_output_names_none() -> None:
    for kind in FORMATS:
        with Image.open(io.BytesIO(encode(chart(), kind, 95))) as image:
            assert not {"icc_profile", "srgb", "gamma", "chromaticity"} & set(image.info)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("space", ["srgb", "p3"])
def test_equal_pixels_give_equal_bytes(kind: str, space: str) -> None:
    assert encode(chart(), kind, 90, space) == encode(chart(), kind, 90, space)


@pytest.mark.parametrize(("space", "name"), [("srgb", "sRGB"), ("p3", "Display P3")])
def test_another_colour_engine_reads_the_profile(space: str, name: str) -> None:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(OUTPUT_PROFILES[space])).profile
    assert profile.profile_description == name
    assert (profile.xcolor_space, profile.connection_space, profile.version) == ("RGB ", "XYZ ", 4.3)
    colorants = CHARTS["sRGB" if space == "srgb" else "Display P3"].colorants
    assert colorants is not None
    assert profile.red_colorant is not None
    np.testing.assert_allclose(profile.red_colorant[0], colorants[:, 0], atol=5e-4)
    assert len(OUTPUT_PROFILES[space]) < 600


def test_values_out_of_range_are_clipped_in_every_space() -> None:
    beyond = np.array([[[-1.0, 0.5, 2.0]]], np.float32)
    for space in ("srgb", "p3"):
        np.testing.assert_allclose(decode(encode(beyond, "png", 95, space), 8).pixels[0, 0], [0, 0.5, 1], atol=0.01)


def test_an_unknown_space_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot write images in the space 'cmyk'; allowed are srgb, p3"):
        encode(chart(), "png", 95, "cmyk")


def test_the_digest_of_a_configuration_without_the_option_is_as_before() -> None:
    plain = MethodConfig(method="any")
    assert plain.digest() == MethodConfig(method="any", output_space=None).digest()
    digests = {MethodConfig(method="any", output_space=space).digest() for space in ("srgb", "p3", None)}
    assert len(digests) == 3
