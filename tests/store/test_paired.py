"""The numbers of a fit come back from disk as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.retouch.fit import fit_pairs
from kt_batch.pipelines.pairs.fit import pair_table
from kt_batch.store.locations import LocalLocation
from kt_batch.store.opening import open_paired
from kt_batch.store.paired import read_fit_arrays, read_fit_summary, write_fit
from tests.support.pairs import draw_pairs, fitted, paired

DIGEST = "0123456789abcdef"


def test_arrays_come_back_whatever_their_order_in_memory(tmp_path: Path) -> None:
    values = np.arange(6.0).reshape(2, 3)
    arrays = {"columns": np.asfortranarray(values), "turned": values.T, "steps": np.arange(10.0)[::2]}
    location = LocalLocation(tmp_path)
    read = read_fit_arrays(location, write_fit(location, DIGEST, arrays, {}, DIGEST, 1, {}))
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
