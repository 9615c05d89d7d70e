"""Learn an edit from finished photographs alone, and measure it on what they looked like before.

    python benchmarks/synthetic_befores.py --before DIR --after DIR --out results/synthetic_befores.json

The pictures after make a paired library with synthetic befores. For each photograph, the fit is of the library without
it; its real picture before is edited and compared with the real one after. The real pictures before serve for nothing
else. Reported are mean PSNR of no edit and of the edit, and how many are worse than no edit by more than 1 dB.
"""

from __future__ import annotations

from kt_batch.process import tune_process

tune_process()  # before torch is imported

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from kt_batch.config import PairsConfig, RunOptions
from kt_batch.evaluation.likeness import psnr
from kt_batch.kernels.descriptors import describe
from kt_batch.kernels.quadratic import apply_map
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.methods.retouch.fit import fit_pairs
from kt_batch.methods.retouch.method import COLOURS
from kt_batch.methods.retouch.predict import predict
from kt_batch.pipelines.pairs.finish import extract_pairs
from kt_batch.pipelines.pairs.fit import pair_table
from kt_batch.pipelines.pairs.plan import PairsRequest
from kt_batch.pipelines.pairs.worker import check_pair
from kt_batch.pipelines.progress import no_progress
from kt_batch.runners.local import LocalRunner
from kt_batch.store.images.files import decode
from kt_batch.store.opening import open_paired

MUCH = 1.0  # dB


def measure(before: Path, after: Path, library: Path) -> dict[str, dict[str, float]]:
    """Return name -> PSNR of no edit and of the edit, each photograph left out of the fit that edits it."""
    config = PairsConfig(synthetic=True)
    extract_pairs(PairsRequest([], [str(after)], str(library), config, RunOptions()), LocalRunner(), no_progress)
    opened = open_paired(str(library))
    names = [Path(place).name for place in opened.table(["after"])["after"].to_pylist()]
    table = pair_table(opened)
    scores = {}
    for name in sorted(set(names)):
        fit = fit_pairs(table.take(row for row, other in enumerate(names) if other != name), FitConfig())
        one, other = (decode((folder / name).read_bytes(), config.size) for folder in (before, after))
        first, wanted = check_pair(one, other)
        colours = first.reshape(-1, 3)
        made = predict(fit, describe(first), colours[:: max(1, len(colours) // COLOURS)])
        scores[name] = {"none": psnr(first, wanted), "edit": psnr(apply_map(first, made.coefficients), wanted)}
    return scores


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("before", "after", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scores = measure(options.before, options.after, Path(folder) / "library")
    summary = {
        "photographs": len(scores),
        "none": round(float(np.mean([score["none"] for score in scores.values()])), 3),
        "edit": round(float(np.mean([score["edit"] for score in scores.values()])), 3),
        "better": sum(score["edit"] > score["none"] for score in scores.values()),
        "much_worse": sum(score["edit"] < score["none"] - MUCH for score in scores.values()),
    }
    rounded = {name: {key: round(value, 2) for key, value in score.items()} for name, score in scores.items()}
    options.out.write_text(json.dumps({"summary": summary, "photographs": rounded}, indent=1) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
