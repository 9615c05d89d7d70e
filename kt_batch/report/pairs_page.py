"""The evaluation of a paired library as a page. It needs no network and runs no script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kt_batch.report.page_files import page_start
from kt_batch.report.rendering import new_environment

TEMPLATE = "pairs.html.j2"
NONE, OURS = "no edit", "retouch"


def pairs_page(place: str, report: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return the page of an evaluation.

    Args:
        place: The paired library.
        report: `dataclasses.asdict` of a `PairsReport`.
        names: Pair id -> name of its photograph.
    """
    methods = sorted(report["methods"].items(), key=lambda method: -method[1]["psnr"])
    rows = [
        {
            "name": names[result["id"]],
            "none": result["likeness"][NONE]["psnr"],
            "retouch": result["likeness"][OURS]["psnr"],
            "gain": result["likeness"][OURS]["psnr"] - result["likeness"][NONE]["psnr"],
            "confidence": result["confidence"],
            "guard": result["guard"],
        }
        for result in report["results"]
    ]
    rows.sort(key=lambda row: (row["gain"], row["name"]))
    template = new_environment(trim_blocks=True).get_template(TEMPLATE)
    return template.render(place=place, report=report, methods=methods, rows=rows)


def pairs_page_start() -> bytes:
    """Return how such a page begins, so that an earlier one is replaced unasked."""
    return page_start(TEMPLATE)
