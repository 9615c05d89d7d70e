"""The forecast in the documents is what the script computes from the stored rates."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.forecast import main

SCALE = Path(__file__).parents[2] / "docs/scale.md"


def test_the_table_of_scale_is_what_the_forecast_prints(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    printed = capsys.readouterr().out
    assert printed.count("\n") > 10
    assert printed in SCALE.read_text(encoding="utf-8")
