"""Regions in runs: label images by name, their rejects, regions of like features, and what has no effect."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kt_batch.config import RunOptions
from kt_batch.errors import MismatchError, MissingError, Reason, RejectError, UsageError
from kt_batch.maintenance.made_with import MadeWith
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import TranslateSummary, translate
from kt_batch.pipelines.translate.masks import Mask, find_masks, read_regions
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.local import LocalRunner
from kt_batch.store.images.files import WorkingImage, image_id
from kt_batch.store.images.labels import decode_labels, labels_at, same_aspect
from tests.support.collection import Collection
from tests.support.tiny import SIZE, hashes, rows


def label_image(path: Path, width: int = 64, height: int = 50, values: tuple[int, int] = (0, 1)) -> Path:
    """Write a label image with one value in its left half and another in its right one."""
    labels = np.full((height, width), values[0], np.uint8)
    labels[:, width // 2 :] = values[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)
    return path


def styled(
    collection: Collection, run: Path, photos: Path | None = None, unit_size: int = 2, **choice: Any
) -> TranslateSummary:
    styles = [str(collection.paintings / name) for name in ("2.png", "1.png")]
    config, sources = choose("adain", {}, Choice(styles=styles, size=SIZE, **choice))
    options = RunOptions(threads=1, unit_size=unit_size)
    request = TranslateRequest([str(photos or collection.photos)], str(run), config, sources, options)
    return translate(request, LocalRunner(), no_progress)


@pytest.fixture
def masks(collection: Collection, tmp_path: Path) -> Path:
    """Return a folder with a label image for each photograph."""
    for photo in collection.photos.iterdir():
        label_image(tmp_path / "masks" / f"{photo.stem}.png")
    return tmp_path / "masks"


def test_a_run_follows_masks_for_any_unit_size_and_records_areas_as_shares(
    collection: Collection, masks: Path, tmp_path: Path
) -> None:
    assert styled(collection, tmp_path / "run", mask=masks).images == 3
    styled(collection, tmp_path / "again", mask=masks, unit_size=8)
    assert hashes(tmp_path / "run", "images") == hashes(tmp_path / "again", "images")
    assert {row["share"] for row in rows(tmp_path / "run", "provenance")} == {0.5}
    assert styled(collection, tmp_path / "run", mask=masks).new_images == 0
    label_image(masks / "11.png", values=(1, 0))
    with pytest.raises(MismatchError, match="masks_sha256"):
        styled(collection, tmp_path / "run", mask=masks)


def test_the_share_of_a_region_counts_the_pixels_of_the_picture_and_not_its_padding(
    collection: Collection, tmp_path: Path
) -> None:
    labels = np.ones((50, 64), np.uint8)
    labels[:40] = 0  # 40 of 50 rows; the 6 rows of padding belong to the other region
    (tmp_path / "masks").mkdir()
    for photo in collection.photos.iterdir():
        Image.fromarray(labels).save(tmp_path / "masks" / f"{photo.stem}.png")
    styled(collection, tmp_path / "run", mask=tmp_path / "masks")
    shares = sorted({row["share"] for row in rows(tmp_path / "run", "provenance")})
    assert shares == pytest.approx([0.2, 0.8], abs=1e-6)


def test_a_run_with_masks_is_done_once_more_with_those_masks_alone(
    collection: Collection, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    styled(collection, tmp_path / "run", mask="masks")
    monkeypatch.chdir("/")

    def again(mask: str | None = None) -> list[str]:
        return recompute(str(tmp_path / "run"), Recompute(3, made=MadeWith(mask=mask)), no_progress).equal

    assert len(again()) == 3
    masks.rename(tmp_path / "moved")
    with pytest.raises(MissingError, match=r"are not at '.*masks'; say where they are now with --mask"):
        again()
    assert len(again(str(tmp_path / "moved"))) == 3
    label_image(tmp_path / "moved" / "11.png", values=(1, 0))
    with pytest.raises(MismatchError, match=r"are not those of .* one was changed, added or removed"):
        again(str(tmp_path / "moved"))
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(MissingError, match="does not say where its label images are; name them with --mask"):
        again()


def test_a_mask_of_one_value_gives_what_its_style_gives_alone(collection: Collection, tmp_path: Path) -> None:
    for photo in collection.photos.iterdir():
        label_image(tmp_path / "masks" / f"{photo.stem}.png", values=(1, 1))
    styled(collection, tmp_path / "run", mask=tmp_path / "masks")
    config, sources = choose("adain", {}, Choice(styles=str(collection.paintings / "1.png"), size=SIZE))
    request = TranslateRequest(
        [str(collection.photos)], str(tmp_path / "one"), config, sources, RunOptions(threads=1, unit_size=2)
    )
    translate(request, LocalRunner(), no_progress)
    pictures = [
        [np.asarray(Image.open(path)) for path in sorted((tmp_path / run / "images").iterdir())]
        for run in ("run", "one")
    ]
    assert all((one == other).all() for one, other in zip(*pictures, strict=True))  # files differ in their XMP


def test_a_mask_that_is_missing_or_does_not_fit_costs_one_reject_row(
    collection: Collection, masks: Path, tmp_path: Path
) -> None:
    (masks / "11.png").unlink()
    label_image(masks / "12.png", width=50, height=64)
    summary = styled(collection, tmp_path / "run", mask=masks)
    assert (summary.images, summary.rejected) == (1, 2)
    found = {Path(row["uri"]).name: (row["reason"], row["message"]) for row in rows(tmp_path / "run", "rejects")}
    assert {reason for reason, _ in found.values()} == {Reason.MASK}
    assert "holds no label image '11.png' for '" in found["11.png"][1]
    assert "has 50 x 64 pixels, which are not the proportions of 72 x 56" in found["12.png"][1]


def test_masks_in_an_archive_have_their_names_there_and_two_of_one_name_are_refused(masks: Path) -> None:
    with zipfile.ZipFile(masks.with_name("masks.zip"), "w") as file:
        for path in masks.iterdir():
            file.write(path, f"sub/{path.name}")
    assert list(find_masks(masks.with_name("masks.zip")).by_name) == ["sub/11", "sub/12", "sub/13"]
    with zipfile.ZipFile(masks.with_name("masks.zip"), "a") as file:
        file.write(masks / "11.png", "sub/11.PNG")
    with pytest.raises(UsageError, match=r"holds two label images for one name: '.*11\.PNG', '.*11\.png'"):
        find_masks(masks.with_name("masks.zip"))


def test_copies_of_a_photograph_may_have_masks_of_their_own(collection: Collection, tmp_path: Path) -> None:
    photo = (collection.photos / "11.png").read_bytes()
    for folder, values in (("a", (0, 1)), ("b", (1, 0))):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        (tmp_path / "photos" / folder / "11.png").write_bytes(photo)
        label_image(tmp_path / "masks" / folder / "11.png", values=values)
    assert styled(collection, tmp_path / "run", tmp_path / "photos", mask=tmp_path / "masks").images == 2
    one, other = (np.asarray(Image.open(tmp_path / f"run/images/{folder}/11.png.png")) for folder in "ab")
    assert (one != other).any()


def test_regions_of_like_features_need_no_files_and_can_be_made_again(collection: Collection, tmp_path: Path) -> None:
    assert styled(collection, tmp_path / "run", regions=3).images == 3
    shares = [row["share"] for row in rows(tmp_path / "run", "provenance")]
    assert len(set(shares)) > 1
    assert sum(shares) == pytest.approx(3)
    assert len(recompute(str(tmp_path / "run"), Recompute(2), no_progress).equal) == 2
    with pytest.raises(MismatchError, match="regions"):
        styled(collection, tmp_path / "run", regions=2)


# ---- label images


def working(width: int, height: int) -> WorkingImage:
    return WorkingImage(np.zeros((height, width, 3), np.float32), 4 * width, 4 * height)


def of_values(path: Path, *values: int) -> Mask:
    Image.fromarray(np.array([values], np.uint8)).save(path)
    return Mask(str(path), image_id(path.read_bytes()))


@pytest.mark.parametrize(
    ("values", "numbers"),
    [((0, 1, 2), (0, 1, 2)), ((2, 0, 0), (2, 0, 0)), ((0, 128, 255), (0, 1, 2)), ((255, 9, 9), (1, 0, 0))],
)
def test_values_name_styles_as_they_are_or_in_their_order(
    tmp_path: Path, values: tuple[int, ...], numbers: tuple[int, ...]
) -> None:
    regions = read_regions(of_values(tmp_path / "mask.png", *values), working(3, 1), 3)
    assert tuple(regions[0].tolist()) == numbers


def test_a_label_image_with_more_values_than_styles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RejectError, match="has 3 values, and there are 2 styles"):
        read_regions(of_values(tmp_path / "mask.png", 0, 1, 2), working(3, 1), 2)


def test_a_label_image_that_changes_after_the_plan_is_refused(tmp_path: Path) -> None:
    mask = of_values(tmp_path / "mask.png", 0, 1)
    of_values(tmp_path / "mask.png", 1, 0)
    with pytest.raises(RejectError, match="has changed since the run was planned"):
        read_regions(mask, working(2, 1), 2)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_grey_and_palette_images_are_label_images_and_colours_are_not() -> None:
    values = np.array([[0, 3], [2, 1]], np.uint8)
    palette = Image.fromarray(values, "L").convert("P")
    palette.putdata(values.flatten().tolist())
    deep = Image.fromarray(values.astype(np.uint16) * 256)
    assert decode_labels(png(Image.fromarray(values))).tolist() == values.tolist()
    assert decode_labels(png(palette)).tolist() == values.tolist()
    assert decode_labels(png(deep)).tolist() == (values.astype(int) * 256).tolist()
    with pytest.raises(RejectError, match="a PNG of the kind RGB; allowed are grey and palette"):
        decode_labels(png(Image.fromarray(values).convert("RGB")))
    with pytest.raises(RejectError, match="allowed is PNG"):
        decode_labels(b"P5 2 2 255 ....")
    with pytest.raises(RejectError, match="cut or damaged"):
        decode_labels(png(Image.fromarray(values))[:40])


@pytest.mark.parametrize(("bits", "packed"), [(2, b"\x18"), (4, b"\x01\x20")])
def test_a_grey_image_of_few_bits_has_the_values_that_it_holds(bits: int, packed: bytes) -> None:
    """Other programs write such files where there are few labels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)
    chunks = (header, b"IDAT" + zlib.compress(b"\0" + packed), b"IEND")
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks
    )
    assert decode_labels(data).tolist() == [[0, 1, 2, 0]]


def test_labels_are_enlarged_and_reduced_without_new_values() -> None:
    labels = np.array([[0, 7], [3, 0]], np.uint16)
    large = labels_at(labels, 6, 4)
    assert large.tolist() == [[0, 0, 0, 7, 7, 7]] * 2 + [[3, 3, 3, 0, 0, 0]] * 2
    assert labels_at(large, 2, 2).tolist() == labels.tolist()


def test_sides_may_differ_by_their_rounding() -> None:
    assert same_aspect(500, 333, 4000, 2667)
    assert same_aspect(8000, 5334, 4000, 2667)
    assert not same_aspect(500, 340, 4000, 2667)
    assert not same_aspect(333, 500, 4000, 2667)


# ---- what has no effect


def test_regions_without_an_effect_are_refused(collection: Collection, masks: Path, tmp_path: Path) -> None:
    one, other = (str(collection.paintings / name) for name in ("1.png", "2.png"))
    both = {"styles": [one, other], "size": SIZE}
    for name, choice, match in (
        (
            "patch_swap",
            {"styles": [f"{one}=2", other], "regions": 2, "size": SIZE},
            "so the weight of a --style has no effect",
        ),
        ("adain", {**both, "mask": masks, "regions": 2}, "--mask and --regions 2 both say where styles hold"),
        ("adain", {**both, "regions": 2, "draw": "random"}, "so --source random has no effect"),
        (
            "wct",
            {"styles": [f"{one}=2", other], "regions": 2, "size": SIZE},
            "so the weight of a --style has no effect",
        ),
        (
            "identity",
            {"regions": 2},
            "--regions 2 chooses among style images, libraries or filter banks, and the method identity has none here",
        ),
    ):
        with pytest.raises(UsageError, match=match):
            choose(name, {}, Choice(**choice))
    (tmp_path / "none").mkdir()
    (tmp_path / "none/a.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="holds no label image"):
        find_masks(tmp_path / "none")
