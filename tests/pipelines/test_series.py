"""Photographs of a series share one edit, which never changes once it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import no_progress
from tests.support.bursts import edited, shoot
from tests.support.pairs import draw_pairs, fitted, paired
from tests.support.tiny import rows


def dusk(values):  # type: ignore[no-untyped-def]
    """Brighten dark pictures, and leave bright ones: an edit that differs between photographs."""
    return (values ** (0.5 + values.mean())).clip(0, 1)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    paired(*draw_pairs(folder, range(1, 13), dusk), folder / "library")
    fitted(folder / "library")
    return folder / "library"


@pytest.fixture
def wedding(tmp_path: Path) -> Path:
    """Return a folder with a burst of three, the same scene an hour later, and an unlike picture within the burst."""
    folder = tmp_path / "wedding"
    for number, stops in enumerate((0.0, 0.12, -0.12)):
        shoot(folder / f"burst{number}.jpg", 21, f"2026:06:01 10:00:0{number}", stops=stops, crop=number)
    shoot(folder / "later.jpg", 21, "2026:06:01 11:00:00", stops=0.05)
    shoot(folder / "unlike.jpg", 21, "2026:06:01 10:00:01", grey=True, stops=-1.5)
    return folder


def by_name(run: Path) -> dict[str, dict[str, Any]]:
    """Return the edits of a run by the name of the photograph."""
    return {Path(row["output"]).name.partition(".")[0]: row for row in rows(run, "edits")}


def digest(run: Path) -> str | None:
    summary = verify(str(run), no_progress)
    assert summary.faults == ()
    return summary.digest


BURST = ("burst0", "burst1", "burst2")


def test_a_burst_shares_one_edit(wedding: Path, library: Path, tmp_path: Path) -> None:
    edited([wedding], library, tmp_path / "run")
    edits = by_name(tmp_path / "run")
    assert len({tuple(edits[name]["map"]) for name in BURST}) == 1
    assert len({edits[name]["series"] for name in BURST}) == 1
    edited([wedding], library, tmp_path / "apart", "none")
    apart = by_name(tmp_path / "apart")
    assert len({tuple(apart[name]["map"]) for name in BURST}) == 3
    assert "series" not in apart["burst0"]
