"""Real photographs and paintings, if available: a profile that says sRGB changes nothing."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kt_batch.store.images.colour import SRGB
from kt_batch.store.images.files import decode
from kt_batch.store.images.rasters import read_raster

ROOT = Path(__file__).parents[3]
PLACES = [folder / "shared" / "data" / "images" for folder in ROOT.parents]
DATA = next((place for place in PLACES if place.is_dir()), PLACES[0])

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the research images are not at {DATA}")


def images() -> list[Path]:
    """Return some images of every folder, and all that carry a profile."""
    found = sorted(path for path in DATA.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    some = {path for number, path in enumerate(found) if number % 25 == 0}
    return [path for path in found if path in some or profile_of(path)]


def profile_of(path: Path) -> bytes | None:
    with Image.open(path) as image:
        profile: bytes | None = image.info.get("icc_profile")
        return profile


def without_profile(data: bytes) -> bytes:
    """Return a JPEG without its ICC segments."""
    kept, at = [data[:2]], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        if data[at + 1] != 0xE2 or data[at + 4 : at + 15] != b"ICC_PROFILE":
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def test_every_image_is_read_as_the_srgb_that_it_is() -> None:
    paths = images()
    assert len(paths) > 40
    for path in paths:
        data = path.read_bytes()
        space = read_raster(data, 128).space
        assert dataclasses.replace(space, source=SRGB.source) == SRGB, path
        if path.suffix.lower() != ".png":
            np.testing.assert_array_equal(decode(data, 128).pixels, decode(without_profile(data), 128).pixels)
