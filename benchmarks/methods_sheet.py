"""Put a comparison on one picture, and print its figures as a table of docs/methods.md.

    kt-batch compare PHOTOGRAPHS --style PAINTINGS --vgg-weights FILE --threads 1 --out SHEET
    python benchmarks/methods_sheet.py SHEET docs/images/methods.jpg --paintings PAINTINGS \
        --figures benchmarks/results/methods.json

    kt-batch compare PHOTOGRAPHS --style PAINTINGS --methods stylebank --bank FILE ... --out LATER
    python benchmarks/methods_sheet.py LATER docs/images/methods.jpg --paintings PAINTINGS \
        --figures benchmarks/results/methods.json --add

With --add, which needs --figures, methods of a later run on pictures of the same names take the place of those of an
earlier picture, or come beside them, and so do their figures. A row for each photograph and painting, a column for each
method that made another picture than the photograph. The seconds of the table are those of the processor, since
machines are shared. The figures that are kept are those of compare.json without the values of single pairs. The
photographs of scikit-image and the canvases of `make demo` may be published.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

SIDE = 176  # pixels of the long side of a picture
GAP = 4
LABEL = 16  # height of the headings
QUALITY = 82
MEASURES = (
    ("style_distance", "style distance", 3), ("structure", "structure", 3), ("patch_distance", "patch distance", 3),
    ("patch_realism", "patch realism", 3), ("blotchiness", "blotchiness", 2), ("sharpness", "sharpness", 3),
)  # fmt: skip


def fitted(path: Path | None) -> Image.Image:
    """Return a picture scaled to fit into a cell; a grey spot where there is none."""
    if path is None:
        return Image.new("RGB", (GAP, GAP), "grey")
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return picture


def pictures_of(report: dict[str, Any]) -> dict[str, str]:
    """Return the name of each photograph and each painting by id, in the order of the report."""
    return {facts["id"]: facts["name"] for side in ("photographs", "paintings") for facts in report[side]}


def sheet(folder: Path, report: dict[str, Any], paintings: Path, order: Sequence[str]) -> Image.Image:
    """Return the sheet, its rows in the order of the pictures' names; those of paintings come from their own files."""
    names = pictures_of(report)

    def place(pair: dict[str, Any]) -> tuple[int, int]:
        return order.index(names[pair["photograph"]]), order.index(names[pair["painting"]])

    methods = shown_methods(report)
    rows = []
    for pair in sorted(report["pairs"], key=place):
        made = pair["pictures"]
        files = [folder / made[name] if name in made else None for name in ("photograph", *methods)]
        files.insert(1, paintings / f"{names[pair['painting']]}.png")
        rows.append([fitted(file) for file in files])
    heights = [max(picture.height for picture in row[:1] + row[2:]) for row in rows]
    columns = len(methods) + 2
    page = Image.new("RGB", (columns * (SIDE + GAP) - GAP, LABEL + sum(heights) + GAP * len(rows)), "white")
    draw = ImageDraw.Draw(page)
    for column, name in enumerate(("photograph", "style", *methods)):
        draw.text((column * (SIDE + GAP) + 2, 2), name, fill="black")
    top = LABEL
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            picture.thumbnail((SIDE, height), Image.Resampling.LANCZOS)
            page.paste(picture, (column * (SIDE + GAP) + (SIDE - picture.width) // 2, top))
        top += height + GAP
    return page


def put(earlier: Image.Image, shown: Sequence[str], later: Image.Image, names: Sequence[str]) -> Image.Image:
    """Return an earlier sheet with columns of a later one, whose rows are the same: in their places, else at the right.

    shown, names: The methods of the columns of the earlier and of the later sheet.
    """
    if earlier.height != later.height:
        raise SystemExit(f"The earlier picture is {earlier.height} pixels high, the later one {later.height}.")
    columns = [*shown, *(name for name in names if name not in shown)]
    page = Image.new("RGB", ((len(columns) + 2) * (SIDE + GAP) - GAP, earlier.height), "white")
    page.paste(earlier, (0, 0))
    for number, name in enumerate(names):
        left = (number + 2) * (SIDE + GAP)
        page.paste(later.crop((left, 0, left + SIDE, later.height)), ((columns.index(name) + 2) * (SIDE + GAP), 0))
    return page


def shown_methods(report: dict[str, Any]) -> list[str]:
    """Return the names of the methods that made another picture than the photograph."""
    return [each["name"] for each in report["methods"] if each["explains"] not in (None, "nothing")]


def new_style(method: dict[str, Any]) -> str:
    """Return the seconds that a new painting costs, and the steps of its training."""
    steps = f" after {method['training']['steps']:,.0f} steps" if method.get("training") else ""
    return f"{method['processor_preparation']:.2f}{steps}"


def table(report: dict[str, Any]) -> str:
    """Return the figures as a table in Markdown."""
    head = ["method", "seconds", "new style, s", "memory, MB", *(title for _, title, _ in MEASURES)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for method in report["methods"]:
        if method["absent"]:
            continue
        cells = [f"{method['processor_seconds']:.2f}", new_style(method), f"{method['peak_bytes'] / 1e6:.0f}"]
        cells += [f"{method['means'][key]['mean']:.{digits}f}" for key, _, digits in MEASURES if key in method["means"]]
        note = f", {method['pairs']} pictures" if method["failures"] else ""
        lines.append(f"| `{method['name']}`{note} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Write the picture and the figures, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--paintings", type=Path, required=True, help="The folder of the paintings, as PNG files.")
    parser.add_argument("--figures", type=Path, help="Where the figures go, as JSON.")
    parser.add_argument("--add", action="store_true", help="Add the methods to the picture and the figures.")
    given = parser.parse_args()
    report = json.loads((given.sheet / "compare.json").read_text(encoding="utf-8"))
    earlier = json.loads(given.figures.read_text(encoding="utf-8")) if given.add else {}
    order = earlier.get("pictures") or list(pictures_of(report).values())
    page = sheet(given.sheet, report, given.paintings, order)
    if given.add:
        drawn = Image.open(given.picture).convert("RGB")
        page = put(drawn, shown_methods(earlier), page, shown_methods(report))
    page.save(given.picture, quality=QUALITY, optimize=True, progressive=True)
    print(table(report))
    if given.figures:
        kept = {key: value for key, value in report.items() if key not in ("pairs", "photographs", "paintings")}
        kept["network"] = report["network"] and report["network"]["sha256"]
        if given.add:
            later = {method["name"]: method for method in kept["methods"]}
            kept = earlier
            kept["methods"] = [later.get(method["name"], method) for method in kept["methods"]]
        kept["pictures"] = order
        given.figures.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
