"""The evaluation of styles as a page: photograph, painting and results side by side, with their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kt_batch.report.page_files import PageFolder, Picture, page_start, refuse_input_folder
from kt_batch.report.plots import trade_off_plot
from kt_batch.report.rendering import new_environment
from kt_batch.store.targets import Inputs, Target

TEMPLATE = "style.html.j2"
UNEDITED = "photograph"
COLUMNS = (  # measure, heading, digits
    ("style_distance", "Style distance", 3),
    ("structure", "Structure", 3),
    ("patch_distance", "Patch distance", 3),
    ("patch_realism", "Patch realism", 3),
    ("blotchiness", "Blotchiness", 2),
    ("sharpness", "Sharpness", 3),
)

Pixels = NDArray[np.uint8]


class StylePage:
    """Collects the pictures of a page while they are made, then writes it. Leave the context to end it."""

    def __init__(self, out: Path, inputs: Inputs, shown: Sequence[tuple[str, str]]) -> None:
        """Prepare the folder.

        Args:
            out: the folder of the page.
            inputs: what the command reads, which is never overwritten.
            shown: the pairs on the page: ids of photograph and painting.

        Raises:
            UsageError: another file has the page's name.
            StorageError: the folder cannot be written.
        """
        self._target = style_target(out, inputs)
        refuse_input_folder(out, inputs)
        self._target.check_early()
        self._folder = PageFolder(out)
        self._shown = list(shown)
        self._results: dict[tuple[str, str], dict[str, Picture]] = {pair: {} for pair in shown}
        self._paintings: dict[str, Picture] = {}

    def __enter__(self) -> StylePage:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.__exit__()

    def add_painting(self, painting: str, pixels: Pixels) -> None:
        """Keep the picture of a painting `(H, W, 3)` if the page shows it."""
        if any(painting == shown for _, shown in self._shown):
            self._paintings[painting] = self._folder.put_jpeg(Image.fromarray(pixels))

    def add(self, pair: tuple[str, str], method: str, pixels: Pixels) -> None:
        """Keep a result `(H, W, 3)` if the page shows its pair."""
        if pair in self._results:
            self._results[pair][method] = self._folder.put_jpeg(Image.fromarray(pixels))

    def write(self, report: Mapping[str, Any]) -> Path:
        """Write the page of `dataclasses.asdict` of a StyleReport; return its path."""
        self._target.write(self._page(report).encode(errors="backslashreplace"))
        return self._target.path

    def _page(self, report: Mapping[str, Any]) -> str:
        measured = [method for method in report["methods"] if method["absent"] is None]
        return (
            new_environment(trim_blocks=True)
            .get_template(TEMPLATE)
            .render(
                report=report,
                columns=[column for column in COLUMNS if column[0] not in report["absent"]],
                measured=measured,
                left_out=[method for method in report["methods"] if method["absent"] is not None],
                plot=_plot(measured),
                entries=[self._entry(report, *pair) for pair in self._shown],
                total=len(report["pairs"]),
                unedited=UNEDITED,
            )
        )

    def _entry(self, report: Mapping[str, Any], photograph: str, painting: str) -> dict[str, Any]:
        names = {facts["id"]: facts["name"] for side in ("photographs", "paintings") for facts in report[side]}
        pair = next(
            each for each in report["pairs"] if (each["photograph"], each["painting"]) == (photograph, painting)
        )
        results = self._results[photograph, painting]
        return {
            "photograph": names[photograph],
            "painting": names[painting],
            "style": self._paintings[painting],
            "results": [(name, picture, pair["values"][name]) for name, picture in results.items()],
            "painting_sharpness": pair["values"][UNEDITED]["painting_sharpness"],
        }


def style_target(out: Path, inputs: Inputs) -> Target:
    """Return the page of a folder, which replaces an earlier one and nothing else."""
    return Target("The page", out / "index.html", inputs, force=None, begins=page_start(TEMPLATE))


def _plot(methods: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the plot of style distance and structure; None without both."""
    rows = [
        {"name": method["name"], "curve": method["curve"], **{key: method["means"][key]["mean"] for key in keys}}
        for method in methods
        for keys in [("style_distance", "structure")]
        if all(key in method["means"] for key in keys)
    ]
    return trade_off_plot(rows) if rows else None
