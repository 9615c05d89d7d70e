"""Many images are made of few: all different, and the same ones each time."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from benchmarks.varied_images import write_varied
from tests.support.tiny import draw_all, hashes


def test_variants_differ_from_each_other_and_are_the_same_each_time(tmp_path: Path) -> None:
    images = draw_all(tmp_path / "images", [1, 2])
    for name in ("once", "again"):
        write_varied(images, tmp_path / name, 7, size=48)
    once = hashes(tmp_path / "once")
    assert once == hashes(tmp_path / "again")
    assert len(set(once.values())) == 7
    for path in (tmp_path / "once").iterdir():
        with Image.open(path) as image:
            assert 20 <= min(image.size) <= max(image.size) <= 48
