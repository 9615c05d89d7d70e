"""Evaluate a paired library: read its pairs anew, and measure edits of photographs that were left out of the fit."""

from __future__ import annotations

import numpy as np

from kt_batch.errors import MissingError, RejectError, UsageError
from kt_batch.evaluation.pairs import PairsReport, evaluate_pairs
from kt_batch.evaluation.statistics_swap import StatisticsSwap
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.pipelines.inputs import read_pair
from kt_batch.pipelines.pairs.fit import pair_table
from kt_batch.pipelines.pairs.worker import check_pair
from kt_batch.pipelines.progress import Progress, Step
from kt_batch.store.images.reader_process import ImageReaderProcess
from kt_batch.store.locations import absolute_place
from kt_batch.store.opening import open_paired
from kt_batch.store.plans import Item

READINGS = 2  # of each pair, for the methods that learn from pairs


def evaluate_library(
    place: str, config: FitConfig, progress: Progress, statistics_swap: bool = False
) -> tuple[PairsReport, dict[str, str]]:
    """Evaluate the pairs that a paired library holds now, and return the report with the name of each pair by id.

    Args:
        place: The library.
        config: The fit.
        progress: Called with every step.
        statistics_swap: Compare with the statistics swap of the paper too.

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

        def read(pair: str) -> tuple[np.ndarray, np.ndarray]:
            try:
                before, after = read_pair([items[pair]], lambda data: reader.decode(data, library.config.size))
                return check_pair(before, after)
            except RejectError as error:
                raise MissingError(f"A pair of '{absolute_place(place)}' cannot be evaluated: {error}") from error

        def pictures(pair: str) -> tuple[np.ndarray, np.ndarray]:
            nonlocal done
            both = read(pair)
            done += 1
            progress(Step("evaluate", done, READINGS * len(items)))
            return both

        table = pair_table(library)
        others = StatisticsSwap(table, lambda pair: read(pair)[1]).methods() if statistics_swap else {}
        report = evaluate_pairs(table, pictures, config, others)
    return report, {pair: item.name for pair, item in items.items()}
