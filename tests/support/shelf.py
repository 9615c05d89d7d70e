"""Libraries whose images have tags and licences, and runs after a choice of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from kt_batch.config import ExtractConfig, IndexConfig, RunOptions
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.extract.finish import extract
from kt_batch.pipelines.extract.plan import ExtractRequest
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import TranslateSummary, translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.base import Runner
from kt_batch.runners.local import LocalRunner
from kt_batch.store.images.files import image_id
from kt_batch.store.manifest_files import read_manifests
from tests.support.tiny import draw_all, encoder_config, indexed

UNMERGED = IndexConfig(merge=1.0, payload="float16", fan_out=4, max_leaf=64)


@dataclass(frozen=True)
class Shelf:
    """A library of paintings 1 to 4 with tags and licences, one of 5, and one of paintings 1 and 3 alone.

    ids: Image id by number. Tags `odd` and `even`; the licence of 1 and 2 is CC0, that of the others CC-BY.
    """

    library: Path
    other: Path
    odd: Path
    photos: Path
    ids: dict[int, bytes]


def make_shelf(root: Path) -> Shelf:
    """Make the libraries below a folder."""
    paintings = draw_all(root / "paintings", range(1, 6))
    ids = {number: bytes.fromhex(image_id((paintings / f"{number}.png").read_bytes())) for number in range(1, 6)}
    listed = root / "paintings.csv"
    lines = [f"paintings/{number}.png,{'odd' if number % 2 else 'even'}" for number in range(1, 5)]
    listed.write_text("\n".join(["uri,tags", *lines]) + "\n")
    make(root / "library", [], listed)
    make(root / "other", [paintings / "5.png"])
    make(root / "odd", [paintings / "1.png", paintings / "3.png"])
    return Shelf(root / "library", root / "other", root / "odd", draw_all(root / "photos", [11, 12]), ids)


def make(library: Path, images: list[Path], manifest: Path | None = None) -> None:
    """Extract and index images, or those of a list with the tags that it gives."""
    config = ExtractConfig(encoder=encoder_config(), license="CC0")
    lists = read_manifests([str(manifest)] if manifest else [])
    options = RunOptions(threads=1, unit_size=2)
    extract(
        ExtractRequest([str(image) for image in images], str(library), config, EncoderSource(), options, lists),
        LocalRunner(),
        no_progress,
    )
    indexed(library, config=UNMERGED)


def run(
    run: Path,
    photos: Path,
    *,
    method: str = "knowledge",
    runner: Runner | None = None,
    unit_size: int = 2,
    settings: Mapping[str, object] | None = None,
    **choice: object,
) -> TranslateSummary:
    """Translate photographs after the choice, in this process by default."""
    given = Choice(cache=str(run.parent / "cache"), **choice)  # type: ignore[arg-type]
    config, sources = choose(method, settings or {}, given)
    request = TranslateRequest([str(photos)], str(run), config, sources, RunOptions(threads=1, unit_size=unit_size))
    return translate(request, runner or LocalRunner(), no_progress)


def pixels(run: Path) -> dict[str, bytes]:
    """Return the samples of each picture by name; files also say which library they were made from."""
    return {path.name: Image.open(path).tobytes() for path in (run / "images").iterdir()}
