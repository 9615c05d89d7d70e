"""A picture that was begun goes on from its last checkpoint, with the bytes of a picture that nothing stopped."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.config import RunOptions
from kt_batch.errors import DamagedError
from kt_batch.maintenance.gc import gc
from kt_batch.maintenance.verify import verify
from kt_batch.methods import descent
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate import checkpoints
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.runners.local import LocalRunner
from kt_batch.store.checkpoints import Checkpoint, put_checkpoint, read_checkpoint
from kt_batch.store.locations import open_location
from tests.e2e.conftest import run
from tests.e2e.test_resume import DRIVER
from tests.support.collection import Collection
from tests.support.s3_server import S3Server, moto_server  # noqa: F401  # the fixture
from tests.support.tiny import SIZE, hashes

STEPS = 8
SETTINGS: dict[str, dict[str, Any]] = {
    "lbfgs": {"iterations": STEPS, "sizes": 2},
    "adam": {"iterations": STEPS, "optimiser": "adam"},
    "refined": {"iterations": STEPS},
}


class Killed(BaseException):
    """Stands for SIGKILL."""


class Gallery:
    """Two photographs that are painted as one unit."""

    def __init__(self, collection: Collection, patch: pytest.MonkeyPatch) -> None:
        self.photos = [str(collection.photos / name) for name in ("11.png", "12.png")]
        self.style = str(collection.paintings / "1.png")
        self.patch, self.steps = patch, 0

    def paint(self, place: Path | str, how: str, kill_at: int | None = None) -> int:
        """Return the evaluations of the loss; a kill comes before the one of that number."""
        method = "gatys_refined" if how == "refined" else "gatys"
        config, sources = choose(method, SETTINGS[how], Choice(styles=self.style, size=SIZE))
        request = TranslateRequest(self.photos, str(place), config, sources, RunOptions(threads=1, unit_size=2))
        self.steps = 0

        def count(number: int, total: int, loss: object) -> None:
            del number, total, loss
            self.steps += 1
            if self.steps == kill_at:
                raise Killed

        with self.patch.context() as patch:
            patch.setattr(descent, "report_step", count)
            translate(request, LocalRunner(), no_progress)
        return self.steps

    def kill(self, place: Path | str, how: str, at: int) -> list[str]:
        """Return the checkpoints that a killed attempt leaves."""
        with pytest.raises(Killed):
            self.paint(place, how, at)
        return open_location(str(place)).list("checkpoints")


@pytest.fixture
def gallery(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", 0)
    return Gallery(collection, monkeypatch)


@pytest.mark.parametrize(("how", "at"), [("lbfgs", 6), ("lbfgs", 14), ("adam", 12), ("refined", 5)])
def test_a_killed_picture_goes_on_with_the_same_bytes(gallery: Gallery, tmp_path: Path, how: str, at: int) -> None:
    whole = gallery.paint(tmp_path / "whole", how)
    left = gallery.kill(tmp_path / "killed", how, at)
    assert len(left) == len({name.rpartition("/")[2][:16] for name in left}) > 0  # one for each picture
    assert gallery.paint(tmp_path / "killed", how) <= whole - at + 5  # a line search is made again
    assert hashes(tmp_path / "killed", "images") == hashes(tmp_path / "whole", "images")
    assert not open_location(str(tmp_path / "killed")).list("checkpoints")
    assert verify(str(tmp_path / "killed"), no_progress).digest == verify(str(tmp_path / "whole"), no_progress).digest


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swell(path: Path) -> None:
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def test_a_damaged_checkpoint_is_passed_over(gallery: Gallery, tmp_path: Path) -> None:
    whole = gallery.paint(tmp_path / "whole", "refined")
    for name in gallery.kill(tmp_path / "killed", "refined", 5):
        change(tmp_path / "killed" / name)
    assert gallery.paint(tmp_path / "killed", "refined") == whole
    assert hashes(tmp_path / "killed", "images") == hashes(tmp_path / "whole", "images")


@pytest.mark.parametrize("damage", [cut, change, empty, swell])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(3.0), "c": np.array(4)}
    run = open_location(str(tmp_path))
    name = put_checkpoint(run, "0" * 16, "1" * 16, 7, Checkpoint({"values": [1, "two"]}, arrays))
    found = read_checkpoint(run, name)
    assert found.document == {"values": [1, "two"]}
    for key, array in arrays.items():
        np.testing.assert_array_equal(found.arrays[key], array, strict=True)
    damage(tmp_path / name)
    with pytest.raises(DamagedError, match=name):
        read_checkpoint(run, name)


def test_a_checkpoint_of_another_numerics_class_is_passed_over(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gallery.paint(tmp_path / "whole", "refined")
    with monkeypatch.context() as patch:
        patch.setattr("kt_batch.pipelines.numerics.__version__", "0.0.0")
        left = gallery.kill(tmp_path / "killed", "refined", 5)
    assert gallery.paint(tmp_path / "killed", "refined") == whole
    assert set(open_location(str(tmp_path / "killed")).list("checkpoints")) <= set(left)


def test_a_checkpoint_under_the_name_of_another_picture_is_passed_over(gallery: Gallery, tmp_path: Path) -> None:
    whole = gallery.paint(tmp_path / "whole", "refined")
    first, second = gallery.kill(tmp_path / "killed", "refined", STEPS + 5)
    folder = tmp_path / "killed" / Path(first).parent
    one, two = Path(first).name, Path(second).name
    (folder / f"{two[:16]}-999999{one[23:]}").write_bytes((folder / one).read_bytes())
    (folder / f"{one[:16]}-999999{two[23:]}").write_bytes((folder / two).read_bytes())
    assert gallery.paint(tmp_path / "killed", "refined") < whole
    assert hashes(tmp_path / "killed", "images") == hashes(tmp_path / "whole", "images")


def test_what_a_killed_run_leaves_is_removed_by_gc(gallery: Gallery, tmp_path: Path) -> None:
    left = gallery.kill(tmp_path / "run", "refined", 5)
    found = gc(str(tmp_path / "run"), no_progress, delete=True, force=True)
    assert {orphan.name for orphan in found.orphans} == set(left)
    assert (found.foreign, open_location(str(tmp_path / "run")).list("checkpoints")) == (0, [])


def test_short_work_writes_no_checkpoint(gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 60.0)
    assert gallery.kill(tmp_path / "run", "refined", 2 * STEPS - 1) == []


def test_a_place_that_takes_no_checkpoint_costs_nothing_else(gallery: Gallery, tmp_path: Path) -> None:
    gallery.paint(tmp_path / "whole", "refined")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints").write_text("no folder")
    gallery.paint(tmp_path / "run", "refined")
    assert hashes(tmp_path / "run", "images") == hashes(tmp_path / "whole", "images")


def test_a_picture_in_a_bucket_goes_on(
    gallery: Gallery,
    tmp_path: Path,
    moto_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = moto_server.new_location(monkeypatch).uri
    whole = gallery.paint(tmp_path / "whole", "lbfgs")
    assert len(gallery.kill(f"{place}/run", "lbfgs", 14)) == 1
    assert gallery.paint(f"{place}/run", "lbfgs") <= whole - 9
    assert hashes(f"{place}/run", "images") == hashes(tmp_path / "whole", "images")
    assert not open_location(f"{place}/run").list("checkpoints")


FREQUENT = """
import kt_batch.pipelines.translate.checkpoints as checkpoints
checkpoints.SECONDS, checkpoints.SHARE = 0, 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_picture_goes_on_after_a_kill_as_its_checkpoint_gets_its_name(
    gallery: Gallery, tmp_path: Path, when: str
) -> None:
    words = ["translate", *gallery.photos, "--style", gallery.style, "--method", "gatys", "--size", str(SIZE)]
    words += ["--iterations", str(STEPS), "--sizes", "2", "--threads", "1", "--unit-size", "2"]
    gallery.paint(tmp_path / "whole", "lbfgs")
    place = ["--out", str(tmp_path / "killed")]
    ended = run(sys.executable, "-c", FREQUENT + DRIVER, "checkpoints", 5, when, *words, *place)
    assert ended.code == -signal.SIGKILL
    assert open_location(str(tmp_path / "killed")).list("checkpoints")
    assert run_app(app, [*words, *place]) == 0
    assert hashes(tmp_path / "killed", "images") == hashes(tmp_path / "whole", "images")
    assert not open_location(str(tmp_path / "killed")).list("checkpoints")
