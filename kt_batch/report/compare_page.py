"""Methods side by side as a page: a row for each photograph and painting, a column for each method, and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kt_batch.report.page_files import PageFolder, Picture, page_start, refuse_input_folder
from kt_batch.report.rendering import new_environment
from kt_batch.report.style_page import COLUMNS
from kt_batch.store.targets import Inputs, Target

TEMPLATE = "compare.html.j2"
PHOTOGRAPH, PAINTING = "photograph", "style"  # the names of the first two columns
KIND = '{\n  "kind": "kt-batch compare",'  # with which every compare.json begins
ORIGINS = {
    "patches": "each patch: its source image, the place in it, and how alike they are (NCC)",
    "levels": "each patch at each level, from coarse to fine: its source image, the place in it, and NCC",
    "shares": "the share of each source image in the whole picture, without places",
    "nothing": "nothing: the photograph is its own source",
}

Pixels = NDArray[np.uint8]
Pair = tuple[str, str]  # ids of photograph and painting


class ComparePage:
    """Collects the pictures of a comparison while they are made, then writes the page and compare.json.

    Leave the context to end it.
    """

    def __init__(self, out: Path, inputs: Inputs) -> None:
        """Prepare the folder.

        Args:
            out: The folder of the page.
            inputs: What the command reads, which is never overwritten.

        Raises:
            UsageError: Other files have the names of the page and its table.
            StorageError: The folder cannot be written.
        """
        begins = page_start(TEMPLATE)
        self._targets = (
            Target("The page", out / "index.html", inputs, force=None, begins=begins),
            Target("The table", out / "compare.json", inputs, force=None, begins=KIND.encode()),
        )
        refuse_input_folder(out, inputs)
        for target in self._targets:
            target.check_early()
        self._folder = PageFolder(out)
        self._paintings: dict[str, Picture] = {}
        self._results: dict[Pair, dict[str, Picture]] = {}

    def __enter__(self) -> ComparePage:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.__exit__()

    def add_painting(self, painting: str, pixels: Pixels) -> None:
        """Keep the picture of a painting `(H, W, 3)`."""
        self._paintings[painting] = self._folder.put_jpeg(Image.fromarray(pixels))

    def add(self, pair: Pair, method: str, pixels: Pixels) -> None:
        """Keep a result `(H, W, 3)`, or the photograph itself as that of `photograph`."""
        self._results.setdefault(pair, {})[method] = self._folder.put_jpeg(Image.fromarray(pixels))

    def write(self, report: Mapping[str, Any]) -> tuple[Path, Path]:
        """Write the page and the table of `dataclasses.asdict` of a SideBySide; return their paths."""
        page, table = self._targets
        page.write(self.page(report).encode(errors="backslashreplace"))
        table.write(compare_json(report, self._files()).encode())
        return page.path, table.path

    def _files(self) -> dict[Pair, dict[str, str]]:
        """Return the file of each result below the page's folder, by pair and method."""
        return {pair: {name: each.file for name, each in made.items()} for pair, made in self._results.items()}

    def page(self, report: Mapping[str, Any]) -> str:
        """Return the page."""
        sharpness = report["photograph"].get("painting_sharpness")
        columns = [column for column in COLUMNS if column[0] not in report["absent"]]
        return (
            new_environment(trim_blocks=True)
            .get_template(TEMPLATE)
            .render(
                report=report,
                shown=_shown(report),
                columns=columns,
                rows=[_photograph_row(report, columns), *(_figures(each, columns) for each in report["methods"])],
                lines=[_line(method) for method in report["methods"]],
                entries=[self._entry(report, number, pair) for number, pair in enumerate(report["pairs"])],
                painting_sharpness=None if sharpness is None else sharpness["mean"],
                counted=_counted,
            )
        )

    def _entry(self, report: Mapping[str, Any], number: int, pair: Mapping[str, Any]) -> dict[str, Any]:
        """Return one row of pictures."""
        key = pair["photograph"], pair["painting"]
        facts = {each["id"]: each for side in ("photographs", "paintings") for each in report[side]}
        results = self._results.get(key, {})
        cells = [_cell(PHOTOGRAPH, results.get(PHOTOGRAPH)), _cell(PAINTING, self._paintings[key[1]])]
        for method in _shown(report):
            seconds = pair["seconds"].get(method["name"])
            note = _reason(method, *key) if seconds is None else f"{seconds:.1f} s"
            cells.append(_cell(method["name"], results.get(method["name"]), note))
        for place, cell in enumerate(cells):
            cell["id"] = f"p{number}-{place}"
        with_picture = [cell for cell in cells if cell["picture"]]
        for cell, after in pairwise(with_picture):
            cell["after"], after["before"] = after["id"], cell["id"]
        photograph = facts[key[0]]
        return {
            "photograph": photograph["name"],
            "painting": facts[key[1]]["name"],
            "width": photograph["width"],
            "height": photograph["height"],
            "cells": cells,
        }


def compare_json(report: Mapping[str, Any], files: Mapping[Pair, Mapping[str, str]]) -> str:
    """Return compare.json: the report, with the file of each result."""
    pairs = [
        {**pair, "pictures": dict(files.get((pair["photograph"], pair["painting"]), {}))} for pair in report["pairs"]
    ]
    return json.dumps({"kind": "kt-batch compare", **report, "pairs": pairs}, indent=2) + "\n"


def origin_of(method: Mapping[str, Any]) -> str:
    """Return in words what the results of a method say of their origin."""
    return ORIGINS[method["explains"]] if method["explains"] else "unknown: there is no result"


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings in one line, those of a group in brackets."""
    parts = (
        f"{name} ({settings_text(value)})" if isinstance(value, Mapping) else f"{name} {value}"
        for name, value in settings.items()
        if value is not None and name != "method"
    )
    return ", ".join(parts)


def figures_of(method: Mapping[str, Any]) -> list[str]:
    """Return pairs, seconds, preparation, training and megabytes of a method; a dash where there is none."""
    peak = method["peak_bytes"]
    return [
        str(method["pairs"]),
        _number(method["seconds"], 2),
        _number(method["preparation"], 2),
        training_text(method["training"]),
        "-" if peak is None else f"{peak / 1e6:.0f}",
    ]


def training_text(training: Mapping[str, Any] | None) -> str:
    """Return the steps of the training of a painting's filter bank; a dash for a method that trains nothing."""
    if training is None:
        return "-"
    return f"{training['steps']:,.0f} steps{'' if training['added'] else ', joint'}"


def means_of(means: Mapping[str, Any], columns: Sequence[tuple[str, str, int]]) -> list[str]:
    """Return the means of the columns; a dash where there is none."""
    return [_number(means[key]["mean"] if key in means else None, digits) for key, _, digits in columns]


def _figures(method: Mapping[str, Any], columns: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    return {"name": method["name"], "cells": [*figures_of(method), *means_of(method["means"], columns)]}


def _photograph_row(report: Mapping[str, Any], columns: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    """Return the row of the photographs themselves, which every method is to be read beside."""
    return {
        "name": "the photograph itself",
        "cells": [str(len(report["pairs"])), *["-"] * 4, *means_of(report["photograph"], columns)],
    }


def _line(method: Mapping[str, Any]) -> dict[str, str]:
    return {
        "name": method["name"],
        "origin": origin_of(method),
        "settings": settings_text(method["settings"]),
    }


def _shown(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the methods that have a column: those that made a picture, or tried to."""
    return [method for method in report["methods"] if method["absent"] is None or method["failures"]]


def _cell(name: str, picture: Picture | None, note: str = "") -> dict[str, Any]:
    return {"name": name, "picture": picture, "note": note, "before": None, "after": None}


def _reason(method: Mapping[str, Any], photograph: str, painting: str) -> str:
    """Return why a method has no picture of a pair."""
    reasons = (
        failure["reason"]
        for failure in method["failures"]
        if (failure["photograph"], failure["painting"]) == (photograph, painting)
    )
    return next(reasons, "")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
