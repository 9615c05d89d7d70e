"""Pairs that a list names, and pairs made of finished photographs alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kt_batch.config import PairsConfig, RunOptions
from kt_batch.errors import MismatchError, UsageError
from kt_batch.evaluation.paired_library import evaluate_library
from kt_batch.kernels.descriptors import describe
from kt_batch.kernels.quadratic import moments
from kt_batch.kernels.synthetic_befores import VARIATIONS, synthetic_before, variation
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.maintenance.verify import verify
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.pipelines.pairs.fit import load_fit, pair_table
from kt_batch.pipelines.progress import no_progress
from kt_batch.store.images.files import decode, image_id
from kt_batch.store.locations import open_location
from kt_batch.store.opening import open_paired
from kt_batch.store.paired import synthetic_id
from kt_batch.store.plans import Item
from kt_batch.store.units import Ledger
from tests.support.pairs import Hand, draw_pairs, edit_file, finished, fitted, listed, paired
from tests.support.tiny import draw, draw_all, rows

# ---- lists -----------------------------------------------------------------------------------------------------------


def pairs_csv(folder: Path, *lines: str) -> Path:
    place = folder / "pairs.csv"
    place.write_text("\n".join(["before,after,event", *lines]) + "\n")
    return place


def darkened(power: float) -> Hand:
    return lambda values: values**power


def test_a_list_makes_the_pairs_that_folders_make(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2, 3])
    place = pairs_csv(tmp_path, *(f"before/{seed}.png,{after}/{seed}.png," for seed in (1, 2, 3)))
    paired(before, after, tmp_path / "of folders")
    listed(place, tmp_path / "of a list")
    one, other = (pair_table(open_paired(str(tmp_path / name))) for name in ("of folders", "of a list"))
    assert one.ids == other.ids
    assert np.array_equal(one.cross, other.cross)


def test_a_list_pairs_files_of_any_name_and_tags_them(tmp_path: Path) -> None:
    draw(tmp_path / "raw/DSC1.png", 1)
    edit_file(tmp_path / "raw/DSC1.png", tmp_path / "done/wedding 7.png")
    place = pairs_csv(tmp_path, "raw/DSC1.png,done/wedding 7.png,wedding")
    assert listed(place, tmp_path / "library", tags=("mine",)).pairs == 1
    (row,) = rows(tmp_path / "library", "pairs")
    assert (row["name"], row["tags"]) == ("done/wedding 7.png", ["mine", "event=wedding"])
    assert (row["before"], row["after"]) == (str(tmp_path / "raw/DSC1.png"), str(tmp_path / "done/wedding 7.png"))


def test_two_edits_of_one_photograph_are_two_pairs(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1])
    edit_file(before / "1.png", after / "dark.png", lambda values: values**2)
    place = pairs_csv(tmp_path, "before/1.png,after/1.png,", "before/1.png,after/dark.png,")
    assert listed(place, tmp_path / "library").pairs == 2


def test_a_row_whose_file_is_gone_or_no_pair_costs_one_reject(tmp_path: Path) -> None:
    draw_pairs(tmp_path, [1, 2])
    place = pairs_csv(
        tmp_path, "before/1.png,after/1.png,", "before/2.png,after/none.png,", "before/2.png,after/1.png,"
    )
    summary = listed(place, tmp_path / "library")
    assert (summary.pairs, summary.rejected) == (1, 2)
    assert {row["reason"] for row in rows(tmp_path / "library", "rejects")} == {"unreadable", "not_a_pair"}


def test_an_edit_that_is_refused_stays_a_reject_beside_another_edit_of_the_photograph(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1])
    for name, power in (("dark.png", 1.5), ("darker.png", 2.0), ("darkest.png", 3.0)):
        edit_file(before / "1.png", after / name, darkened(power))
    (after / "none.png").write_bytes(b"")
    names = ("1.png", "none.png", "dark.png", "darker.png", "darkest.png")
    place = pairs_csv(tmp_path, *(f"before/1.png,after/{name}," for name in names))
    for unit_size in (1, 6):
        library = tmp_path / f"library {unit_size}"
        summary = listed(place, library, RunOptions(threads=1, unit_size=unit_size))
        assert (summary.pairs, summary.rejected) == (4, 1)


def test_a_longer_list_adds_pairs(tmp_path: Path) -> None:
    draw_pairs(tmp_path, [1, 2])
    listed(pairs_csv(tmp_path, "before/1.png,after/1.png,"), tmp_path / "library")
    again = listed(pairs_csv(tmp_path, "before/1.png,after/1.png,", "before/2.png,after/2.png,"), tmp_path / "library")
    assert (again.pairs, again.new_images) == (2, 1)


def test_a_planned_store_counts_as_named_by_the_list_alone(tmp_path: Path) -> None:
    draw_pairs(tmp_path, [1])
    place, library = pairs_csv(tmp_path, "before/1.png,after/1.png,"), tmp_path / "library"
    config = PairsConfig(size=96)
    stranger = Item("1" * 16, str(tmp_path / "before/1.png"), "a.png", after="https://stranger.invalid/a.png")
    Ledger(open_location(str(library))).plan([stranger], 2, config.model_dump(mode="json"), config.digest())
    with pytest.raises(UsageError, match=r"https://stranger\.invalid/a\.png', in a store that you did not name"):
        listed(place, library)


def test_the_library_is_not_the_folder_of_a_listed_file(tmp_path: Path) -> None:
    draw_pairs(tmp_path, [1])
    place = pairs_csv(tmp_path, "before/1.png,after/1.png,")
    for side in ("before", "after"):
        with pytest.raises(UsageError, match="is the folder of the input"):
            listed(place, tmp_path / side)


# ---- finished photographs alone --------------------------------------------------------------------------------------


def test_each_finished_photograph_makes_three_pairs_with_computed_befores(tmp_path: Path) -> None:
    folder = draw_all(tmp_path / "finished", [1, 2])
    summary = finished(folder, tmp_path / "library", tags=("mine",))
    assert (summary.pairs, summary.rejected, summary.synthetic) == (6, 0, True)
    image = image_id((folder / "1.png").read_bytes())
    made = [row for row in rows(tmp_path / "library", "pairs") if row["after"] == str(folder / "1.png")]
    found = {row["image_id"].hex(): row for row in made}
    assert found.keys() == {synthetic_id(image, number) for number in range(VARIATIONS)}
    row = found[synthetic_id(image, 2)]
    assert row["before"] == row["after"] == str(folder / "1.png")
    assert (row["name"], row["tags"]) == ("1-before-3.png", ["mine", "synthetic"])
    after = decode((folder / "1.png").read_bytes(), 96).pixels
    before = synthetic_before(after, variation(image, 2))
    assert np.array_equal(np.frombuffer(row["descriptors"], "<f8"), describe(before))
    assert np.array_equal(np.frombuffer(row["cross"], "<f8").reshape(10, 3), moments(before, after).cross)


def test_synthetic_pairs_do_not_depend_on_the_division_into_units(tmp_path: Path) -> None:
    folder = draw_all(tmp_path / "finished", [1, 2, 3])
    tables = []
    for size in (1, 2, 9):
        finished(folder, tmp_path / f"library {size}", unit_size=size)
        tables.append(pair_table(open_paired(str(tmp_path / f"library {size}"))))
        assert verify(str(tmp_path / f"library {size}"), no_progress).faults == ()
    for table in tables[1:]:
        assert table.ids == tables[0].ids
        assert np.array_equal(table.cross, tables[0].cross)


def test_synthetic_pairs_are_computed_again_and_are_equal(tmp_path: Path) -> None:
    finished(draw_all(tmp_path / "finished", [1]), tmp_path / "library")
    again = recompute(str(tmp_path / "library"), Recompute(count=3), no_progress)
    assert sorted(again.equal) == ["1-before-1.png", "1-before-2.png", "1-before-3.png"]


def test_a_finished_photograph_that_cannot_be_read_is_rejected(tmp_path: Path) -> None:
    folder = draw_all(tmp_path / "finished", [1, 2])
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:200])
    summary = finished(folder, tmp_path / "library")
    assert (summary.pairs, summary.rejected) == (3, 3)
    assert {Path(row["after"]).name for row in rows(tmp_path / "library", "pairs")} == {"1.png"}


def test_a_picture_that_is_not_the_planned_one_is_rejected(tmp_path: Path) -> None:
    folder = draw_all(tmp_path / "finished", [1])
    library, config = tmp_path / "library", PairsConfig(size=96, synthetic=True)
    place = str(folder / "1.png")
    Ledger(open_location(str(library))).plan(
        [Item("1" * 16, place, "1.png", after=place)], 2, config.model_dump(mode="json"), config.digest()
    )
    assert finished(folder, library).pairs == 3
    (row,) = rows(library, "rejects")
    assert row["reason"] == "changed"


def test_the_fit_of_synthetic_pairs_knows_that_they_are(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2, 3])
    paired(before, after, tmp_path / "real")
    finished(after, tmp_path / "synthetic")
    for name in ("real", "synthetic"):
        result = fitted(tmp_path / name)
        assert result.synthetic == (name == "synthetic")
        assert load_fit(str(tmp_path / name), result.digest).synthetic == (name == "synthetic")
    table = pair_table(open_paired(str(tmp_path / "synthetic")))
    assert table.take([0, 1]).synthetic


def test_real_and_synthetic_pairs_do_not_mix(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, [1, 2])
    finished(after, tmp_path / "library")
    with pytest.raises(MismatchError, match=r"they differ in synthetic \(true there, false here\)"):
        paired(before, after, tmp_path / "library")


def test_edits_of_synthetic_befores_are_not_evaluated(tmp_path: Path) -> None:
    finished(draw_all(tmp_path / "finished", [1, 2]), tmp_path / "library")
    with pytest.raises(UsageError, match="are synthetic: how near edits of them come to the photographs says nothing"):
        evaluate_library(str(tmp_path / "library"), FitConfig(), no_progress)
