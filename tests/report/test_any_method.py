"""Every report works for a run without networks or library, with shares per source."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.errors import MismatchError, MissingError, UsageError
from kt_batch.maintenance.gc import gc
from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import no_progress
from kt_batch.report.explain import explain
from kt_batch.report.inspect import inspect
from kt_batch.report.run_report import Stage, report_page, run_report
from kt_batch.report.session import Session
from kt_batch.report.sheet import write_sheet
from kt_batch.report.views import connect
from kt_batch.store import run as run_module
from tests.report.conftest import Made
from tests.report.test_sheet import Page
from tests.support.gain import make_gain_run, summarise


@pytest.fixture(scope="module")
def gain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_gain_run(tmp_path_factory.mktemp("any method"))


def rows(place: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(connect(str(place))) as connection:
        return connection.execute(query).fetchall()


# ---- explain ----


def test_a_pixel_is_explained_by_the_sources_of_its_output(gain: Path) -> None:
    found = explain(str(gain), "a.jpg", 39, 31)
    assert (found.method, found.kind, found.library, found.cell_row, found.cell_col) == (
        "gain", "sources", None, None, None,
    )  # fmt: skip
    assert [(source.share, Path(source.uri).name) for source in found.sources] == [
        (0.75, "style 1.png"), (0.25, "style 2.png"),
    ]  # fmt: skip
    assert found.contributions == ()
    assert all(len(source.image_id) == 16 for source in found.sources)
    json.dumps(found.to_dict())


def test_a_pixel_outside_the_output_is_refused(gain: Path) -> None:
    with pytest.raises(UsageError, match="40 x 32 pixels, so there is none at 40,0"):
        explain(str(gain), "a.jpg", 40, 0)


def test_the_command_prints_shares(gain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["explain", str(gain), "b.jpg", "--at", "0,0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "Shares of the whole picture, not of the pixel:"
    assert [line.split("%")[0] for line in lines[2:]] == ["  50.0", "  50.0"]
    assert not any("NCC" in line for line in lines)


def test_a_run_without_an_encoder_has_no_cells_and_no_library(gain: Path) -> None:
    session = Session.open(str(gain))
    assert session.library is None
    with pytest.raises(MissingError, match="names no library"):
        _ = session.required_library
    with pytest.raises(MismatchError, match="has no encoder"):
        _ = session.cells


# ---- inspect ----


def test_inspect_has_the_method_its_settings_and_mean_shares(gain: Path) -> None:
    found = inspect(str(gain))
    assert (found["kind"], found["method"], found["gain"], found["quality"]) == ("run", "gain", 1.2, 95)
    assert (found["library"], found["index"], found["ncc"], found["certified_share"]) == (None, None, None, None)
    assert (found["images"], found["patches"], found["units"]) == (3, 0, {"done": 2, "planned": 2})
    assert [(source["share"], Path(source["uris"][0]).name) for source in found["sources"]] == [
        (0.5, "style 1.png"), (0.5, "style 2.png"),
    ]  # fmt: skip
    assert not {"encoder", "layer", "swap", "search"} & found.keys()
    json.dumps(found)
    yaml.safe_dump(found)


def test_a_setting_never_hides_a_fact(tmp_path: Path) -> None:
    found = inspect(str(make_gain_run(tmp_path, images=7, size=[1, 2])))
    assert (found["images"], found["gain_images"], found["size"]) == (3, 7, [1, 2])


def test_a_knowledge_run_keeps_its_settings_at_the_top_level(made: Made) -> None:
    found = inspect(str(made.blended))
    assert (found["method"], found["swap"], found["alpha"], found["query_stride"]) == ("knowledge", "geometric", 1.0, 1)
    assert found["search"]["top_k"] == 2
    assert (found["encoder"], found["layer"], found["index"]) == ("kt-vgg", "relu3_1", made.index)


# ---- summary ----


def test_a_summary_without_patches_reads_no_provenance(gain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("provenance was read")

    monkeypatch.setattr(run_module, "read_table", refuse)
    totals = summarise(gain)
    assert (totals.rejects, totals.ncc_mean, totals.certified_share) == (0, None, None)
    summary = json.loads((gain / "run.json").read_text())
    assert (summary["library"], summary["ncc_mean"], summary["images"]) == (None, None, 3)
    assert summary["config"]["method"] == "gain"


# ---- pages ----


def test_the_sheet_shows_shares_but_no_maps_or_lines(gain: Path, tmp_path: Path) -> None:
    page = Page(write_sheet({"Gain": str(gain)}, tmp_path))
    text = " ".join(page.text.split())
    assert "Gain gain format png, gain 1.2, quality 95" in text
    assert "75.0 % style 1.png" in text
    assert not [word for word in ("NCC", "Library", "Where patches came from", "No preview", "Swap") if word in text]
    # Per input: itself, the result, two sources.
    assert len(page.all("img")) == 3 * 4


def test_a_missing_source_leaves_only_its_own_place_empty(tmp_path: Path) -> None:
    run = make_gain_run(tmp_path)
    (tmp_path / "styles" / "style 1.png").unlink()
    assert Page(write_sheet({"Gain": str(run)}, tmp_path / "sheet")).text.count("No preview") == 3


def test_runs_of_two_methods_share_a_page(made: Made, gain: Path, tmp_path: Path) -> None:
    text = " ".join(Page(write_sheet({"Blended": str(made.blended), "Gain": str(gain)}, tmp_path)).text.split())
    assert "Blended knowledge geometric tree, 4 probes, top 2 kt-vgg" in text
    assert "Gain gain format png, gain 1.2, quality 95 – – – 3 – – –" in text
    assert "NCC" in text


def test_a_report_has_the_stages_of_the_method_between_reading_and_writing(gain: Path) -> None:
    report = run_report(str(gain))
    assert report.stages == (Stage("read", 2.0, 0.25), Stage("gain", 4.0, 0.5), Stage("write", 2.0, 0.25))
    assert "gain" in report_page(report)


# ---- SQL ----


def test_views_have_shares_and_outputs_without_ncc(gain: Path) -> None:
    names = [name for (name,) in rows(gain, "SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1")]
    assert names == ["outputs", "provenance", "rejects"]
    assert rows(gain, "SELECT output, round(sum(share), 6), count(*) FROM provenance GROUP BY 1 ORDER BY 1") == [
        (f"images/{name}.png", 1.0, 2) for name in ("a.jpg", "c.jpg", "park/b.jpg")
    ]
    assert rows(gain, "SELECT output, name, patches, ncc_mean, certified_share FROM outputs") == [
        (f"images/{name}.png", name, None, None, None) for name in ("a.jpg", "c.jpg", "park/b.jpg")
    ]


# ---- maintenance ----


def test_such_a_run_is_verified_and_has_no_orphans(gain: Path) -> None:
    found = verify(str(gain), no_progress)
    assert (found.kind, found.faults, found.files, found.orphans, found.foreign) == ("run", (), 5, 0, 0)
    assert found.digest is not None
    assert gc(str(gain), no_progress).orphans == ()
