"""Make the pictures of the README from the output of `make demo`.

python benchmarks/readme_pictures.py demo-out docs/images
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from PIL import Image

WIDTH = 240  # pixels of one picture
GAP = 6
RUNS = ("night-painting", "night-statistics", "day-painting", "day-statistics")


def grid(demo: Path) -> Image.Image:
    """Return a sheet with a row for each photograph: the photograph, then the result of each run."""
    rows = []
    for photo in sorted((demo / "photographs").glob("*.png")):
        paths = [photo, *(demo / "runs" / run / "images" / f"{photo.name}.png" for run in RUNS)]
        rows.append([scaled(Image.open(path).convert("RGB")) for path in paths])
    width = len(rows[0]) * (WIDTH + GAP) - GAP
    height = sum(row[0].height + GAP for row in rows) - GAP
    sheet = Image.new("RGB", (width, height), "white")
    top = 0
    for row in rows:
        for number, picture in enumerate(row):
            sheet.paste(picture, (number * (WIDTH + GAP), top))
        top += row[0].height + GAP
    return sheet


def scaled(picture: Image.Image) -> Image.Image:
    """Scale a picture to WIDTH pixels."""
    return picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)


def lines(demo: Path) -> Image.Image:
    """Return the first picture of the contact sheet: lines from patches to their sources."""
    page = (demo / "index.html").read_text(encoding="utf-8")
    name = re.search(r'<img[^>]*src="([^"]+)"', page)
    if name is None:
        raise SystemExit(f"{demo / 'index.html'} shows no picture")
    return Image.open(demo / name[1]).convert("RGB")


def main() -> None:
    """Write demo.jpg and lines.jpg."""
    demo, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    grid(demo).save(out / "demo.jpg", quality=88)
    lines(demo).save(out / "lines.jpg", quality=88)


if __name__ == "__main__":
    main()
