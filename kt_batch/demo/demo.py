"""The main job on bundled photographs: extract, index, translate with both swaps, write a contact sheet."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from kt_batch.config import ExtractConfig, IndexConfig, RunOptions
from kt_batch.demo.canvases import canvas
from kt_batch.errors import StorageError, UsageError
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
from kt_batch.store.targets import write_file

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
PICTURES = ("hubble_deep_field.jpg", "ihc.png")  # from a telescope and a microscope
LIBRARIES = {"night": ("night", "hubble_deep_field"), "day": ("harvest", "poppies", "ink", "ihc")}
SWAPS = ("geometric", "statistics")


@dataclass(frozen=True)
class DemoSummary:
    """The path of the contact sheet, and the summary of each run by library and swap."""

    sheet: str
    runs: dict[str, TranslateSummary]


def demo(
    out: Path,
    extraction: ExtractConfig,
    source: EncoderSource,
    options: RunOptions,
    runner: Runner,
    progress: Progress,
) -> DemoSummary:
    """Run the main job below `out`: two libraries, each with both swaps. A second call skips finished work.

    Raises:
        UsageError: If scikit-image is not installed, or another page than ours is in `out`.
    """
    out = out.absolute()
    write_inputs(out)
    sheet_target(out).check()
    runs = {}
    for name in LIBRARIES:
        library = str(out / "libraries" / name)
        styles = [str(out / "styles" / name)]
        extract(ExtractRequest(styles, library, extraction, source, options), runner, progress)
        index = build_index(library, IndexConfig(), options, runner, progress)
        for swap in SWAPS:
            run = str(out / "runs" / f"{name}-{swap}")
            config, sources = choose("knowledge", {"swap": swap}, Choice(library=library, index=index.index))
            request = TranslateRequest([str(out / "photographs")], run, config, sources, options)
            runs[f"{name}, {swap} swap"] = translate(request, runner, progress)
    sheet = write_sheet({title: summary.run for title, summary in runs.items()}, out)
    return DemoSummary(str(sheet), runs)


def write_inputs(out: Path) -> None:
    """Write the demo's photographs, paintings and pictures below `out`; existing files stay."""
    pictures = bundled(PICTURES)
    _save(out / "photographs", bundled(PHOTOGRAPHS))
    for library, names in LIBRARIES.items():
        _save(out / "styles" / library, {name: pictures.get(name) or canvas(name) for name in names})


def _save(folder: Path, images: Mapping[str, Image.Image]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder '{folder}' cannot be made: {error.strerror}.") from error
    for name, image in images.items():
        target = folder / f"{name}.png"
        if not target.exists():
            file = io.BytesIO()
            image.save(file, "PNG")
            write_file(target, file.getvalue())


def bundled(names: tuple[str, ...]) -> dict[str, Image.Image]:
    """Return images bundled with scikit-image, by the stem of their file name. Raises UsageError without it."""
    try:
        from skimage import data
    except ImportError as error:
        raise UsageError("The demo's photographs come with scikit-image: pip install 'kt-batch[demo]'.") from error
    folder = Path(data.__file__).parent
    return {Path(name).stem: Image.open(folder / name).convert("RGB") for name in names}
