"""The demo contains its inputs and runs the complete main job."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from kt_batch.config import EncoderConfig, ExtractConfig, RunOptions
from kt_batch.demo import demo as demo_module
from kt_batch.demo.bundled import bundled
from kt_batch.demo.demo import LIBRARIES, LOOKS, PHOTOGRAPHS, demo
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.progress import no_progress
from kt_batch.runners.local import LocalRunner


def test_an_installed_package_contains_the_photographs_of_the_demo() -> None:
    found = bundled(PHOTOGRAPHS)
    assert sorted(found) == ["astronaut", "chelsea", "coffee", "rocket"]
    assert all(image.mode == "RGB" and min(image.size) >= 300 for image in found.values())


def small_canvas(name: str) -> Image.Image:
    return Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 20 + len(name)).convert("RGB")


def small_photographs(names: tuple[str, ...]) -> dict[str, Image.Image]:
    return {name: image.resize((64, 48)) for name, image in bundled(names).items()}


def test_every_library_is_translated_in_both_ways_and_shown_on_one_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_module, "canvas", small_canvas)
    monkeypatch.setattr(demo_module, "bundled", small_photographs)
    encoder = load_encoder(EncoderSource())
    extraction = ExtractConfig(encoder=EncoderConfig(weights_sha256=encoder.sha256, size=64))
    how = RunOptions(threads=1)
    summary = demo(tmp_path, extraction, EncoderSource(), how, LocalRunner(), no_progress)
    assert sorted(summary.runs) == sorted(f"{name}, {look}" for name in LIBRARIES for look in LOOKS)
    assert all(run.images == len(PHOTOGRAPHS) and run.rejected == 0 for run in summary.runs.values())
    page = Path(summary.sheet).read_text(encoding="utf-8")
    assert all(title in page for title in summary.runs)
    assert (summary.retouching.pairs, summary.retouching.photographs) == (20, 4)
    assert Path(summary.retouching.page).is_file()
