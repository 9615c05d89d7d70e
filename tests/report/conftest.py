"""A small library and its runs, created once by the real pipelines."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kt_batch.config import EncoderConfig, ExtractConfig, IndexConfig, RunOptions, SearchConfig
from kt_batch.methods.knowledge import KnowledgeConfig
from kt_batch.models.weights import EncoderSource, load_decoder, load_encoder
from kt_batch.pipelines.extract.finish import extract
from kt_batch.pipelines.extract.plan import ExtractRequest
from kt_batch.pipelines.index.finish import build_index
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Sources
from kt_batch.runners.local import LocalRunner

OPTIONS = RunOptions(threads=1, unit_size=2)
HOSTILE = "<img src=x onerror=alert(1)>.png"
LONG = "n" * 250 + ".png"  # with `.png` added its output's name would be longer than file systems take


@dataclass(frozen=True)
class Made:
    """`library` holds wheat.png (96 x 80, working size 64 x 53) under two names, sea.png (120 x 60: 64 x 32) and a
    rejected broken.jpg. All runs are of the photographs park/a.jpg (60 x 56), HOSTILE and LONG (48 x 40)."""

    root: Path
    library: Path
    index: str
    blended: Path  # geometric, the best two blended
    statistics: Path  # matches like `blended`
    sparse: Path  # query stride 2


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("report")
    paintings, photos = root / "paintings", root / "photos"
    draw(paintings / "wheat.png", 96, 80, seed=1)
    shutil.copy(paintings / "wheat.png", paintings / "wheat again.png")
    draw(paintings / "sea.png", 120, 60, seed=2)
    (paintings / "broken.jpg").write_bytes(b"no image at all")
    draw(photos / "park" / "a.jpg", 60, 56, seed=3)
    draw(photos / HOSTILE, 48, 40, seed=4)
    draw(photos / LONG, 48, 40, seed=5)
    library = root / "library"
    index = make_library([str(paintings)], library)
    runs: dict[str, dict[str, Any]] = {
        "blended": {"search": SearchConfig(probes=4, top_k=2)},
        "statistics": {"search": SearchConfig(probes=4, top_k=2), "swap": "statistics"},
        "sparse": {"query_stride": 2},
    }
    for name, config in runs.items():
        make_run([str(photos)], library, index, root / name, **config)
    return Made(root, library, index, **{name: root / name for name in runs})


def draw(path: Path, width: int, height: int, seed: int) -> None:
    """Draw smooth coloured waves with a little noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 12.0
    waves = [np.sin(x * a + y * b + c) for a, b, c in random.uniform(0.3, 1.6, (3, 3))]
    pixels = 127 + 90 * np.stack(waves, axis=-1) + random.normal(0, 8, (height, width, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def encoder_config() -> EncoderConfig:
    return EncoderConfig(weights_sha256=load_encoder(EncoderSource()).sha256, size=64)


def make_library(images: Sequence[str], library: Path) -> str:
    """Extract and index; return the digest of the index."""
    config = ExtractConfig(encoder=encoder_config(), license="CC0", attribution="A. Painter")
    single = OPTIONS.model_copy(update={"unit_size": 1})
    extract(ExtractRequest(images, str(library), config, EncoderSource(), single), LocalRunner(), no_progress)
    tree = IndexConfig(fan_out=4, max_leaf=64)
    return build_index(str(library), tree, OPTIONS, LocalRunner(), no_progress).index


def make_run(images: Sequence[str], library: Path, index: str, run: Path, **config: Any) -> None:
    encoder = load_encoder(EncoderSource())
    decoder = load_decoder(encoder, "kt-vgg", "relu3_1", None)
    settings = KnowledgeConfig(encoder=encoder_config(), decoder_sha256=decoder.sha256, index_digest=index, **config)
    sources = Sources(library=str(library), encoder=EncoderSource(), cache=str(run.parent / "cache"))
    translate(TranslateRequest(images, str(run), settings, sources, OPTIONS), LocalRunner(), no_progress)
