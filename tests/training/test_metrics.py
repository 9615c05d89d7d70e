"""The metrics of a training are a table with every step once, and events."""

from __future__ import annotations

from pathlib import Path

import pytest

from kt_batch.training.metrics import Metrics


def report_steps(out: Path, first: int, last: int, loss: float = 0.5) -> list[str]:
    """Report the steps from `first` to `last` to new Metrics; return the table."""
    metrics = Metrics(out, lambda line: None)
    for step in range(first, last + 1):
        metrics("relu1_1", step, {"reconstruction": loss})
    return (out / "relu1_1" / "metrics.csv").read_text(encoding="utf-8").split()


def test_a_resumed_table_continues_under_one_header(tmp_path: Path) -> None:
    assert report_steps(tmp_path, 1, 59) == ["step,reconstruction", "20,0.50000", "40,0.50000"]  # every 20th step
    assert report_steps(tmp_path, 60, 60, loss=0.25)[2:] == ["40,0.50000", "60,0.25000"]


@pytest.mark.parametrize("kept", [0, 20, 39, 40])
def test_a_resumed_training_replaces_the_rows_of_repeated_steps(tmp_path: Path, kept: int) -> None:
    report_steps(tmp_path, 1, 70)
    header, *rows = report_steps(tmp_path, kept + 1, 80, loss=0.25)
    expected = [f"{step},{'0.50000' if step <= kept else '0.25000'}" for step in (20, 40, 60, 80)]
    assert (header, rows) == ("step,reconstruction", expected)
    assert [path.name for path in (tmp_path / "relu1_1").glob("metrics*")] == ["metrics.csv"]


def test_repeated_rows_are_removed_as_soon_as_a_training_resumes(tmp_path: Path) -> None:
    report_steps(tmp_path, 1, 80)
    assert report_steps(tmp_path, 41, 41) == ["step,reconstruction", "20,0.50000", "40,0.50000"]


@pytest.mark.parametrize("torn", ["60", "60,0.5", "6", "8"])
def test_an_incomplete_last_row_is_removed(tmp_path: Path, torn: str) -> None:
    report_steps(tmp_path, 1, 40)
    with (tmp_path / "relu1_1" / "metrics.csv").open("a") as file:
        file.write(torn)
    assert report_steps(tmp_path, 41, 60) == ["step,reconstruction", "20,0.50000", "40,0.50000", "60,0.50000"]


def test_an_incomplete_header_is_rewritten(tmp_path: Path) -> None:
    (tmp_path / "relu1_1").mkdir()
    (tmp_path / "relu1_1" / "metrics.csv").write_text("step,recon")
    assert report_steps(tmp_path, 1, 20) == ["step,reconstruction", "20,0.50000"]


def test_a_table_that_cannot_be_rewritten_stays_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = report_steps(tmp_path, 1, 60)

    def no_space(path: Path, target: Path) -> Path:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", no_space)
        with pytest.raises(OSError, match="no space"):
            report_steps(tmp_path, 21, 40)
    assert (tmp_path / "relu1_1" / "metrics.csv").read_text(encoding="utf-8").split() == before


def test_events_are_written_for_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    Metrics(tmp_path, lambda line: None)("relu1_1", 20, {"reconstruction": 0.5})
    (events,) = (tmp_path / "relu1_1" / "tensorboard").iterdir()
    assert b"reconstruction" in events.read_bytes()
