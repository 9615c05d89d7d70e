"""Edits are applied to photographs at their full size and depth, and outputs carry the photographs' metadata."""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kt_batch.config import Layer, MethodConfig, RunOptions
from kt_batch.errors import UsageError
from kt_batch.maintenance.verify import verify
from kt_batch.methods.base import Need, Resources, Result, SourceProvenance
from kt_batch.methods.table import METHODS
from kt_batch.pipelines.inputs import read_image
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import TranslateSummary, translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.report.explain import explain
from kt_batch.runners.local import LocalRunner
from kt_batch.store import inputs
from kt_batch.store.images.conversion import OUTPUT_PROFILES
from kt_batch.store.images.files import decode, image_id
from kt_batch.store.images.icc import grey_profile
from kt_batch.store.images.metadata.read import blocks_of
from kt_batch.store.indexes import find_index
from kt_batch.store.opening import open_library
from tests.support.charts import CHARTS, chart_colours, table_profile
from tests.support.collection import Collection
from tests.support.tiny import column, hashes, translate_request, translated

P3 = OUTPUT_PROFILES["p3"]


def noise(*shape: int, dtype: Any = np.uint16) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def photograph(path: Path, **options: Any) -> Path:
    """Save a JPEG of 70 x 50 that stands on its side, with a camera, a place and a thumbnail-free EXIF."""
    exif = Image.Exif()
    exif[0x0112], exif[0x0110], exif[0x9003] = 6, "Camera One", "2024:05:06 07:08:09"
    exif.get_ifd(0x8825)[1] = "N"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(50, 70, 3, dtype=np.uint8)).save(path, exif=exif.tobytes(), **options)
    return path


def edited(photos: Path, run: Path, method: str = "identity", **settings: Any) -> TranslateSummary:
    config, sources = choose(method, settings, Choice(size=48))
    request = TranslateRequest([str(photos)], str(run), config, sources, RunOptions(threads=1, unit_size=2))
    return translate(request, LocalRunner(), no_progress)


class HalfConfig(MethodConfig):
    """The settings of `half`."""

    method: Literal["half"] = "half"


@dataclass
class Half:
    """Halves the values of all pixels."""

    config: HalfConfig
    resources: Resources

    config_type: ClassVar[type[MethodConfig]] = HalfConfig
    needs: ClassVar[frozenset[Need]] = frozenset()
    stages: ClassVar[tuple[str, ...]] = ()
    layer: ClassVar[Layer | None] = None
    stride: ClassVar[int] = 1

    def translate(self, image: Tensor) -> Result:
        return Result(self, SourceProvenance({}), {})

    def apply(self, pixels: NDArray[np.float32], top: int, height: int) -> NDArray[np.float32]:
        return pixels * np.float32(0.5)


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "half", Half)


@pytest.fixture(params=["in memory", "open files"])
def any_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read inputs into memory, as small files are, or open them, as large ones are."""
    if request.param == "open files":
        monkeypatch.setattr(inputs, "LARGE_BYTES", 0)


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("format", ["tiff", "png"])
def test_sixteen_bits_come_back_bit_for_bit(tmp_path: Path, format: str) -> None:  # noqa: A002
    samples = noise(90, 130, 3)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/a.tif", samples, photometric="rgb", iccprofile=P3, tile=(64, 64))
    (tmp_path / "in/b.png").write_bytes(imagecodecs.png_encode(samples))
    summary = edited(tmp_path / "in", tmp_path / "run", format=format)
    assert (summary.images, summary.rejected) == (2, 0)
    assert summary.sizes is not None
    assert (summary.sizes.largest, summary.sizes.reduced) == ((130, 90), 0)
    for name in ("a.tif", "b.png"):
        data = (tmp_path / f"run/images/{name}.{format}").read_bytes()
        read = tifffile.imread(io.BytesIO(data)) if format == "tiff" else imagecodecs.png_decode(data)
        np.testing.assert_array_equal(read, samples)
    with Image.open(tmp_path / "in/b.png") as plain:
        assert "icc_profile" not in plain.info


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("format", ["png", "tiff", "jpg", "webp", "avif"])
def test_the_same_call_does_nothing_more_and_another_run_has_the_same_bytes(tmp_path: Path, format: str) -> None:  # noqa: A002
    photograph(tmp_path / "in/a.jpg")
    edited(tmp_path / "in", tmp_path / "run", format=format)
    assert edited(tmp_path / "in", tmp_path / "run", format=format).new_images == 0
    edited(tmp_path / "in", tmp_path / "again", format=format)
    assert hashes(tmp_path / "run", "images") == hashes(tmp_path / "again", "images")
    with Image.open(tmp_path / f"run/images/a.jpg.{format}") as image:
        assert image.size == (50, 70)  # upright


def test_a_photograph_is_its_own_source_and_verify_and_explain_say_so(tmp_path: Path) -> None:
    photo = photograph(tmp_path / "in/a.jpg")
    edited(tmp_path / "in", tmp_path / "run", format="tiff")
    assert list(verify(str(tmp_path / "run"), no_progress).faults) == []
    (source,) = explain(str(tmp_path / "run"), "a.jpg", 49, 69, None).sources
    assert (source.image_id, source.share) == (image_id(photo.read_bytes()), 1.0)


class SameConfig(MethodConfig):
    """The settings of `same`."""

    method: Literal["same"] = "same"


@dataclass
class Same(Half):
    """Edits, and changes no value. It sees rows from the top to the bottom."""

    config_type: ClassVar[type[MethodConfig]] = SameConfig
    next_row = 0

    def apply(self, pixels: NDArray[np.float32], top: int, height: int) -> NDArray[np.float32]:
        assert top == self.next_row
        assert pixels.dtype == np.float32
        self.next_row = (top + len(pixels)) % height
        return pixels


@pytest.fixture
def same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "same", Same)


def shown(path: Path) -> tuple[NDArray[Any], bytes | None]:
    """Return the samples of a TIFF and its profile."""
    with tifffile.TiffFile(path) as file:
        return file.pages.first.asarray(), file.pages.first.iccprofile


@pytest.mark.usefixtures("same")
@pytest.mark.parametrize("space", [None, "input"])
@pytest.mark.parametrize("name", ["Adobe RGB", "ProPhoto RGB", "Display P3", "Rec. 2020", "linear sRGB", "sRGB"])
def test_an_edit_keeps_the_space_of_the_photograph_and_colours_outside_srgb(
    tmp_path: Path, name: str, space: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kt_batch.pipelines.translate.full_size._BLOCK_PIXELS", 130 * 7)
    profile = CHARTS[name].profile("any name")
    (tmp_path / "in").mkdir()
    shallow, deep = noise(90, 130, 3, dtype=np.uint8), np.maximum(noise(90, 130, 3), 4096)
    tifffile.imwrite(tmp_path / "in/8.tif", shallow, photometric="rgb", iccprofile=profile)
    tifffile.imwrite(tmp_path / "in/16.tif", deep, photometric="rgb", iccprofile=profile)
    edited(tmp_path / "in", tmp_path / "run", "same", format="tiff", output_space=space)
    for samples, most in ((shallow, 1), (deep, 64)):
        read, icc = shown(tmp_path / f"run/images/{8 * samples.itemsize}.tif.tiff")
        assert icc == profile
        assert read.dtype == samples.dtype
        assert np.abs(read.astype(int) - samples).max() <= most


@pytest.mark.usefixtures("half")
def test_half_of_the_green_of_adobe_rgb_is_still_outside_srgb(tmp_path: Path) -> None:
    """In sRGB the green is (-0.664, 1, -0.229). Half of that has the light (-0.0907, 0.2140, -0.0123).

    In Adobe RGB that is (0.715 * -0.0907 + 0.285 * 0.2140, 0.2140, 0.041 * 0.2140 + 0.911 * -0.0123), or (-0.004,
    0.214, -0.002): no red, no blue, and 255 * 0.214 ** (1 / 2.2) = 127 of green.
    Clipped to sRGB it would have a light of 0.061 of red.
    """
    (tmp_path / "in").mkdir()
    green = np.full((20, 30, 3), (0, 255, 0), np.uint8)
    Image.fromarray(green).save(tmp_path / "in/a.png", icc_profile=CHARTS["Adobe RGB"].profile())
    edited(tmp_path / "in", tmp_path / "run", "half")
    with Image.open(tmp_path / "run/images/a.png.png") as image:
        np.testing.assert_allclose(np.asarray(image)[0, 0], (0, 127, 0), atol=2)


@pytest.mark.usefixtures("same")
@pytest.mark.parametrize("kind", ["grey", "ink", "tables in one direction"])
def test_an_edit_of_what_has_no_rgb_space_is_srgb(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    one_way = table_profile(CHARTS["Adobe RGB"], both_ways=False)
    options: dict[str, Any] = {"icc_profile": one_way} if kind == "tables in one direction" else {}
    mode = {"grey": "L", "ink": "CMYK"}.get(kind, "RGB")
    Image.fromarray(noise(20, 30, 3, dtype=np.uint8)).convert(mode).save(tmp_path / "in/a.tif", **options)
    edited(tmp_path / "in", tmp_path / "run", "same", format="tiff", output_space="input")
    read, icc = shown(tmp_path / "run/images/a.tif.tiff")
    assert (icc, read.shape) == (OUTPUT_PROFILES["srgb"], (20, 30, 3))
    assert read.dtype == np.uint8
    seen = decode((tmp_path / "in/a.tif").read_bytes(), 64).pixels
    np.testing.assert_allclose(read / 255, seen, atol=1 / 255)


@pytest.mark.usefixtures("same")
def test_an_edit_keeps_a_space_of_tables_and_clips_colours_to_srgb(tmp_path: Path) -> None:
    profile = table_profile(CHARTS["Adobe RGB"])
    (tmp_path / "in").mkdir()
    samples: NDArray[Any] = np.round(CHARTS["Adobe RGB"].from_srgb(chart_colours()) * 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "in/a.tif", samples, photometric="rgb", iccprofile=profile)
    edited(tmp_path / "in", tmp_path / "run", "same", format="tiff")
    read, icc = shown(tmp_path / "run/images/a.tif.tiff")
    assert icc == profile
    assert np.abs(read.astype(int) - samples).max() <= 1


@pytest.mark.usefixtures("half", "any_size")
@pytest.mark.parametrize(("space", "profile"), [(None, "srgb"), ("srgb", "srgb"), ("p3", "p3")])
def test_an_edit_gets_colours_in_srgb_and_keeps_size_depth_and_transparency(
    tmp_path: Path, space: str | None, profile: str
) -> None:
    samples = noise(60, 40, 4)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/a.tif", samples, photometric="rgb", extrasamples=["unassalpha"])
    edited(tmp_path / "in", tmp_path / "run", "half", format="tiff", output_space=space)
    with tifffile.TiffFile(tmp_path / "run/images/a.tif.tiff") as file:
        page = file.pages.first
        read, icc = page.asarray(), page.iccprofile
    assert icc == OUTPUT_PROFILES[profile]
    np.testing.assert_array_equal(read[..., 3], samples[..., 3])
    if profile == "srgb":
        np.testing.assert_allclose(read[..., :3], samples[..., :3] / 2, atol=1)


@pytest.mark.usefixtures("half")
def test_an_edit_of_eight_bits_has_eight_bits_unless_sixteen_are_asked_for(tmp_path: Path) -> None:
    photograph(tmp_path / "in/a.jpg")
    for depth, bits in ((None, 8), (8, 8), (16, 16)):
        edited(tmp_path / "in", tmp_path / f"run {depth}", "half", format="tiff", depth=depth)
        with tifffile.TiffFile(tmp_path / f"run {depth}/images/a.jpg.tiff") as file:
            assert file.pages.first.bitspersample == bits


def test_sixteen_bits_in_jpeg_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="depth 16 is for png and tiff, and the format is jpg"):
        choose("identity", {"format": "jpg", "depth": 16}, Choice())


def test_an_image_that_the_format_cannot_hold_costs_one_reject(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (16384, 2)).save(tmp_path / "in/wide.png")
    photograph(tmp_path / "in/a.jpg")
    summary = edited(tmp_path / "in", tmp_path / "run", format="webp")
    assert (summary.images, summary.rejected, column(tmp_path / "run", "rejects", "reason")) == (1, 1, ["unsupported"])


def test_a_file_that_changes_before_it_is_read_at_full_size_costs_one_reject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = photograph(tmp_path / "in/a.jpg")

    def changed(*arguments: Any) -> Any:
        photo.write_bytes(b"other bytes")
        return read_image(*arguments)

    monkeypatch.setattr("kt_batch.pipelines.translate.full_size.read_image", changed)
    summary = edited(tmp_path / "in", tmp_path / "run")
    assert (summary.images, summary.rejected, column(tmp_path / "run", "rejects", "reason")) == (0, 1, ["changed"])
    assert hashes(tmp_path / "run", "images") == {}


@pytest.mark.parametrize("format", ["png", "tiff", "jpg", "webp", "avif"])
@pytest.mark.parametrize("profile", [None, "gamma 1.0"])
def test_grey_has_its_tones_and_a_profile_for_its_channels(tmp_path: Path, format: str, profile: str | None) -> None:  # noqa: A002
    (tmp_path / "in").mkdir()
    options: dict[str, Any] = {"icc_profile": grey_profile("linear", (1.0,))} if profile else {}
    Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (40, 1))).save(tmp_path / "in/a.png", **options)
    edited(tmp_path / "in", tmp_path / "run", format=format)
    data = (tmp_path / f"run/images/a.png.{format}").read_bytes()
    before = decode((tmp_path / "in/a.png").read_bytes(), 64).pixels
    np.testing.assert_allclose(
        decode(data, 64).pixels, before, atol=4 / 255 if format in ("jpg", "webp", "avif") else 0
    )
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["icc_profile"][16:20] == (b"GRAY" if image.mode == "L" else b"RGB ")


def test_ink_of_eight_bits_becomes_srgb_of_eight_bits(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("CMYK", (30, 20), (0, 255, 0, 0)).save(tmp_path / "in/a.tif")
    for depth, bits in ((None, 8), (16, 16)):
        edited(tmp_path / "in", tmp_path / f"run {depth}", depth=depth)
        assert (tmp_path / f"run {depth}/images/a.tif.png").read_bytes()[24] == bits


def test_an_image_that_is_refused_before_its_rows_does_not_disturb_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader's process has begun to send rows; none of them may pass for the answer about the next image."""
    monkeypatch.setattr("kt_batch.pipelines.translate.full_size._ATTEMPTS", 1)
    (tmp_path / "in").mkdir()
    for number in range(4):
        Image.new("RGB", (16384, 2), (number, 0, 0)).save(tmp_path / f"in/wide {number}.png")
        photograph(tmp_path / f"in/{number}.jpg", quality=90 + number)
    summary = edited(tmp_path / "in", tmp_path / "run", format="webp")
    assert (summary.images, summary.rejected) == (4, 4)
    assert set(column(tmp_path / "run", "rejects", "reason")) == {"unsupported"}


# ---- metadata --------------------------------------------------------------------------------------------------------


def said(run: Path, name: str) -> tuple[Image.Exif, bytes]:
    data = (run / "images" / name).read_bytes()
    blocks = blocks_of(data)
    exif = Image.Exif()
    if blocks.exif:
        exif.load(blocks.exif)
    return exif, blocks.xmp or b""


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("format", ["png", "tiff", "jpg", "webp", "avif"])
@pytest.mark.parametrize("policy", ["keep", "keep-no-gps", "strip"])
def test_metadata_is_carried_over(tmp_path: Path, format: str, policy: str) -> None:  # noqa: A002
    photograph(tmp_path / "in/a.jpg")
    edited(tmp_path / "in", tmp_path / "run", format=format, metadata=policy)
    exif, xmp = said(tmp_path / "run", f"a.jpg.{format}")
    assert exif.get(0x0110) == (None if policy == "strip" else "Camera One")
    assert exif.get(0x0112) in (None, 1)
    assert bool(exif.get_ifd(0x8825)) == (policy == "keep")
    assert b"kt_batch" in xmp
    assert b"identity" in xmp
    assert b"converted" in xmp
    assert b"edited" not in xmp


def test_pictures_of_other_methods_say_how_they_were_made(collection: Collection, tmp_path: Path) -> None:
    photograph(tmp_path / "in/a.jpg")
    job = translate_request(collection.library, tmp_path / "run", collection.index)
    translated([tmp_path / "in"], job)
    exif, xmp = said(tmp_path / "run", "a.jpg.png")
    assert exif[0x0110] == "Camera One"
    assert b"knowledge" in xmp
    assert find_index(open_library(str(collection.library)), None).tree_sha256[:16].encode() in xmp
    assert b"compositeWithTrainedAlgorithmicMedia" in xmp
    shutil.rmtree(tmp_path / "run")
    translated([tmp_path / "in"], job)
    assert said(tmp_path / "run", "a.jpg.png")[1] == xmp


@pytest.mark.parametrize("kind", ["primaries", "tables", "grey"])
def test_pictures_of_other_methods_can_be_in_the_space_of_their_photograph(
    collection: Collection, tmp_path: Path, kind: str
) -> None:
    adobe = CHARTS["Adobe RGB"]
    profile = {"primaries": adobe.profile(), "tables": table_profile(adobe), "grey": CHARTS["linear grey"].profile()}[
        kind
    ]
    (tmp_path / "in").mkdir()
    with Image.open(collection.photos / "11.png") as photo:
        photo.convert("L" if kind == "grey" else "RGB").save(tmp_path / "in/a.png", icc_profile=profile)
    for space in ("srgb", "input"):
        job = translate_request(collection.library, tmp_path / space, collection.index, output_space=space)
        translated([tmp_path / "in"], job)
    data = {space: (tmp_path / space / "images/a.png.png").read_bytes() for space in ("srgb", "input")}
    with Image.open(io.BytesIO(data["input"])) as image:
        assert image.info["icc_profile"] == (OUTPUT_PROFILES["srgb"] if kind == "grey" else profile)
        assert image.mode == "RGB"
    np.testing.assert_allclose(decode(data["input"], 64).pixels, decode(data["srgb"], 64).pixels, atol=3 / 255)


@pytest.mark.parametrize(("policy", "kept"), [("keep", True), ("keep-no-gps", True), ("strip", False)])
def test_the_time_of_the_file_is_kept(tmp_path: Path, policy: str, kept: bool) -> None:
    photo = photograph(tmp_path / "in/a.jpg")
    os.utime(photo, ns=(10**18, 10**18 + 5))
    edited(tmp_path / "in", tmp_path / "run", metadata=policy)
    assert ((tmp_path / "run/images/a.jpg.png").stat().st_mtime_ns == 10**18 + 5) == kept
