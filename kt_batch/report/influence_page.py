"""A page of what leaving out sources changes: the output, each source, the output without it, and a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kt_batch.report.page_files import PageFolder, Picture, page_start
from kt_batch.report.pictures import heat, legend
from kt_batch.report.rendering import new_environment
from kt_batch.report.session import Session
from kt_batch.report.sheet_edits import PairedSources, known_pairs
from kt_batch.store.targets import Inputs, Target

TEMPLATE = "influence.html.j2"
BRIGHTEST = 99.5  # percentile of all changes that the maps show as yellow
LEAST = 1 / 255  # of it
PLURALS = {"image": "sources", "pair": "pairs", "library": "libraries", "bank": "filter banks"}  # by what is left out
MADE_FROM = {
    "image": "from all other images",
    "pair": "after a fit of the other pairs",
    "library": "from the other libraries",
    "bank": "with the other filter banks, whose weights are divided by their sum",
}

Pixels = NDArray[np.float32]


class InfluencePage:
    """Collects the pictures of an influence, then writes its page. Leave the context to end it."""

    def __init__(self, out: Path, run: str) -> None:
        """Prepare the folder of the page of a run.

        Raises:
            UsageError: Another file has the page's name, or the folder is of the run.
            StorageError: The folder cannot be written.
        """
        begins = page_start(TEMPLATE)
        self._target = Target("The page", out / "index.html", Inputs(places=(run,)), force=None, begins=begins)
        self._target.check_early()
        self._folder = PageFolder(out)
        self._pixels: dict[str, Pixels] = {}

    def __enter__(self) -> InfluencePage:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.__exit__()

    def add(self, left_out: str, pixels: Pixels) -> None:
        """Keep the picture `(h, w, 3)` without a part, by its id; an empty one for the picture with all."""
        self._pixels[left_out] = pixels

    def write(self, report: Mapping[str, Any], session: Session) -> Path:
        """Write the page of `dataclasses.asdict` of an InfluenceReport; return its path. session: Of the run."""
        changes = {source: self._change(source) for source in self._pixels if source}
        stacked = np.concatenate([change.ravel() for change in changes.values()]) if changes else None
        high = None if stacked is None else max(float(np.percentile(stacked, BRIGHTEST)), LEAST)
        known = _known(session, report["sources"], report["left_out"])
        entries = [self._entry(source, known, changes, high) for source in report["sources"]]
        page = new_environment(trim_blocks=True).get_template(TEMPLATE)
        text = page.render(
            report=report,
            plural=PLURALS[report["left_out"]],
            made_from=MADE_FROM[report["left_out"]],
            entries=entries,
            whole=self._picture(""),
            high=high,
            legend=self._folder.put(legend()),
        )
        self._target.write(text.encode(errors="backslashreplace"))
        return self._target.path

    def _change(self, source: str) -> NDArray[np.float64]:
        """Return the mean absolute change of each pixel `(h, w)`."""
        change: NDArray[np.float64] = np.abs(self._pixels[""] - self._pixels[source]).mean(axis=2, dtype=np.float64)
        return change

    def _picture(self, source: str) -> Picture:
        return self._folder.put_jpeg(Image.fromarray((self._pixels[source] * 255 + 0.5).astype(np.uint8)))

    def _entry(
        self,
        facts: Mapping[str, Any],
        known: Mapping[str, Mapping[str, Any]],
        changes: Mapping[str, NDArray[np.float64]],
        high: float | None,
    ) -> dict[str, Any]:
        """Return the figures and pictures of one source; a source picture that is not at hand is left out."""
        source = facts["id"]
        about = known.get(source, {"name": f"image {source}", "credit": "", "previews": {}})
        previews = ((heading, self._folder.put_photo(data)) for heading, data in about["previews"].items() if data)
        pictures = [(heading, picture) for heading, picture in previews if picture]
        if source in changes and high is not None:
            pictures.append(("Picture without it", self._picture(source)))
            pictures.append(("Change", self._folder.put(Image.fromarray(heat(changes[source], 0.0, high)))))
        return {"facts": facts, "name": about["name"], "credit": about["credit"], "pictures": pictures}


def _known(session: Session, sources: Sequence[Mapping[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Return name, credit and previews of parts of a kind by id; libraries and banks have a name alone."""
    ids = [source["id"] for source in sources]
    if kind in ("library", "bank"):
        return {
            source["id"]: {"name": PurePosixPath(source["uri"]).name or source["id"], "credit": "", "previews": {}}
            for source in sources
        }
    if kind == "image":
        return {
            image: {
                "name": PurePosixPath(found.uris[0]).name if found.uris else f"image {image}",
                "credit": _credit(found.license, found.attribution),
                "previews": {"Source": found.preview},
            }
            for image, found in session.images(ids, previews=True).items()
        }
    library = PairedSources().library(session, session.named_library or "")
    pairs = known_pairs(library, ids) if library else {}
    return {
        pair: {
            "name": row["name"],
            "credit": _credit(row["license"], row["attribution"]),
            "previews": {"Before": row["preview_before"], "After": row["preview_after"]},
        }
        for pair, row in pairs.items()
    }


def _credit(licence: str | None, attribution: str | None) -> str:
    return ", ".join(part for part in (licence, attribution) if part)
