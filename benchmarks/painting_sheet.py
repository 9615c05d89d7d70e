"""Put results of several methods on one sheet: a block for each painting, with a row for each method.

    kt-batch evaluate style PHOTOGRAPHS --style PAINTINGS --method painting --pictures RESULTS ...
    python benchmarks/painting_sheet.py RESULTS docs/images/paintings.jpg --photographs FILE ... --paintings FILE ... \
        --methods painting AdaIN WCT

RESULTS holds METHOD/PHOTOGRAPH__PAINTING.png. The first row shows the photographs, the first column the paintings. The
photographs and canvases of `make demo` may be published.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT = 200, 150  # of a picture on the sheet, pixels
GAP = 4
LABEL = 14  # height of the names of methods


def fitted(path: Path) -> Image.Image:
    """Return a picture scaled to fit into a cell."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    return picture


def result(results: Path, method: str, photograph: Path, painting: Path) -> Path:
    """Return the one picture that a method made of a photograph and a painting."""
    found = sorted((results / method).glob(f"{photograph.stem}*__{painting.stem}*.png"))
    if len(found) != 1:
        raise SystemExit(f"{results / method} holds {len(found)} pictures of {photograph.stem} and {painting.stem}")
    return found[0]


def rows(given: argparse.Namespace) -> Iterator[tuple[str, list[Path | None]]]:
    """Yield the rows: a name, and the pictures from left to right."""
    yield "", [None, *given.photographs]
    for painting in given.paintings:
        for number, method in enumerate(given.methods):
            pictures = [result(given.results, method, photograph, painting) for photograph in given.photographs]
            yield method, [painting if number == 0 else None, *pictures]


def sheet(given: argparse.Namespace) -> Image.Image:
    """Return the sheet."""
    lines = list(rows(given))
    step = HEIGHT + LABEL + GAP
    page = Image.new("RGB", ((len(given.photographs) + 1) * (WIDTH + GAP) - GAP, len(lines) * step), "white")
    draw = ImageDraw.Draw(page)
    for line, (name, pictures) in enumerate(lines):
        draw.text((WIDTH + GAP, line * step), name, fill="black")
        for column, path in enumerate(pictures):
            if path is not None:
                picture = fitted(path)
                left = column * (WIDTH + GAP) + (WIDTH - picture.width) // 2
                page.paste(picture, (left, line * step + LABEL))
    return page


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    for name in ("--photographs", "--paintings"):
        parser.add_argument(name, type=Path, nargs="+", required=True)
    parser.add_argument("--methods", nargs="+", required=True)
    given = parser.parse_args()
    sheet(given).save(given.out, quality=80, optimize=True)


if __name__ == "__main__":
    main()
