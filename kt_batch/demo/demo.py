"""The main job on bundled photographs: extract, index, translate in two ways, write a contact sheet.

A second page shows what is learned of a scripted hand that edits photographs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kt_batch.config import ExtractConfig, IndexConfig, RunOptions, ScaleKey
from kt_batch.demo.bundled import bundled, save_images
from kt_batch.demo.canvases import canvas
from kt_batch.demo.retouching import HELD_OUT, LEARNED_FROM, RetouchingSummary, demo_retouching
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.extract.finish import extract
from kt_batch.pipelines.extract.plan import ExtractRequest
from kt_batch.pipelines.index.finish import build_index
from kt_batch.pipelines.progress import Progress
from kt_batch.pipelines.translate.finish import TranslateSummary, translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.report.sheet import sheet_target, write_sheet
from kt_batch.runners.base import Runner

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
PICTURES = ("hubble_deep_field.jpg", "ihc.png")  # from a telescope and a microscope
LIBRARIES = {"night": ("night", "hubble_deep_field"), "day": ("harvest", "poppies", "ink", "ihc")}
LOOKS = {
    "painting": ("painting", {}),
    "statistics swap": ("knowledge", {"swap": "statistics", "full_size": True}),  # decoded, it has halos (0034)
}


@dataclass(frozen=True)
class DemoSummary:
    """The path of the contact sheet, the summary of each run by library and look, and that of the second page."""

    sheet: str
    runs: dict[str, TranslateSummary]
    retouching: RetouchingSummary


def demo(
    out: Path,
    extraction: ExtractConfig,
    source: EncoderSource,
    options: RunOptions,
    runner: Runner,
    progress: Progress,
) -> DemoSummary:
    """Run the main job below `out`: two libraries, each with both looks, and edits learned from pairs.

    A second call skips finished work.

    Raises:
        UsageError: If scikit-image is not installed, or another page than ours is in `out`.
    """
    out = out.absolute()
    write_inputs(out)
    sheet_target(out).check()
    painted = ScaleKey("relu4_1", extraction.encoder.size)
    kept = extraction.model_copy(update={"also": (str(painted),), "keep_images": True})
    runs = {}
    for name in LIBRARIES:
        library = str(out / "libraries" / name)
        extract(ExtractRequest([str(out / "styles" / name)], library, kept, source, options), runner, progress)
        build_index(library, IndexConfig(), options, runner, progress, painted)
        build_index(library, IndexConfig(), options, runner, progress)
        for look, (method, settings) in LOOKS.items():
            run = str(out / "runs" / f"{name}-{look.partition(' ')[0]}")
            config, sources = choose(method, settings, Choice(library=library))
            request = TranslateRequest([str(out / "photographs")], run, config, sources, options)
            runs[f"{name}, {look}"] = translate(request, runner, progress)
    sheet = write_sheet({title: summary.run for title, summary in runs.items()}, out)
    learned = demo_retouching(out / "retouch", bundled(LEARNED_FROM), bundled(HELD_OUT), options, runner, progress)
    return DemoSummary(str(sheet), runs, learned)


def write_inputs(out: Path) -> None:
    """Write the demo's photographs, paintings and pictures below `out`; existing files stay."""
    pictures = bundled(PICTURES)
    save_images(out / "photographs", bundled(PHOTOGRAPHS))
    for library, names in LIBRARIES.items():
        save_images(out / "styles" / library, {name: pictures.get(name) or canvas(name) for name in names})
