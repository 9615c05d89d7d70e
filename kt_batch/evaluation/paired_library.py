"""Evaluate a paired library: read its pairs anew, and measure edits of photographs that were left out of the fit."""

from __future__ import annotations

import numpy as np

from kt_batch.errors import MissingError, RejectError, UsageError
from kt_batch.evaluation.pairs import PairsReport, evaluate_pairs
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.pipelines.inputs import read_pair
from kt_batch.pipelines.pairs.fit import pair_table
from kt_batch.pipelines.pairs.worker import check_pair
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.locations import absolute_place
from kt_batch.store.opening import open_paired
from kt_batch.store.plans import Item

READINGS = 2  # of each pair


def evaluate_library(place: str, config: FitConfig, progress: Progress) -> tuple[PairsReport, dict[str, str]]:
    """Evaluate the pairs that a paired library holds now, and return the report with the name of each pair by id.

    Raises:
        MissingError: There is no paired library, it holds no pairs, or the files of a pair are gone or changed.
        UsageError: It holds fewer than two pairs or synthetic ones, or scikit-image is not installed.
    """
    library = open_paired(place)
    if library.config.synthetic:
        raise UsageError(
            f"The pictures before of '{absolute_place(place)}' are synthetic: how near edits of them come to the "
            "photographs says nothing about real ones; evaluate a library of real pairs (--before and --after)."
        )
    columns = library.table(["before", "after", "name"]).to_pylist()
    items = {
        row["image_id"].hex(): Item(row["image_id"].hex(), row["before"], row["name"], after=row["after"])
        for row in columns
    }
    done = 0
    with ImageReaderProcess() as reader:

        def pictures(pair: str) -> tuple[np.ndarray, np.ndarray]:
            nonlocal done
            try:
                before, after = read_pair([items[pair]], lambda data: reader.decode(data, library.config.size))
                both = check_pair(before, after)
            except RejectError as error:
                raise MissingError(f"A pair of '{absolute_place(place)}' cannot be evaluated: {error}") from error
            done += 1
            progress(Step("evaluate", done, READINGS * len(items)))
            return both

        report = evaluate_pairs(pair_table(library), pictures, config)
    return report, {pair: item.name for pair, item in items.items()}
