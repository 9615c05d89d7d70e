"""The tables of docs/images.md: each row names tests, and they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ROWS = [
    [cell.strip() for cell in line.strip("|\n ").split(" | ")]
    for line in (ROOT / "docs/images.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| ---") and not line.endswith("| test |")
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:40] for row in ROWS])
def test_the_tests_of_a_row_exist(row: list[str]) -> None:
    files = re.findall(r"[\w/]+\.py", row[-1])
    names = re.findall(r"(?<![\w/.])\w+_\w+(?![\w/.])", row[-1])
    assert files + names
    folder = ROOT / "tests"
    for file in files:
        assert list(folder.rglob(file.rpartition("/")[2])), f"there is no {file}"
    text = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    assert [name for name in names if name not in text] == []
