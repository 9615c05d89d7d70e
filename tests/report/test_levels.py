"""A run of a method with levels: what made the form of a pixel, and what made its texture."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.config import RunOptions
from kt_batch.errors import DamagedError
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.maintenance.verify import verify
from kt_batch.methods.table import METHODS
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import TranslateSummary, translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.report.explain import explain
from kt_batch.report.inspect import inspect
from kt_batch.report.session import Session
from kt_batch.report.sheet import write_sheet
from kt_batch.report.sources import Box
from kt_batch.report.views import connect
from kt_batch.runners.local import LocalRunner
from kt_batch.store.opening import open_run
from kt_batch.store.run import provenance_of
from tests.report.conftest import Made
from tests.report.test_sheet import Page
from tests.support.strata import Strata
from tests.support.tiny import rows

PARK = "images/park/a.jpg.png"  # 60 x 56 pixels

# Patches of all outputs. 60 x 56 pixels have 14 x 15, 28 x 30 and 56 x 60 cells; two photographs have 48 x 40 pixels.
COARSE = 13 * 14 + 2 * (9 * 11)
MIDDLE = 27 * 29 + 2 * (19 * 23)
FINE = 55 * 59 + 2 * (39 * 47)


@pytest.fixture(scope="module", autouse=True)
def _method() -> Iterator[None]:
    METHODS["strata"] = Strata
    yield
    del METHODS["strata"]


def image_ids(made: Made) -> tuple[str, str]:
    """Return the image ids of wheat.png and sea.png."""
    by_width = {row["original_width"]: row["image_id"].hex() for row in rows(made.library, "images")}
    return by_width[96], by_width[120]


def stacked(made: Made, run: Path, **settings: object) -> TranslateSummary:
    wheat, sea = image_ids(made)
    choice = Choice(library=made.library, cache=made.root / "cache")
    config, places = choose("strata", {"images": (wheat, sea, sea), **settings}, choice)
    request = TranslateRequest(
        [str(made.root / "photos")], str(run), config, places, RunOptions(threads=1, unit_size=2)
    )
    return translate(request, LocalRunner(), no_progress)


@pytest.fixture(scope="module")
def strata(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run in two units: form from wheat.png, the rest from sea.png."""
    run = tmp_path_factory.mktemp("levels") / "run"
    stacked(made, run)
    return run


@pytest.fixture
def copy(strata: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(strata, tmp_path / "copy"))


# ---- the tables ----


def test_every_level_of_an_output_is_a_row_group_from_coarse_to_fine(strata: Path) -> None:
    groups = []
    for path in sorted((strata / "provenance").iterdir()):
        file = pq.ParquetFile(path)
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, ["output", "level"]).to_pylist()
            (pair,) = {(row["output"], row["level"]) for row in table}
            groups.append((*pair, len(table)))
    assert [(level, count) for output, level, count in groups if output == PARK] == [
        ("relu3_1", 13 * 14), ("relu2_1", 27 * 29), ("relu1_1", 55 * 59),
    ]  # fmt: skip
    assert [level for _, level, _ in groups] == 3 * ["relu3_1", "relu2_1", "relu1_1"]


def test_receipts_count_the_coarse_level_and_name_all(strata: Path) -> None:
    receipts = open_run(str(strata)).committed.receipts.values()
    assert sum(receipt.patches for receipt in receipts) == COARSE
    assert sum(receipt.certified or 0 for receipt in receipts) == COARSE
    assert sum(receipt.ncc_sum or 0 for receipt in receipts) == COARSE / 2
    assert {receipt.tables[0].levels for receipt in receipts} == {("relu3_1", "relu2_1", "relu1_1")}


def test_the_score_of_a_fine_level_is_kept_to_a_128th(strata: Path) -> None:
    table = [row for row in rows(strata, "provenance") if row["output"] == PARK]
    scores = {(row["level"], row["ncc"], row["certified"]) for row in table}
    assert scores == {("relu3_1", 0.5, True), ("relu2_1", 0.25, False), ("relu1_1", 90 / 128, False)}


def test_one_level_is_read_without_the_others(strata: Path) -> None:
    run = open_run(str(strata))
    assert provenance_of(run, run.outputs[PARK], "relu2_1").num_rows == 27 * 29
    assert provenance_of(run, run.outputs[PARK]).num_rows == 13 * 14 + 27 * 29 + 55 * 59


def test_the_sources_of_a_picture_in_a_shard_are_those_of_its_form(made: Made, tmp_path: Path) -> None:
    stacked(made, tmp_path / "run", output="parquet")
    wheat, _ = image_ids(made)
    shards = [pq.read_table(path).to_pylist() for path in (tmp_path / "run" / "shards").iterdir()]
    found = {json.dumps(row["sources"]) for shard in shards for row in shard}
    assert found == {json.dumps([{"image_id": wheat, "share": 1.0}])}


# ---- explain ----


def test_a_pixel_has_a_source_at_every_level(made: Made, strata: Path) -> None:
    found = explain(str(strata), PARK, 9, 10)
    # 9, 10 is in column 9 // 4 = 2, row 10 // 4 = 2 of relu3_1; in column 4, row 5 of relu2_1; in its own of relu1_1.
    assert [(each.level, each.cell_row, each.cell_col, len(each.contributions)) for each in found.levels] == [
        ("relu3_1", 2, 2, 4), ("relu2_1", 5, 4, 4), ("relu1_1", 10, 9, 4),
    ]  # fmt: skip
    names = [Path(each.contributions[0].uris[0]).name for each in found.levels]
    assert names == ["wheat again.png", "sea.png", "sea.png"]
    assert all(part.weight == 0.25 for each in found.levels for part in each.contributions)


def test_boxes_are_those_of_the_level(strata: Path) -> None:
    form, between, texture = explain(str(strata), PARK, 9, 10).levels
    # relu3_1: two cells from column 3 see [4 * 3 - 10, 4 * 3 + 18), from row 2 [-2, 26); wheat.png is 1.5 times as
    # large as its working image of 64 x 53: 2 * 1.5 = 3, 30 * 1.5 = 45, 26 * 80 / 53 = 39.2.
    assert form.contributions[0].box == Box(2, 0, 30, 26)
    assert form.contributions[0].file_box == Box(3, 0, 45, 40)
    # relu2_1: from column 4 [2 * 4 - 4, 2 * 4 + 8), from row 1 [-2, 10); sea.png is 1.875 times as large.
    assert between.contributions[0].box == Box(4, 0, 16, 10)
    assert between.contributions[0].file_box == Box(7, 0, 30, 19)
    # relu1_1: from column 7 [7 - 1, 7 + 3), from row 5 [4, 8).
    assert texture.contributions[0].box == Box(6, 4, 10, 8)
    assert texture.contributions[0].file_box == Box(11, 7, 19, 15)


def test_the_contributions_of_a_pixel_are_those_of_its_form(strata: Path) -> None:
    found = explain(str(strata), PARK, 9, 10)
    assert found.contributions == found.levels[0].contributions
    assert (found.kind, found.cell_row, found.cell_col) == ("patches", 2, 2)


def test_a_run_without_levels_has_none(made: Made) -> None:
    assert explain(str(made.blended), PARK, 9, 10).levels == ()


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert run_app(app, ["explain", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_command_prints_form_and_texture(strata: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, str(strata), "a.jpg", "--at", "0,0")  # a corner pixel is in one patch of each level
    assert lines[1] == "Form (relu3_1):"
    assert lines[2].startswith("  100.0%  NCC 0.500  pixels 3,0 to 45,40 of ")
    assert lines[3] == "Texture (relu1_1):"
    assert lines[4].startswith("  100.0%  NCC 0.703  pixels 11,7 to 19,15 of ")
    assert lines[4].endswith("sea.png")
    assert len(lines) == 5


def test_the_command_prints_the_levels_between_where_all_are_asked_for(
    strata: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(capsys, str(strata), "a.jpg", "--at", "0,0", "--all")
    assert lines[1::2] == ["Form (relu3_1):", "Between (relu2_1):", "Texture (relu1_1):"]


def test_all_levels_of_a_run_without_levels_are_refused(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["explain", str(made.blended), "a.jpg", "--at", "0,0", "--all"]) == 2
    assert "--all has no effect on" in capsys.readouterr().err


def test_json_lists_all_levels(strata: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = said(capsys, str(strata), "a.jpg", "--at", "0,0", "--json")
    levels = json.loads(line)["levels"]
    assert [each["level"] for each in levels] == ["relu3_1", "relu2_1", "relu1_1"]
    assert levels[2]["contributions"][0]["file_box"] == {"x0": 11, "y0": 7, "x1": 19, "y1": 15}


# ---- the other reports use the coarse level ----


def test_inspect_counts_the_coarse_level(made: Made, strata: Path) -> None:
    found = inspect(str(strata))
    assert (found["patches"], sum(found["ncc"]["counts"]), found["ncc"]["mean"]) == (COARSE, COARSE, 0.5)
    assert found["certified_share"] == 1.0
    assert [(source["image_id"], source["share"]) for source in found["sources"]] == [(image_ids(made)[0], 1.0)]


def test_the_map_of_scores_is_that_of_the_coarse_level(strata: Path) -> None:
    session = Session.open(str(strata))
    cells = session.ncc_cells(session.run.outputs[PARK])
    np.testing.assert_array_equal(cells, np.full((14, 15), 0.5))


def test_a_sheet_shows_runs_with_and_without_levels(made: Made, strata: Path, tmp_path: Path) -> None:
    page = Page(write_sheet({"Strata": str(strata), "Blended": str(made.blended)}, tmp_path / "sheet"))
    text = " ".join(page.text.split())
    assert "Strata strata " in text
    assert "100.0 % wheat again.png" in text
    assert "mean 0.500" in text
    assert "Where forms came from" in text
    assert "Where textures came from" in text


def query(place: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(connect(str(place))) as connection:
        return connection.execute(statement).fetchall()


def test_views_have_the_level_and_its_boxes(strata: Path) -> None:
    counts = "SELECT level, count(*) FROM provenance GROUP BY 1 ORDER BY 2"
    assert query(strata, counts) == [("relu3_1", COARSE), ("relu2_1", MIDDLE), ("relu1_1", FINE)]
    boxes = "SELECT DISTINCT level, file_x0, file_y0, file_x1, file_y1 FROM sources ORDER BY level DESC"
    assert query(strata, boxes) == [
        ("relu3_1", 3, 0, 45, 40), ("relu2_1", 7, 0, 30, 19), ("relu1_1", 11, 7, 19, 15),
    ]  # fmt: skip


def test_outputs_in_views_are_summed_over_the_coarse_level(strata: Path) -> None:
    found = query(strata, f"SELECT patches, ncc_mean, certified_share FROM outputs WHERE output = '{PARK}'")
    assert found == [(13 * 14, 0.5, 1.0)]


def test_the_tables_open_in_duckdb_without_our_code(strata: Path) -> None:
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT count(DISTINCT level) FROM '{strata}/provenance/*.parquet'").fetchall()
    assert found == [(3,)]


# ---- maintenance ----


def test_such_a_run_is_verified_and_made_again(made: Made, strata: Path, tmp_path: Path) -> None:
    stacked(made, tmp_path / "again")
    found, again = verify(str(strata), no_progress), verify(str(tmp_path / "again"), no_progress)
    assert (found.faults, again.faults) == ((), ())
    assert found.digest == again.digest
    summary = recompute(str(strata), Recompute(3), no_progress)
    assert (len(summary.equal), summary.different) == (3, [])


def relabelled(run: Path, change: dict[str, str], name: str = PARK) -> None:
    """Give the rows of some levels of the part with an output other levels, and adapt its receipt."""
    part = open_run(str(run)).outputs[name].part
    file = pq.ParquetFile(run / part.name)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, file.schema_arrow) as writer:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number)
            labels = [change.get(level, level) for level in table["level"].to_pylist()]
            column = pa.array(labels).dictionary_encode()
            writer.write_table(table.set_column(1, table.schema.field("level"), column))
    data = sink.getvalue().to_pybytes()
    sha256 = hashlib.sha256(data).hexdigest()
    unit = part.name.split("-")[1]
    (run / part.name).unlink()
    (run / "provenance" / f"part-{unit}-{sha256[:16]}.parquet").write_bytes(data)
    receipt = run / "receipts" / f"{unit}.json"
    content = json.loads(receipt.read_bytes())
    content["tables"][0] |= {"sha256": sha256, "bytes": len(data)}
    receipt.write_text(json.dumps(content))


def test_verify_finds_a_level_under_the_name_of_another(copy: Path) -> None:
    relabelled(copy, {"relu2_1": "relu1_1", "relu1_1": "relu2_1"})
    (fault,) = verify(str(copy), no_progress).faults
    assert re.search(r" at relu1_1, \S+ at relu2_1, \S+ at relu3_1 and 2 more, not of \S+ at relu2_1, ", fault)


@pytest.mark.parametrize("change", [{"relu2_1": "relu1_1"}, {"relu2_1": "a b"}, {"relu3_1": "relu2_1"}])
def test_explain_refuses_levels_other_than_those_of_the_receipt(copy: Path, change: dict[str, str]) -> None:
    relabelled(copy, change)
    with pytest.raises(DamagedError, match="where its receipt names the levels"):
        explain(str(copy), PARK, 0, 0)


@pytest.mark.parametrize("levels", [["relu3_1"], ["relu9_1", "relu2_1", "relu1_1"], 3, ["relu3_1"] * 17, []])
def test_receipts_with_foreign_levels_are_refused(copy: Path, levels: object) -> None:
    for path in (copy / "receipts").iterdir():
        content = json.loads(path.read_bytes())
        content["tables"][0]["levels"] = levels
        path.write_text(json.dumps(content))
    with pytest.raises(DamagedError, match="levels"):
        explain(str(copy), PARK, 0, 0)


def test_parts_with_different_levels_are_refused(copy: Path) -> None:
    path = min((copy / "receipts").iterdir())
    content = json.loads(path.read_bytes())
    content["tables"][0]["levels"] = ["relu3_1", "relu2_1"]
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedError, match="parts of provenance with different levels"):
        explain(str(copy), PARK, 0, 0)
    assert verify(str(copy), no_progress).faults != ()
