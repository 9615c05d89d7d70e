"""The numbers of a fit come back from disk as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kt_batch.maintenance.gc import gc
from kt_batch.maintenance.verify import verify
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.retouch.fit import fit_pairs
from kt_batch.pipelines.pairs.fit import pair_table
from kt_batch.pipelines.progress import no_progress
from kt_batch.store.locations import LocalLocation
from kt_batch.store.opening import open_paired
from kt_batch.store.paired import find_fit, read_fit_arrays, read_fit_summary, write_fit
from tests.support.pairs import draw_pairs, fitted, paired

DIGEST = "0123456789abcdef"


def test_arrays_come_back_whatever_their_order_in_memory(tmp_path: Path) -> None:
    values = np.arange(6.0).reshape(2, 3)
    arrays = {"columns": np.asfortranarray(values), "turned": values.T, "steps": np.arange(10.0)[::2]}
    location = LocalLocation(tmp_path)
    read = read_fit_arrays(location, write_fit(location, arrays, {}, DIGEST, 1, {}))
    assert read["columns"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert read["steps"].tolist() == [0, 2, 4, 6, 8]


def test_a_stored_fit_is_the_one_that_was_made(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, range(1, 7))
    paired(before, after, tmp_path / "library")
    library = open_paired(str(tmp_path / "library"))
    stored = read_fit_arrays(library.location, read_fit_summary(library.location, fitted(tmp_path / "library").digest))
    made = fit_pairs(pair_table(library), FitConfig()).to_arrays()
    assert stored.keys() == made.keys()
    for name, array in made.items():
        assert np.array_equal(stored[name], array), name


def test_a_fit_with_other_numbers_has_another_name_and_the_latest_is_used(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, range(1, 4))
    paired(before, after, tmp_path / "library")
    library = open_paired(str(tmp_path / "library"))
    snapshot, content = library.committed.snapshot, FitConfig().model_dump(mode="json")
    first = fitted(tmp_path / "library")
    arrays = read_fit_arrays(library.location, read_fit_summary(library.location, first.digest))
    other = write_fit(library.location, {**arrays, "spacing": np.array([9.0])}, content, snapshot, 3, {})
    assert other.digest != first.digest
    assert find_fit(library, content).digest == other.digest
    assert read_fit_arrays(library.location, read_fit_summary(library.location, first.digest)).keys() == arrays.keys()


def test_fitting_again_mends_damaged_numbers_and_a_damaged_summary(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, range(1, 4))
    paired(before, after, tmp_path / "library")
    fitted(tmp_path / "library")
    for path in (tmp_path / "library/fits").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    faults = verify(str(tmp_path / "library"), no_progress).faults
    assert [fault.endswith("run kt-batch fit again.") for fault in faults] == [True]
    fitted(tmp_path / "library")
    assert verify(str(tmp_path / "library"), no_progress).faults == ()


def test_numbers_that_no_summary_names_are_left_over(tmp_path: Path) -> None:
    before, after = draw_pairs(tmp_path, range(1, 4))
    paired(before, after, tmp_path / "library")
    fitted(tmp_path / "library")
    (tmp_path / "library/fits" / ("ab" * 32)).write_bytes(b"left by a killed fit")
    assert [orphan.name for orphan in gc(str(tmp_path / "library"), no_progress).orphans] == ["fits/" + "ab" * 32]
