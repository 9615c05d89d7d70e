"""Progress on standard error: a bar on a terminal, lines otherwise."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import kt_batch.cli.progress
from kt_batch.cli.progress import ProgressDisplay
from kt_batch.pipelines.progress import Step


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Return a terminal that records what is written to it."""
    screen = io.StringIO()

    def console(*, stderr: bool) -> Console:
        assert stderr
        return Console(file=screen, force_terminal=True, width=120, color_system=None)

    monkeypatch.setattr(kt_batch.cli.progress, "Console", console)
    return screen


def test_without_a_terminal_each_stage_has_a_line_at_its_begin_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as display:
        for done in range(5):
            display(Step("extract", done, 4, rejects=done // 2))
    said = capsys.readouterr()
    assert said.out == ""
    first, last = said.err.splitlines()
    assert first == "extract 0/4"
    assert last.startswith("extract 4/4, ")
    assert last.endswith("/s, 2 rejected")


def test_after_ten_seconds_a_line_shows_the_rate_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("kt_batch.cli.progress.time.monotonic", lambda: now[0])
    with ProgressDisplay() as display:
        display(Step("extract", 10, 50))  # ten were done earlier
        for done in (14, 20, 30):
            now[0] += 4.0
            display(Step("extract", done, 50))
    # 20 of 40 in 12 seconds; the lines at 4 and 8 seconds would be too many.
    assert capsys.readouterr().err.splitlines() == ["extract 10/50", "extract 30/50, 1.67/s, 12 s left"]


def test_a_note_is_printed_once_even_without_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as display:
        display(Step("plan", 0, 0, note="This [will] take 1.0 GB."))
    assert capsys.readouterr().err == "This [will] take 1.0 GB.\n"


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(quiet=True) as display:
        display(Step("plan", 1, 1, note="nothing"))
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar_for_each_stage(terminal: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as display:
        display(Step("plan", 2, 2, note="This takes 1.0 GB."))
        for done in range(3):
            display(Step("extract", done, 2, rejects=done))
    seen = terminal.getvalue()
    assert "This takes 1.0 GB." in seen
    last = seen.replace("\r", "\n").splitlines()
    assert any("plan" in line and "2/2" in line for line in last)
    assert any("extract" in line and "2/2" in line and "2 rejected" in line for line in last)
    assert capsys.readouterr() == ("", "")
