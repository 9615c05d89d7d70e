"""The contents that `inspect` reports for a library and a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from kt_batch.errors import MissingError
from kt_batch.report.inspect import inspect
from kt_batch.report.usage import Matches
from kt_batch.store.schemas import PROVENANCE
from tests.report.conftest import Made, draw, make_library


def test_a_library_is_counted_from_its_receipts(made: Made) -> None:
    found = inspect(str(made.library))
    # wheat.png has 16 x 14 cells (64 x 53 pixels), so 15 x 13 patches; sea.png 16 x 8 cells (64 x 32), so 15 x 7.
    assert found["patches"] == 15 * 13 + 15 * 7
    assert (found["images"], found["distinct_images"]) == (3, 2)
    assert found["rejects"] == {"not_an_image": 1}
    assert (found["kind"], found["encoder"], found["layer"], found["size"]) == ("library", "kt-vgg", "relu3_1", 64)
    assert found["units"] == {"done": 3, "planned": 3}  # one image each, with any number of names
    summary = json.loads((made.library / "library.json").read_text())
    assert [found[key] for key in ("snapshot", "images", "patches")] == [
        summary[key] for key in ("snapshot", "images", "patches")
    ]


def test_bytes_are_those_on_disk(made: Made) -> None:
    found = inspect(str(made.library))["bytes"]
    kinds = ("images", "patches", "rejects")
    assert found["tables"] == sum(path.stat().st_size for kind in kinds for path in (made.library / kind).iterdir())
    files = [path for path in (made.library / "index").rglob("*") if path.is_file() and path.name != "index.json"]
    assert found["indexes"] == sum(path.stat().st_size for path in files)


def test_an_index_is_stale_after_its_library_has_grown(made: Made, tmp_path: Path) -> None:
    library = shutil.copytree(made.library, tmp_path / "library")
    (before,) = inspect(str(library))["indexes"]
    assert (before["digest"], before["state"], before["patches"]) == (made.index, "current", 300)
    assert before["merged_share"] == pytest.approx(1 - before["kept"] / 300, abs=1e-6)
    draw(tmp_path / "new.png", 40, 40, seed=7)
    digest = make_library([str(tmp_path / "new.png")], library)
    states = {entry["digest"]: entry["state"] for entry in inspect(str(library))["indexes"]}
    assert states == {made.index: "stale", digest: "current"}


def test_a_run_agrees_with_its_summary(made: Made) -> None:
    found = inspect(str(made.blended))
    summary = json.loads((made.blended / "run.json").read_text())
    # 60 x 56 pixels are 15 x 14 cells, 48 x 40 are 12 x 10.
    assert found["patches"] == summary["patches"] == 14 * 13 + 2 * 11 * 9
    assert found["ncc"]["mean"] == summary["ncc_mean"]
    assert found["certified_share"] == summary["certified_share"]
    assert sum(found["ncc"]["counts"]) == found["patches"]
    assert len(found["ncc"]["edges"]) == len(found["ncc"]["counts"]) + 1
    assert (found["images"], found["rejects"], found["units"]) == (3, {}, {"done": 2, "planned": 2})
    assert (found["library"], found["index"]) == (str(made.library), made.index)
    json.dumps(found)


def test_shares_of_sources_are_shares_of_patches(made: Made) -> None:
    sources = inspect(str(made.blended))["sources"]
    assert len(sources) == 2
    assert sum(source["share"] for source in sources) == pytest.approx(1.0, abs=1e-5)
    assert {Path(uri).name for source in sources for uri in source["uris"]} == {
        "wheat.png", "wheat again.png", "sea.png",
    }  # fmt: skip


def test_a_run_without_its_library_has_no_uris(made: Made, tmp_path: Path) -> None:
    run = shutil.copytree(made.blended, tmp_path / "run")
    summary = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**summary, "library": str(tmp_path / "gone")}))
    assert [source["uris"] for source in inspect(str(run))["sources"]] == [[], []]


def test_uncommitted_files_are_not_counted(made: Made, tmp_path: Path) -> None:
    run = shutil.copytree(made.blended, tmp_path / "run")
    for receipt in (run / "receipts").iterdir():
        receipt.unlink()
    (run / "run.json").unlink()
    found = inspect(str(run))
    assert (found["images"], found["patches"], found["ncc"]["mean"], found["sources"]) == (0, 0, None, [])
    assert found["units"] == {"done": 0, "planned": 2}


def test_a_place_that_is_neither_library_nor_run_is_one_clear_error(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(MissingError, match="is neither a knowledge library nor a run"):
            inspect(str(place))


def test_means_use_first_matches_and_shares_use_all() -> None:
    columns = {
        "output": ["a"] * 4, "row": [0] * 4, "col": [0, 0, 1, 1], "rank": [0, 1, 0, 1],
        "weight": [0.75, 0.25, 0.5, 0.5], "library": ["l"] * 4,
        "source_image_id": [b"aaaaaaaa", b"bbbbbbbb", b"aaaaaaaa", b"aaaaaaaa"],
        "source_row": [0] * 4, "source_col": [0] * 4, "ncc": [0.5, 0.25, 1.0, 0.75],
        "certified": [True, False, False, False],
    }  # fmt: skip
    matches = Matches()
    matches.add(pa.table(columns).cast(PROVENANCE))
    assert (matches.patches, matches.ncc_mean, matches.certified_share) == (2, 0.75, 0.5)
    assert matches.top(5) == [("61" * 8, 0.875), ("62" * 8, 0.125)]
    assert matches.histogram[10] == matches.histogram[19] == 1  # [0.5, 0.55) and [0.95, 1.0], 1.0 included
