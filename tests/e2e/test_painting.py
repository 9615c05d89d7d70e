"""Paintings, however the work is run: the same bytes, whatever is stopped, moved or damaged."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.config import RunOptions
from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import TranslateSummary, translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.base import Runner
from kt_batch.runners.local import LocalRunner
from kt_batch.runners.ray.runner import RayRunner
from tests.e2e.conftest import kt, run
from tests.e2e.test_resume import DRIVER, nothing_half_written
from tests.e2e.test_s3 import upload
from tests.support.ray_local import ray_here, ray_runner  # noqa: F401  # the fixtures
from tests.support.s3_server import S3Server, moto_server  # noqa: F401  # the fixture
from tests.support.tiny import draw_all, hashes, painted_library, results


@dataclass(frozen=True)
class Gallery:
    """Three paintings, three photographs, and an indexed library for paintings; 64 pixels, one thread."""

    paintings: Path
    photos: Path
    library: Path


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    root = tmp_path_factory.mktemp("gallery")
    paintings, photos = draw_all(root / "paintings", [1, 2, 3]), draw_all(root / "photos", [11, 12, 13])
    painted_library(paintings, root / "library")
    return Gallery(paintings, photos, root / "library")


def painted(
    photos: Sequence[Path | str],
    library: Path | str,
    run: Path | str,
    runner: Runner | None = None,
    unit_size: int = 1,
    cache: Path | None = None,
) -> TranslateSummary:
    """Paint photographs with strokes of another size, which moves matches between sizes."""
    config, sources = choose("painting", {"stroke": 1.5}, Choice(library=library, cache=cache))
    options = RunOptions(threads=1, unit_size=unit_size)
    request = TranslateRequest([str(photo) for photo in photos], str(run), config, sources, options)
    return translate(request, runner or LocalRunner(), no_progress)


def digest(run: Path | str) -> str | None:
    checked = verify(str(run), no_progress)
    assert checked.faults == ()
    return checked.digest


def test_two_workers_of_ray_paint_the_bytes_of_one_process(
    gallery: Gallery,
    tmp_path: Path,
    ray_runner: RayRunner,  # noqa: F811  # joins the cluster that the next one shares
) -> None:
    for runner, place in ((None, "local"), (RayRunner(None, 2, threads=1), "ray")):
        assert painted([gallery.photos], gallery.library, tmp_path / place, runner).rejected == 0
    for folder in ("plan", "images", "provenance"):
        assert hashes(tmp_path / "ray", folder) == hashes(tmp_path / "local", folder)
    assert digest(tmp_path / "ray") == digest(tmp_path / "local")


def test_neither_order_nor_units_change_a_painting(gallery: Gallery, tmp_path: Path) -> None:
    photos = sorted(gallery.photos.iterdir())
    painted(photos, gallery.library, tmp_path / "one by one")
    painted(photos[::-1], gallery.library, tmp_path / "at once", unit_size=8)
    assert hashes(tmp_path / "one by one", "images") == hashes(tmp_path / "at once", "images")
    assert digest(tmp_path / "one by one") == digest(tmp_path / "at once")


@pytest.mark.parametrize(("folder", "number"), [("images", 2), ("provenance", 1)])
def test_a_killed_painting_continues(gallery: Gallery, tmp_path: Path, folder: str, number: int) -> None:
    def words(place: str) -> list[str]:
        where = ["--library", str(gallery.library), "--out", str(tmp_path / place)]
        return ["translate", str(gallery.photos), *where, "--preset", "painting", "--threads", "1", "--unit-size", "2"]

    ended = run(sys.executable, "-c", DRIVER, folder, number, "after", *words("killed"))
    assert ended.code == -signal.SIGKILL
    nothing_half_written(tmp_path / "killed")
    for place in ("killed", "undisturbed"):
        assert run_app(app, words(place)) == 0
    assert results(tmp_path / "killed") == results(tmp_path / "undisturbed")


def test_everything_in_a_bucket_gives_the_local_painting(
    gallery: Gallery,
    tmp_path: Path,
    moto_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = moto_server.new_location(monkeypatch).uri
    paintings, photos = upload(gallery.paintings, f"{place}/paintings"), upload(gallery.photos, f"{place}/photos")
    painted_library(paintings, f"{place}/library")
    assert painted([photos], f"{place}/library", f"{place}/run", cache=tmp_path / "cache").rejected == 0
    painted([gallery.photos], gallery.library, tmp_path / "run")
    assert hashes(f"{place}/run", "images") == hashes(tmp_path / "run", "images")
    told = kt("explain", f"{place}/run", "11.png", "--at", "10,20", "--json")
    assert (told.code, told.json["kind"]) == (0, "patches")
    checked = kt("verify", f"{place}/run", "--recompute", 1, "--json")
    assert (checked.code, checked.json["faults"]) == (0, [])


def test_a_moved_library_paints_and_explains_as_before(gallery: Gallery, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(gallery.library, before)
    photos = sorted(gallery.photos.iterdir())
    painted(photos[:1], before, tmp_path / "run")
    before.rename(after)
    assert painted(photos, after, tmp_path / "run").new_images == 2
    painted(photos, gallery.library, tmp_path / "other")
    assert hashes(tmp_path / "run", "images") == hashes(tmp_path / "other", "images")


def test_a_grown_library_asks_for_an_index_and_paints_in_a_new_run(gallery: Gallery, tmp_path: Path) -> None:
    library = Path(shutil.copytree(gallery.library, tmp_path / "library"))
    painted([gallery.photos], library, tmp_path / "run")
    before = digest(tmp_path / "run")
    painted_library(draw_all(tmp_path / "more", [4]), library)
    words = ("translate", gallery.photos, "--library", library, "--preset", "painting", "--threads", 1)
    ended = kt(*words, "--out", tmp_path / "grown")
    assert ended.code == 0, ended.err
    assert digest(tmp_path / "run") == before
    assert digest(tmp_path / "grown") != before


def blackened(path: Path) -> None:
    """Overwrite 64 bytes within the pictures of a part: what is left may well decode, to other pixels."""
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 64] = bytes(64)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (blackened, "is not readable as Parquet: could not verify page integrity"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "bytes, but its receipt says"),
        (lambda path: path.unlink(), "nothing lies at"),
    ],
    ids=["changed", "short", "gone"],
)
def test_kept_images_that_are_damaged_stop_a_painting_in_one_sentence(
    gallery: Gallery, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    library = Path(shutil.copytree(gallery.library, tmp_path / "library"))
    for path in sorted((library / "working").iterdir()):
        damage(path)
    words = ("translate", gallery.photos, "--library", library, "--preset", "painting", "--threads", 1)
    ended = kt(*words, "--out", tmp_path / "run")
    assert ended.code == 1
    *_, sentence = ended.err.splitlines()
    assert sentence.startswith("kt-batch: ")
    assert f"{library}/working/part-" in sentence
    assert said in sentence
    assert "Traceback" not in ended.err
    assert not list((tmp_path / "run/images").glob("*"))
