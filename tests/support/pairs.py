"""Small before/after pairs, and paired libraries and fits of them made by the real pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kt_batch.config import PairsConfig, RunOptions
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.pipelines.pairs.finish import PairsSummary, extract_pairs
from kt_batch.pipelines.pairs.fit import FitResult, fit
from kt_batch.pipelines.pairs.plan import PairsRequest
from kt_batch.pipelines.progress import Progress, no_progress
from kt_batch.runners.base import Runner
from kt_batch.runners.local import LocalRunner
from kt_batch.store.manifest_files import read_pair_list
from tests.support.tiny import draw

Hand = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def warm(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Warm and brighten colours in [0, 1]: a quadratic edit, the same for every picture."""
    warmed: NDArray[np.float64] = values * (1.3 - 0.3 * values) * [1.0, 0.97, 0.85] + [0.03, 0.01, 0.0]
    return warmed.clip(0, 1)


def edit_file(before: Path, after: Path, hand: Hand = warm) -> Path:
    """Write the edited picture of a file."""
    values = np.asarray(Image.open(before).convert("RGB"), np.float64) / 255
    after.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((hand(values) * 255 + 0.5).astype(np.uint8)).save(after)
    return after


def draw_pairs(folder: Path, seeds: Sequence[int], hand: Hand = warm) -> tuple[Path, Path]:
    """Write `before/<seed>.png` and `after/<seed>.png` for each seed; return both folders."""
    for seed in seeds:
        before = draw(folder / "before" / f"{seed}.png", seed, 96, 72)
        edit_file(before, folder / "after" / f"{seed}.png", hand)
    return folder / "before", folder / "after"


def paired(
    before: Path | str,
    after: Path | str,
    library: Path | str,
    runner: Runner | None = None,
    options: RunOptions | None = None,
    progress: Progress = no_progress,
    **config: object,
) -> PairsSummary:
    """Extract pairs with one thread in this process by default; `config` are PairsConfig fields."""
    settings = PairsConfig.model_validate({"size": 96, **config})
    options = options or RunOptions(threads=1, unit_size=2)
    return extract_pairs(
        PairsRequest([str(before)], [str(after)], str(library), settings, options), runner or LocalRunner(), progress
    )


def fitted(library: Path | str) -> FitResult:
    """Fit a paired library."""
    return fit(str(library), FitConfig())


def listed(place: Path | str, library: Path | str, options: RunOptions | None = None, **config: object) -> PairsSummary:
    """Extract the pairs of a list with one thread in this process; `config` are PairsConfig fields."""
    settings = PairsConfig.model_validate({"size": 96, **config})
    options = options or RunOptions(threads=1, unit_size=2)
    request = PairsRequest([], [], str(library), settings, options, [read_pair_list(str(place))])
    return extract_pairs(request, LocalRunner(), no_progress)


def finished(after: Path | str, library: Path | str, unit_size: int = 2, **config: object) -> PairsSummary:
    """Extract finished photographs with synthetic befores, with one thread in this process."""
    settings = PairsConfig.model_validate({"size": 96, "synthetic": True, **config})
    request = PairsRequest([], [str(after)], str(library), settings, RunOptions(threads=1, unit_size=unit_size))
    return extract_pairs(request, LocalRunner(), no_progress)
