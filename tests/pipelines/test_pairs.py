"""Paired libraries: which files are a pair, what is kept of it, and what is refused."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from kt_batch.config import RunOptions
from kt_batch.errors import MismatchError, MissingError, UsageError
from kt_batch.kernels.quadratic import moments
from kt_batch.maintenance.gc import gc
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.maintenance.verify import verify
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.retouch.fit import fit_pairs
from kt_batch.pipelines.pairs.fit import load_fit, pair_table
from kt_batch.pipelines.pairs.sources import match_names
from kt_batch.pipelines.progress import Step, no_progress
from kt_batch.report.inspect import inspect
from kt_batch.report.views import connect
from kt_batch.store.images.files import decode, image_id
from kt_batch.store.inputs import Input
from kt_batch.store.opening import open_library, open_paired, open_run
from kt_batch.store.paired import pair_id
from tests.support.pairs import draw_pairs, edit_file, fitted, paired
from tests.support.tiny import draw, extracted, rows


def named(*names: str) -> list[Input]:
    return [Input(f"/photos/{name}", name) for name in names]


def pairs_of(before: list[Input], after: list[Input]) -> list[tuple[str, str]]:
    return [(one.name, other.name) for one, other in match_names(before, after)[0]]


# ---- which files are a pair ------------------------------------------------------------------------------------------


def test_files_of_one_name_are_a_pair_whatever_their_suffix_and_case() -> None:
    before, after = named("day/a.CR2", "day/b.jpg", "c.tif"), named("day/A.jpg", "day/b.jpg", "c.TIFF")
    assert pairs_of(before, after) == [("c.tif", "c.TIFF"), ("day/a.CR2", "day/A.jpg"), ("day/b.jpg", "day/b.jpg")]


def test_equal_names_go_before_names_with_another_suffix() -> None:
    before, after = named("a.jpg", "a.CR2"), named("a.jpg", "a.tif")
    assert pairs_of(before, after) == [("a.CR2", "a.tif"), ("a.jpg", "a.jpg")]


def test_the_folder_or_archive_of_each_side_is_left_out_where_no_name_fits() -> None:
    before, after = named("before.zip/a.jpg", "before.zip/day/b.jpg"), named("after.tar/a.jpg", "after.tar/day/b.jpg")
    assert pairs_of(before, after) == [
        ("before.zip/a.jpg", "after.tar/a.jpg"),
        ("before.zip/day/b.jpg", "after.tar/day/b.jpg"),
    ]


def test_names_without_one_partner_are_left_out() -> None:
    before, after = named("a.jpg", "b.jpg", "c.jpg"), named("a.jpg", "b.tif", "b.png", "d.jpg", "other/c.jpg")
    assert match_names(before, after)[1] == ("b.jpg", "b.png", "b.tif", "c.jpg", "d.jpg", "other/c.jpg")


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1])
    draw(before / "alone.png", 9)
    notes: list[Step] = []
    summary = paired(before, after, tmp_path / "library", progress=notes.append)
    assert (summary.pairs, summary.unmatched) == (1, ("alone.png",))
    assert any("alone.png" in step.note for step in notes if step.note)


def test_places_without_a_common_name_are_refused(tmp_path: Path) -> None:
    draw(tmp_path / "before/a.png", 1)
    draw(tmp_path / "after/b.png", 1)
    with pytest.raises(UsageError, match="None of the 1 images before has the name of one of the 1 after"):
        paired(tmp_path / "before", tmp_path / "after", tmp_path / "library")


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_a_pair_is_kept_as_the_moments_of_its_colours(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2, 3])
    summary = paired(before, after, tmp_path / "library")
    assert (summary.pairs, summary.rejected) == (3, 0)
    (row,) = (row for row in rows(tmp_path / "library", "pairs") if row["name"] == "2.png")
    one, other = ((folder / "2.png").read_bytes() for folder in (before, after))
    assert row["image_id"].hex() == pair_id(image_id(one), image_id(other))
    assert (row["before"], row["after"]) == (str(before / "2.png"), str(after / "2.png"))
    found = moments(decode(one, 96).pixels, decode(other, 96).pixels)
    assert np.array_equal(np.frombuffer(row["gram"], "<f8").reshape(10, 10), found.gram)
    assert np.array_equal(np.frombuffer(row["cross"], "<f8").reshape(10, 3), found.cross)
    for side in ("preview_before", "preview_after"):
        assert Image.open(io.BytesIO(row[side])).size == (96, 72)


def test_a_hundred_thousand_pairs_of_photographs_take_less_than_a_gigabyte(tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    for name in ("astronaut", "chelsea", "coffee", "rocket"):  # photographs that come with scikit-image
        Image.fromarray(getattr(data, name)()).save(before / f"{name}.png")
        edit_file(before / f"{name}.png", tmp_path / "after" / f"{name}.png")
    paired(before, tmp_path / "after", tmp_path / "library", size=512, options=RunOptions(threads=1, unit_size=4))
    (part,) = (tmp_path / "library/pairs").rglob("*.parquet")
    assert part.stat().st_size / 4 < 10_000


def test_the_table_does_not_depend_on_the_division_into_units(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2, 3, 4, 5])
    tables = []
    for size in (1, 2, 5):
        library = tmp_path / f"library {size}"
        paired(before, after, library, options=RunOptions(threads=1, unit_size=size))
        tables.append(pair_table(open_paired(str(library))))
        assert verify(str(library), no_progress).faults == ()
    for table in tables[1:]:
        assert table.ids == tables[0].ids
        assert np.array_equal(table.gram, tables[0].gram)
        assert np.array_equal(table.descriptors, tables[0].descriptors)


def test_more_pairs_are_added_and_the_fit_is_of_all(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2, 3])
    library = tmp_path / "library"
    paired(before, after, library)
    first = fitted(library)
    draw_pairs(tmp_path, [1, 2, 3, 4])
    assert paired(before, after, library).new_images == 1
    second = fitted(library)
    assert (first.pairs, second.pairs) == (3, 4)
    assert first.digest != second.digest
    assert [fit["state"] for fit in sorted(inspect(str(library))["fits"], key=lambda fit: fit["pairs"])] == [
        "stale",
        "current",
    ]
    assert verify(str(library), no_progress).faults == ()
    assert gc(str(library), no_progress).orphans == ()


def test_a_fit_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2, 3, 4])
    made = []
    for name, size in (("one", 1), ("other", 3)):
        paired(before, after, tmp_path / name, options=RunOptions(threads=1, unit_size=size))
        fitted(tmp_path / name)
        made.append(sorted(path.name for path in (tmp_path / name / "fits").iterdir() if path.suffix != ".json"))
    assert made[0] == made[1]


def test_a_fit_is_read_as_it_was_made(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, range(1, 7))
    paired(before, after, tmp_path / "library")
    read = load_fit(str(tmp_path / "library"), fitted(tmp_path / "library").digest).to_arrays()
    made = fit_pairs(pair_table(open_paired(str(tmp_path / "library"))), FitConfig()).to_arrays()
    assert read.keys() == made.keys()
    assert [name for name in made if not np.array_equal(read[name], made[name])] == []


def test_a_damaged_fit_is_found(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2, 3])
    paired(before, after, tmp_path / "library")
    fitted(tmp_path / "library")
    (numbers,) = (path for path in (tmp_path / "library/fits").iterdir() if path.suffix != ".json")
    content = bytearray(numbers.read_bytes())
    content[-1] ^= 1
    numbers.write_bytes(content)
    (fault,) = verify(str(tmp_path / "library"), no_progress).faults
    assert numbers.name in fault


def test_pairs_are_computed_again_and_are_equal(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2])
    paired(before, after, tmp_path / "library")
    summary = recompute(str(tmp_path / "library"), Recompute(count=2), no_progress)
    assert sorted(summary.equal) == ["1.png", "2.png"]


def test_the_table_of_pairs_can_be_queried(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2])
    paired(before, after, tmp_path / "library", tags=("wedding",))
    with connect(str(tmp_path / "library")) as database:
        assert database.sql("SELECT name, tags FROM pairs ORDER BY name").fetchall() == [
            ("1.png", ["wedding"]),
            ("2.png", ["wedding"]),
        ]


# ---- what is refused -------------------------------------------------------------------------------------------------


def refused(folder: Path) -> dict[str, str]:
    """Extract before/ and after/ and return name -> message of the rejects; all are no pairs."""
    paired(folder / "before", folder / "after", folder / "library")
    found = rows(folder / "library", "rejects")
    assert {row["reason"] for row in found} <= {"not_a_pair"}
    return {Path(row["uri"]).name: row["message"] for row in found}


def test_a_pair_that_is_not_one_picture_costs_one_reject_with_its_reason(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, range(1, 8))
    with Image.open(after / "2.png") as image:
        image.crop((0, 0, 96, 60)).save(after / "2.png")
    with Image.open(after / "3.png") as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(after / "3.png")
    shutil.copy(before / "4.png", after / "4.png")
    shutil.copy(after / "1.png", after / "5.png")
    with Image.open(after / "6.png") as image:
        image.resize((192, 144), Image.Resampling.LANCZOS).save(after / "6.png")
    messages = refused(tmp_path)
    assert messages.keys() == {"2.png", "3.png", "4.png", "5.png"}
    assert "96 x 72 pixels, the one after 96 x 60" in messages["2.png"]
    assert "do not show one picture" in messages["3.png"]
    assert "before and after are equal" in messages["4.png"]
    assert "do not show one picture" in messages["5.png"]
    assert len(rows(tmp_path / "library", "pairs")) == 3


def test_a_picture_that_lost_all_its_detail_and_one_that_had_none_are_no_pairs(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2, 3, 4])
    Image.new("RGB", (96, 72), (0, 0, 0)).save(after / "1.png")
    Image.new("RGB", (96, 72), (120, 120, 120)).save(before / "2.png")
    for folder, grey in ((before, 90), (after, 140)):
        Image.new("RGB", (96, 72), (grey, grey, grey)).save(folder / "3.png")
    messages = refused(tmp_path)
    assert messages.keys() == {"1.png", "2.png", "3.png"}
    assert "do not show one picture" in messages["1.png"]
    assert "neither before nor after has detail" in messages["3.png"]


def test_a_pair_under_a_second_name_counts_once(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2])
    paired(before, after, tmp_path / "library")
    for folder in (before, after):
        shutil.copy(folder / "1.png", folder / "copy.png")
    again = paired(before, after, tmp_path / "library")
    assert (again.pairs, inspect(str(tmp_path / "library"))["pairs"], fitted(tmp_path / "library").pairs) == (2, 2, 2)


def test_a_file_that_changed_since_it_was_planned_costs_one_reject(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2])
    paired(before, after, tmp_path / "library")
    assert paired(before, after, tmp_path / "library").new_images == 0
    edit_file(before / "1.png", after / "1.png", lambda values: values**2)
    again = paired(before, after, tmp_path / "library")
    assert (again.pairs, again.new_images) == (3, 1)  # another edit of one photograph is another pair


def test_a_damaged_file_after_costs_one_reject_of_the_pair(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2])
    (after / "2.png").write_bytes((after / "2.png").read_bytes()[:200])
    summary = paired(before, after, tmp_path / "library")
    assert (summary.pairs, summary.rejected) == (1, 1)
    (row,) = rows(tmp_path / "library", "rejects")
    assert (Path(row["uri"]).name, row["reason"]) == ("2.png", "truncated")


def test_places_of_another_kind_are_refused_in_words(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2])
    paired(before, after, tmp_path / "pairs")
    extracted([before], tmp_path / "patches")
    with pytest.raises(MismatchError, match="is a paired library"):
        open_library(str(tmp_path / "pairs"))
    with pytest.raises(UsageError, match="is a paired library; name a run"):
        open_run(str(tmp_path / "pairs"))
    with pytest.raises(MismatchError, match="is a knowledge library; name a paired library"):
        open_paired(str(tmp_path / "patches"))
    with pytest.raises(UsageError, match="is a knowledge library; name a paired library"):
        paired(before, after, tmp_path / "patches")
    with pytest.raises(UsageError, match="is a paired library; name a knowledge library"):
        extracted([before], tmp_path / "pairs")
    with pytest.raises(MissingError, match="is not a paired library: it has no plan"):
        open_paired(str(tmp_path / "nothing"))
