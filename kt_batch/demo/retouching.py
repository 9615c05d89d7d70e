"""Learn a scripted photographer's hand from pairs, edit other photographs with it, and show both edits on a page."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kt_batch.config import PairsConfig, RunOptions
from kt_batch.demo.bundled import save_images
from kt_batch.demo.hand import exposed, scripted_edit
from kt_batch.methods.retouch.config import FitConfig
from kt_batch.pipelines.pairs.finish import extract_pairs
from kt_batch.pipelines.pairs.fit import fit
from kt_batch.pipelines.pairs.plan import PairsRequest
from kt_batch.pipelines.progress import Progress
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.report.sheet import Extras, write_sheet
from kt_batch.runners.base import Runner
from kt_batch.store.opening import open_run
from kt_batch.store.run import read_output

LEARNED_FROM = ("astronaut.png", "coffee.png", "rocket.jpg", "ihc.png", "retina.jpg")
HELD_OUT = ("chelsea.png", "motorcycle_left.png")
STOPS = (-1.2, 0.6)  # the range of the exposures that pairs are given
HELD_OUT_STOPS = {"dark": -0.9, "bright": 0.5}
SIDE = 640  # pixels of a photograph's long side
SEED = 1


@dataclass(frozen=True)
class RetouchingSummary:
    """The page, and how near the held-out photographs are to the scripted edits: mean PSNR in dB."""

    page: str
    pairs: int
    photographs: int
    learned_db: float
    unedited_db: float


def demo_retouching(
    out: Path,
    learned_from: Mapping[str, Image.Image],
    held_out: Mapping[str, Image.Image],
    options: RunOptions,
    runner: Runner,
    progress: Progress,
) -> RetouchingSummary:
    """Extract pairs, fit, translate the photographs that were held out, and write the page, all below `out`.

    A second call skips finished work.
    """
    write_pairs(out, learned_from)
    write_held_out(out, held_out)
    library, run = str(out / "library"), str(out / "run")
    pairs = extract_pairs(
        PairsRequest([str(out / "before")], [str(out / "after")], library, PairsConfig(), options), runner, progress
    )
    fit(library, FitConfig(), options.threads or 1)
    config, sources = choose("retouch", {}, Choice(library=library))
    translate(TranslateRequest([str(out / "photographs")], run, config, sources, options), runner, progress)
    scripted = {path.name: path for path in sorted((out / "scripted").iterdir())}
    learned_db, unedited_db = _distances(out, run, scripted)
    note = (
        f"The hand is a script: exposure that depends on the picture, a tone curve, warmth. It edited {pairs.pairs} "
        f"pictures to learn from: the quarters of {len(learned_from)} bundled pictures, each exposed at random. The "
        f"photographs below are whole, of other scenes, and none of them was learned from. Mean PSNR against the "
        f"scripted edits: learned edits {learned_db:.1f} dB, unedited photographs {unedited_db:.1f} dB; more is closer."
    )
    extras = Extras(heading="A photographer's hand, learned", note=note, pictures={"Scripted edit": scripted})
    page = write_sheet({"Learned edit": run}, out, len(scripted), extras)
    return RetouchingSummary(str(page), pairs.pairs, len(scripted), learned_db, unedited_db)


def write_pairs(out: Path, photographs: Mapping[str, Image.Image]) -> None:
    """Write the quarters of photographs, each with an exposure of its own, before and after the scripted edit."""
    random = np.random.default_rng(SEED)
    for name, photograph in photographs.items():
        for number, quarter in enumerate(quarters(_values(photograph)), 1):
            before = _image(exposed(quarter, random.uniform(*STOPS)))
            save_images(out / "before", {f"{name}-{number}": before})
            save_images(out / "after", {f"{name}-{number}": _image(scripted_edit(_values(before)))})


def write_held_out(out: Path, photographs: Mapping[str, Image.Image]) -> None:
    """Write whole photographs, too dark and too bright, before and after the scripted edit."""
    for name, photograph in photographs.items():
        for kind, stops in HELD_OUT_STOPS.items():
            before = _image(exposed(_values(photograph), stops))
            save_images(out / "photographs", {f"{name}-{kind}": before})
            save_images(out / "scripted", {f"{name}-{kind}": _image(scripted_edit(_values(before)))})


def quarters(picture: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Cut a picture `(H, W, 3)` into four."""
    return [part for half in np.array_split(picture, 2, axis=0) for part in np.array_split(half, 2, axis=1)]


def _distances(out: Path, run: str, scripted: Mapping[str, Path]) -> tuple[float, float]:
    """Return the mean PSNR from the scripted edits: of the run's outputs, and of the photographs."""
    opened, learned, unedited = open_run(run), [], []
    for output in opened.outputs.values():
        wanted = _values(Image.open(scripted[output.input_name]))
        learned.append(_psnr(_values(Image.open(io.BytesIO(read_output(opened, output)))), wanted))
        unedited.append(_psnr(_values(Image.open(out / "photographs" / output.input_name)), wanted))
    return round(float(np.mean(learned)), 2), round(float(np.mean(unedited)), 2)


def _psnr(picture: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    return float(-10 * np.log10(max(float(np.mean((picture - wanted) ** 2)), 1e-10)))


def _values(image: Image.Image) -> NDArray[np.float64]:
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(small, np.float64) / 255


def _image(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray((values * 255 + 0.5).astype(np.uint8))
