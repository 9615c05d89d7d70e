"""The statistics swap is applied to photographs at their full size, and its provenance still says where from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from kt_batch.config import RunOptions
from kt_batch.errors import UsageError
from kt_batch.evaluation.likeness import detail_kept
from kt_batch.kernels.alignment import phase_shift, structure
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.maintenance.verify import verify
from kt_batch.methods.knowledge import KnowledgeConfig
from kt_batch.methods.presets import preset_named
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate import full_size
from kt_batch.pipelines.translate.finish import TranslateSummary, translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.report.explain import explain
from kt_batch.report.session import Session
from kt_batch.report.sheet import write_sheet
from kt_batch.runners.local import LocalRunner
from kt_batch.store.images.conversion import OUTPUT_PROFILES
from tests.support.collection import Collection
from tests.support.tiny import encoder_config, hashes, rows, translate_request, translated

P3 = OUTPUT_PROFILES["p3"]


def waves(height: int, width: int) -> NDArray[np.float64]:
    """Return a picture of coloured waves with fine stripes, in [0.1, 0.9]."""
    y, x = np.mgrid[0:height, 0:width] / width
    channels = [np.sin(7 * x + 5 * y + shift) for shift in (0, 1, 2)]
    stripes = (np.arange(width) % 4 < 2) * 0.1
    found: NDArray[np.float64] = 0.45 + 0.3 * np.stack(channels, axis=-1) + stripes[None, :, None]
    return found.clip(0.1, 0.9)


def season(
    photos: Path | str, run: Path, collection: Collection, unit_size: int = 2, **changed: Any
) -> TranslateSummary:
    """Translate with the preset `season`, and some values changed."""
    preset = dict(preset_named("season")) | changed
    method = str(preset.pop("method"))
    config, sources = choose(method, preset, Choice(library=collection.library, cache=run.parent / "cache"))
    request = TranslateRequest([str(photos)], str(run), config, sources, RunOptions(threads=1, unit_size=unit_size))
    return translate(request, LocalRunner(), no_progress)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a TIFF of 16 bits in Display P3, and a JPEG that lies on its side; both exceed the working size of 64."""
    folder = tmp_path_factory.mktemp("full_size") / "photos"
    folder.mkdir()
    samples = (waves(150, 230) * 65535).astype(np.uint16)
    tifffile.imwrite(folder / "deep.tif", samples, photometric="rgb", iccprofile=P3, rowsperstrip=16)
    exif = Image.Exif()
    exif[0x0112], exif[0x0110] = 6, "Camera One"
    Image.fromarray((waves(90, 140) * 255).astype(np.uint8)).save(folder / "turned.jpg", exif=exif.tobytes())
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, collection: Collection) -> Path:
    place = photos.parent / "run"
    assert season(photos, place, collection, format="tiff").rejected == 0
    return place


def test_photographs_keep_size_depth_space_and_metadata(run: Path) -> None:
    deep = run / "images/deep.tif.tiff"
    samples = tifffile.imread(deep)
    assert samples.shape == (150, 230, 3)
    assert samples.dtype == np.uint16
    with tifffile.TiffFile(deep) as file:
        assert file.pages.first.iccprofile == P3
    with Image.open(run / "images/turned.jpg.tiff") as turned:
        assert turned.size == (90, 140)  # upright
        assert turned.getexif()[0x0110] == "Camera One"


def test_colours_change_and_nothing_moves(run: Path, photos: Path) -> None:
    before, after = tifffile.imread(photos / "deep.tif"), tifffile.imread(run / "images/deep.tif.tiff")
    assert np.abs(before.astype(float) - after).mean() > 0.01 * 65535
    one, other = ((pixels / 65535).astype(np.float32) for pixels in (before, after))
    assert phase_shift(structure(one), structure(other)) == (0, 0)
    assert detail_kept(one, other) > 0.99


def test_without_any_swap_a_photograph_stays_as_it_is(photos: Path, collection: Collection, tmp_path: Path) -> None:
    season(photos, tmp_path / "run", collection, format="tiff", alpha=0.0)
    before, after = tifffile.imread(photos / "deep.tif"), tifffile.imread(tmp_path / "run/images/deep.tif.tiff")
    assert np.abs(before.astype(float) - after).max() <= 32  # of 65535: to float32 and back


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_photograph_of_one_colour_stays_one_of_nearly_one_colour(
    value: int, collection: Collection, tmp_path: Path
) -> None:
    Image.fromarray(np.full((90, 130, 3), value, np.uint8)).save(tmp_path / "flat.png")
    assert season(tmp_path / "flat.png", tmp_path / "run", collection).rejected == 0
    made = imagecodecs.png_decode((tmp_path / "run/images/flat.png.png").read_bytes()).astype(int)
    assert np.abs(np.diff(made, axis=0)).max() <= 4
    assert np.abs(np.diff(made, axis=1)).max() <= 4


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 300), (300, 3)])
def test_photographs_of_any_shape_come_back(height: int, width: int, collection: Collection, tmp_path: Path) -> None:
    Image.fromarray((waves(height, width) * 255).astype(np.uint8)).save(tmp_path / "a.png")
    assert season(tmp_path / "a.png", tmp_path / "run", collection).rejected == 0
    with Image.open(tmp_path / "run/images/a.png.png") as image:
        assert image.size == (width, height)


def test_colours_outside_of_srgb_are_not_taken_away(collection: Collection, tmp_path: Path) -> None:
    samples = np.zeros((80, 100, 3), np.uint16)
    samples[..., 1] = np.linspace(30000, 65535, 100).astype(np.uint16)  # the greens of Display P3
    tifffile.imwrite(tmp_path / "green.tif", samples, photometric="rgb", iccprofile=P3)
    season(tmp_path / "green.tif", tmp_path / "run", collection, format="tiff", alpha=0.0)
    after = tifffile.imread(tmp_path / "run/images/green.tif.tiff")
    assert np.abs(after.astype(float) - samples).max() <= 64


@pytest.mark.parametrize("pixels", [230, 2300])
def test_bands_of_any_height_and_other_units_give_the_same_bytes(
    run: Path, photos: Path, collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int
) -> None:
    monkeypatch.setattr(full_size, "_BLOCK_PIXELS", pixels)
    season(photos, tmp_path / "run", collection, unit_size=1, format="tiff")
    assert hashes(tmp_path / "run", "images") == hashes(run, "images")
    assert rows(tmp_path / "run", "provenance") == rows(run, "provenance")


def test_matches_are_those_of_the_decoded_picture(
    run: Path, photos: Path, collection: Collection, tmp_path: Path
) -> None:
    season(photos, tmp_path / "run", collection, format="tiff", full_size=False)
    assert rows(tmp_path / "run", "provenance") == rows(run, "provenance")
    with Image.open(tmp_path / "run/images/deep.tif.tiff") as decoded:
        assert decoded.size == (64, 42)


def test_a_run_is_verified_and_computed_again(run: Path) -> None:
    assert list(verify(str(run), no_progress).faults) == []
    again = recompute(str(run), Recompute(2), no_progress)
    assert sorted(again.equal) == ["deep.tif", "turned.jpg"]


def test_any_pixel_is_led_back_to_the_patches_of_its_place_in_the_working_image(run: Path) -> None:
    session = Session.open(str(run))
    deep = session.run.outputs["images/deep.tif.tiff"]
    # 230 x 150 pixels are read as 64 x 42: 16 x 11 cells of 4 pixels, the last row half padding.
    assert session.working_size(deep) == (64, 42)
    assert session.cell_shape(deep) == (11, 16)
    assert session.ncc_cells(deep).shape == (11, 16)
    last = explain(str(run), "deep.tif", 229, 149, None)
    assert (last.width, last.height, last.cell_row, last.cell_col) == (230, 150, 10, 15)
    # The pixel (115, 75) lies at (32, 21) of the working image, so in the cell of row 5 and column 8.
    middle = explain(str(run), "deep.tif", 115, 75, None)
    assert (middle.cell_row, middle.cell_col) == (5, 8)
    assert sum(each.weight for each in middle.contributions) == pytest.approx(1)


def test_a_page_shows_a_run_of_large_outputs(run: Path, tmp_path: Path) -> None:
    page = write_sheet({"season": str(run)}, tmp_path / "sheet")
    assert "deep.tif" in page.read_text()


@pytest.mark.parametrize("size", [(1, 1), (8, 1), (900, 1), (1, 900)])
@pytest.mark.parametrize("full_size", [True, False])
def test_a_page_shows_pictures_that_are_smaller_than_a_patch_or_very_long(
    size: tuple[int, int], full_size: bool, collection: Collection, tmp_path: Path
) -> None:
    Image.effect_noise(size, 80).convert("RGB").save(tmp_path / "small.png")
    season(tmp_path / "small.png", tmp_path / "run", collection, full_size=full_size)
    page = write_sheet({"season": str(tmp_path / "run")}, tmp_path / "sheet")
    assert "small.png" in page.read_text()
    for picture in (tmp_path / "sheet").rglob("*.png"):
        with Image.open(picture) as drawn:
            assert max(drawn.size) <= 2560


def test_the_geometric_swap_has_no_full_size(collection: Collection) -> None:
    with pytest.raises(UsageError, match=r"full_size is for the swap statistics, not for geometric\.$"):
        choose("knowledge", {"full_size": True}, Choice(library=collection.library))


def test_without_full_size_digests_and_plans_are_those_of_before() -> None:
    plain = KnowledgeConfig(encoder=encoder_config(), swap="statistics")
    same = KnowledgeConfig(encoder=encoder_config(), swap="statistics", full_size=False)
    assert plain.digest() == same.digest()
    assert "full_size" not in plain.model_dump(mode="json")
    edits = KnowledgeConfig(encoder=encoder_config(), swap="statistics", full_size=True)
    assert edits.digest() != plain.digest()
    assert KnowledgeConfig.model_validate(edits.model_dump(mode="json")) == edits


def test_without_full_size_outputs_are_pictures_of_the_working_size(collection: Collection, tmp_path: Path) -> None:
    translated(
        [collection.photos],
        translate_request(collection.library, tmp_path / "run", collection.index, swap="statistics"),
    )
    with Image.open(tmp_path / "run/images/11.png.png") as image:
        assert image.size == (64, 50)
