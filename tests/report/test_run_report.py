"""The run report: figures computed by hand from a few receipts, and a safe page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pyarrow as pa
import pytest

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.config import ExtractConfig
from kt_batch.errors import KtBatchError, MissingError
from kt_batch.report.index_owners import OwnerShare
from kt_batch.report.inspect import inspect
from kt_batch.report.plots import round_times, throughput_plot
from kt_batch.report.run_report import (
    ImageCounts,
    Rejects,
    RunReport,
    SlowImage,
    Stage,
    Throughput,
    UnitCounts,
    Unrecorded,
    WorkerShare,
    clock,
    duration,
    report_page,
    run_report,
    throughput,
)
from kt_batch.store.locations import LocalLocation
from kt_batch.store.plans import Item, Unit
from kt_batch.store.receipts import Receipt, new_attempt
from kt_batch.store.schemas import REJECTS
from kt_batch.store.tables import commit_table
from kt_batch.store.units import Ledger
from tests.report.conftest import HOSTILE, Made, draw, make_library
from tests.support.browser import check_page

CONFIG = ExtractConfig.model_validate({"encoder": {"weights_sha256": "ab" * 32}})
NAMES = tuple(f"{letter}.jpg" for letter in "abcdefgh")


def planned(place: Path, names: tuple[str, ...] = NAMES) -> tuple[Ledger, list[Unit]]:
    """Plan units of two images each; image n is called names[n]."""
    ledger = Ledger(LocalLocation(place))
    items = [Item(f"{number:016x}", f"/in/{name}", name) for number, name in enumerate(names)]
    return ledger, ledger.plan(items, 2, CONFIG.model_dump(mode="json"), CONFIG.digest())


def committed(ledger: Ledger, unit: Unit, rejected: tuple[tuple[str, str], ...] = (), **fields: Any) -> Receipt:
    """Commit a receipt of a unit; `rejected` are (URI, reason)."""
    rows = [{"uri": uri, "stage": "decode", "reason": reason, "message": f"{uri}!"} for uri, reason in rejected]
    tables = (
        (commit_table(ledger.location, "rejects", unit.id, pa.Table.from_pylist(rows, schema=REJECTS)),) if rows else ()
    )
    counts = {"images": len(unit.items) - len(rows), "rejects": len(rows), "tables": tables}
    told = {"unit": unit.id, "attempt": new_attempt(), "config_digest": CONFIG.digest(), **counts, **fields}
    return ledger.commit(Receipt.model_validate(told))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A place with three of four units done and one image rejected.

    The units run from 990 to 1000, from 1000 to 1010, and after a pause from 1290 to 1310 s.
    """
    ledger, units = planned(tmp_path / "library")
    committed(ledger, units[0], finished=1000, worker="a:1", item_seconds=(3, 5), timings={"encode": 10})
    committed(
        ledger, units[1], (("/in/d.jpg", "not_an_image"),),
        finished=1010, worker="b:2", item_seconds=(5, None), timings={"encode": 6, "read": 4},
    )  # fmt: skip
    committed(ledger, units[2], finished=1310, worker="a:1", item_seconds=(8, 2), timings={"encode": 20})
    return tmp_path / "library"


def test_units_and_images_are_done_pending_or_rejected(place: Path) -> None:
    found = run_report(str(place))
    assert (found.kind, found.place) == ("library", place.as_uri())
    assert found.units == UnitCounts(planned=4, done=3, pending=1)
    assert found.images == ImageCounts(planned=8, done=5, pending=2, rejected=1, elsewhere=0)
    assert found.unrecorded == Unrecorded(finished=0, worker=0, item_seconds=0)


def test_throughput_is_over_working_time_without_pauses(place: Path) -> None:
    # 2 images in the first 10 s, 1 in the next 10 s, 2 in the last 20 s: 40 s in 60 steps.
    assert run_report(str(place)).throughput == Throughput(
        started=990.0,
        finished=1310.0,
        images=5,
        working_seconds=40.0,
        images_per_second=0.125,
        step=round(40 / 60, 6),
        rates=(0.2,) * 15 + (0.1,) * 45,
        pauses=((20.0, 280.0),),
    )


def test_rates_of_concurrent_workers_add_up(tmp_path: Path) -> None:
    ledger, units = planned(tmp_path)
    told = [
        committed(ledger, units[0], finished=110, timings={"encode": 10}),
        committed(ledger, units[1], finished=110, timings={"encode": 5}),
        committed(ledger, units[2], finished=170, timings={"encode": 1}),  # 59 s later: short of a pause
    ]
    found = throughput(told)
    assert found is not None
    assert (found.working_seconds, found.pauses) == (70.0, ())
    step = 70 / 60
    assert found.rates[0] == 0.2  # one unit
    assert found.rates[5] == found.rates[7] == 0.6  # two: 0.2 + 0.4
    assert found.rates[9] == 0.0
    assert sum(found.rates) * step == pytest.approx(6, abs=1e-3)


def test_a_unit_of_zero_duration_is_a_point(tmp_path: Path) -> None:
    ledger, units = planned(tmp_path)
    found = throughput([committed(ledger, units[0], finished=0.0)])
    assert found is not None
    assert (found.images, found.working_seconds, found.images_per_second) == (2, 0.001, 2000.0)


def test_stages_are_in_work_order_with_their_share_of_all_seconds(place: Path) -> None:
    assert run_report(str(place)).stages == (Stage("read", 4.0, 0.1), Stage("encode", 36.0, 0.9))


def test_the_slowest_image_comes_first_and_ties_are_sorted_by_name(place: Path) -> None:
    found = run_report(str(place)).slowest
    assert [(image.name, image.seconds) for image in found] == [
        ("e.jpg", 8.0), ("b.jpg", 5.0), ("c.jpg", 5.0), ("a.jpg", 3.0), ("f.jpg", 2.0),
    ]  # fmt: skip
    assert isinstance(found[0], SlowImage)
    assert (found[0].uri, found[0].worker) == ("/in/e.jpg", "a:1")


def test_ten_images_are_listed_and_an_image_with_two_names_once(tmp_path: Path) -> None:
    ledger = Ledger(LocalLocation(tmp_path))
    names = [(0, "x"), (0, "y"), *((number, f"{number:02}") for number in range(1, 12))]
    items = [Item(f"{number:016x}", f"/in/{name}", name) for number, name in names]
    (unit,) = ledger.plan(items, 13, CONFIG.model_dump(mode="json"), CONFIG.digest())
    committed(ledger, unit, item_seconds=(99, 99, *range(1, 12)))
    found = run_report(str(tmp_path)).slowest
    assert [image.name for image in found] == ["x", "11", "10", "09", "08", "07", "06", "05", "04", "03"]


def test_rejects_are_counted_by_reason_with_the_first_as_an_example(tmp_path: Path) -> None:
    ledger, units = planned(tmp_path)
    committed(ledger, units[0], (("/in/b.jpg", "empty"), ("/in/a.jpg", "empty")))
    committed(ledger, units[1], (("/in/c.jpg", "not_an_image"), ("/in/d.jpg", "empty")))
    assert run_report(str(tmp_path)).rejects == (
        Rejects("empty", 3, "/in/a.jpg", "/in/a.jpg!"),
        Rejects("not_an_image", 1, "/in/c.jpg", "/in/c.jpg!"),
    )


def test_workers_have_their_units_and_rates(place: Path) -> None:
    assert run_report(str(place)).workers == (
        WorkerShare("a:1", units=2, images=4, seconds=30.0, images_per_second=0.1333),
        WorkerShare("b:2", units=1, images=1, seconds=10.0, images_per_second=0.1),
    )


def test_receipts_of_an_earlier_version_are_reported_with_their_available_fields(tmp_path: Path) -> None:
    ledger, units = planned(tmp_path)
    committed(ledger, units[0], timings={"encode": 4})
    committed(ledger, units[1])
    found = run_report(str(tmp_path))
    assert (found.throughput, found.slowest) == (None, ())
    assert found.stages == (Stage("encode", 4.0, 1.0),)
    assert found.workers == (WorkerShare(None, units=2, images=4, seconds=4.0, images_per_second=1.0),)
    assert found.unrecorded == Unrecorded(finished=2, worker=2, item_seconds=2)
    page = report_page(found)
    assert "Not recorded: an earlier version made these units." in page
    assert "<svg" not in page


def test_a_place_without_finished_units_has_a_report(tmp_path: Path) -> None:
    planned(tmp_path)
    found = run_report(str(tmp_path))
    assert found.images == ImageCounts(planned=8, done=0, pending=8, rejected=0, elsewhere=0)
    assert (found.throughput, found.stages, found.workers) == (None, (), ())
    assert report_page(found).count("Nothing is done yet.") == 3


def test_a_place_that_is_neither_library_nor_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="is neither a knowledge library nor a run"):
        run_report(str(tmp_path))


# ---- figures of the pipelines ----------------------------------------------------------------------------------------


def test_a_library_and_a_run_record_workers_and_durations(made: Made) -> None:
    library, run = run_report(str(made.library)), run_report(str(made.blended))
    assert (library.kind, run.kind) == ("library", "run")
    assert library.images == ImageCounts(planned=4, done=3, pending=0, rejected=1, elsewhere=0)
    assert [(entry.reason, entry.count) for entry in library.rejects] == [("not_an_image", 1)]
    assert library.rejects[0].uri.endswith("broken.jpg")
    assert len(library.slowest) == 2  # wheat.png has two names
    assert {image.name for image in run.slowest} == {
        item.name for unit in Ledger(LocalLocation(made.blended)).units() for item in unit.items
    }
    for found in (library, run):
        assert found.unrecorded == Unrecorded(0, 0, 0)
        assert [share.units for share in found.workers] == [found.units.done]
        assert found.throughput is not None
        assert found.throughput.images == found.images.done
        spent = sum(stage.seconds for stage in found.stages)
        assert sum(image.seconds for image in found.slowest) <= spent + 0.1
    assert {stage.stage: stage.seconds for stage in run.stages} == inspect(str(made.blended))["seconds"]


def test_an_image_listed_again_belongs_to_its_first_unit(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.png", 40, 40, seed=1)
    make_library([str(tmp_path / "in")], tmp_path / "library")
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "a.png").read_bytes())
    make_library([str(tmp_path / "in")], tmp_path / "library")
    found = run_report(str(tmp_path / "library"))
    assert found.images == ImageCounts(planned=2, done=1, pending=0, rejected=0, elsewhere=1)
    assert [image.name for image in found.slowest] == ["a.png"]


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_page_is_self_contained(place: Path) -> None:
    page = report_page(run_report(str(place)))
    assert re.search(r"<script|<link|<img|src=|@import|url\(", page) is None
    assert "script-src" not in page.replace("default-src 'none'", "")
    svg = page[page.index("<svg") : page.index("</svg>") + len("</svg>")]
    assert ET.fromstring(svg).tag.endswith("svg")
    assert "<title>pause of 4 min 40 s</title>" in svg
    assert "1970-01-01 00:16:30 UTC to 1970-01-01 00:21:50 UTC" in page


def test_a_hostile_name_is_text_on_the_page(tmp_path: Path, made: Made) -> None:
    hostile = "</bdi><script>alert(1)</script>\" onload='x' {{ 7 * 7 }}.jpg"
    ledger, units = planned(tmp_path, (hostile, "b.jpg"))
    committed(
        ledger, units[0], (("/in/<b>.jpg", "<i>reason"),),
        timings={"encode": 1}, finished=5, worker="a:1", item_seconds=(1, None),
    )  # fmt: skip
    page = report_page(run_report(str(tmp_path)))
    assert "<script" not in page
    assert "<i>" not in page
    assert "<b>" not in page
    assert "&lt;/bdi&gt;&lt;script&gt;alert(1)&lt;/script&gt;&#34; onload=&#39;x&#39; {{ 7 * 7 }}.jpg" in page
    assert HOSTILE not in report_page(run_report(str(made.blended)))


def test_a_hostile_name_steers_no_terminal_that_shows_the_page(tmp_path: Path) -> None:
    hostile = "/in/\x1b]0;title\x07\x9b31m\u202egnp.jpg"
    ledger = Ledger(LocalLocation(tmp_path))
    items = [Item("0" * 16, hostile, "a.jpg")]
    units = ledger.plan(items, 1, CONFIG.model_dump(mode="json"), CONFIG.digest())
    committed(ledger, units[0], ((hostile, "not_an_image"),), finished=5, worker="a:1")
    page = report_page(run_report(str(tmp_path)))
    assert r"/in/\x1b]0;title\x07\x9b31m\u202egnp.jpg!" in page
    assert page.replace("\n", "").isprintable()


def test_a_page_names_the_workers_with_the_most_units_and_counts_the_others(place: Path) -> None:
    found = run_report(str(place))
    many = tuple(WorkerShare(f"node:{number}", 1, 1, 1.0, 1.0) for number in range(45))
    page = report_page(RunReport(**{**vars(found), "workers": many}))
    assert "node:39" in page
    assert "node:40" not in page
    assert "and 5 more" in page


def test_the_axis_of_throughput_ends_on_a_round_number_above_the_highest_rate() -> None:
    svg = throughput_plot((0.35, 0.1), 10.0, [(5.0, "<pause>")], duration)
    assert re.findall(r">([\d.]+)</text>", svg) == ["0", "0.1", "0.2", "0.3", "0.4"]
    assert ">10.0 s</text>" in svg
    assert "<pause>" not in svg
    assert throughput_plot((0.0, 0.0), 10.0, [], duration).count("<polyline") == 1


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.53, [0.1, 0.2, 0.3, 0.4, 0.5]), (10.0, [2, 4, 6, 8, 10]), (53.7, [10, 20, 30, 40, 50]),
        (99, [20, 40, 60, 80]), (119, [50, 100]), (120, [30, 60, 90, 120]),
        (4000, [900, 1800, 2700, 3600]), (86400, [21600, 43200, 64800, 86400]),
        (30 * 86400, [n * 6 * 86400 for n in range(1, 6)]),
    ],
)  # fmt: skip
def test_the_time_axis_has_two_to_five_round_clock_times(seconds: float, expected: list[float]) -> None:
    assert round_times(seconds) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.05, "0.05 s"), (9.99, "9.99 s"), (9.996, "10.0 s"), (59.9, "59.9 s"), (59.96, "1 min"), (200, "3 min 20 s"),
        (3599.6, "1 h"), (7500, "2 h 5 min"), (86400, "1 d"), (3 * 86400 + 4 * 3600 + 59, "3 d 4 h"),
    ],
)  # fmt: skip
def test_durations_are_formatted_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_clock_is_utc() -> None:
    assert clock(1763718000.9) == "2025-11-21 09:40:00 UTC"


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_json_and_writes_the_page(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = place.parent / "report.html"
    assert run_app(app, ["report", str(place), "--html", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == {"planned": 8, "done": 5, "pending": 2, "rejected": 1, "elsewhere": 0}
    assert found["workers"][0]["worker"] == "a:1"
    assert page.read_text() == report_page(run_report(str(place)))


@pytest.mark.browser
def test_a_browser_shows_the_page_of_a_run_and_runs_nothing_that_a_name_says(made: Made, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(report_page(run_report(str(made.blended))))
    check_page(page)


def test_the_command_prints_the_same_facts_without_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["report", str(place)]) == 0
    said = capsys.readouterr().out
    assert "3 of 4 units done\n  5 images done, 2 pending, 1 rejected\n  0.125 images/s over 40.0 s of work" in said
    assert "    90.0%  36.0 s  encode\n" in said
    assert "     8.00 s  e.jpg\n" in said
    assert "         1  not_an_image, such as /in/d.jpg\n" in said
    assert "         2 units, 4 images  a:1  0.133 images/s\n" in said
    assert "not recorded" not in said


def test_a_page_that_cannot_be_written_is_one_sentence(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["report", str(place), "--html", str(place / "absent" / "report.html")]) == 2
    assert "report.html' is in no directory that exists" in capsys.readouterr().err


def log_of(path: Path, *events: dict[str, Any]) -> Path:
    """Write a log with events, then a line of someone else and one that was cut."""
    lines = [json.dumps({"time": "2026-11-30T07:00:00.000Z", "level": "info", **event}) for event in events]
    path.write_text("\n".join([*lines, "Job submitted", lines[0][:40]]))
    return path


def asked(run: Path, owner: int, **figures: float) -> dict[str, Any]:
    same = {"index_bytes": 10**9, "queries": 100, "visits": 250, "bytes": 200_000, "seconds": 1.5}
    return {"event": "index_owner", "run": str(run), "owner": owner, **same, **figures}


def test_a_log_tells_what_the_owners_of_the_index_were_asked(place: Path, tmp_path: Path) -> None:
    calls = [asked(place, owner, queries=100 + owner) for owner in (0, 1)]  # as earlier versions wrote them
    calls += [asked(place, owner, queries=100 + owner, lost=7) for owner in (0, 1)]
    log = log_of(tmp_path / "log", {"event": "run_started"}, *calls, asked(tmp_path / "other", 0))
    report = run_report(str(place), log=log)
    assert report.owners == tuple(
        OwnerShare(owner, 10**9, 2, 200 + 2 * owner, 500, 400_000, 3.0, 7) for owner in (0, 1)
    )
    page = report_page(report)
    assert "Owners of the index" in page
    assert all(figure in page for figure in ("2.50", "2000 B", "3.00 s", "Of 2 commands", ">7</td>"))
    assert "Owners of the index" not in report_page(run_report(str(place)))


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ({"event": "run_started"}, r"names no owners of an index for the run .*; leave --log out\.$"),
        ({"event": "index_owner", "owner": 0}, r"has an event of an owner without one of owner, index_bytes, queries"),
    ],
)
def test_a_log_without_figures_of_owners_is_one_sentence(
    place: Path, tmp_path: Path, event: dict[str, Any], sentence: str
) -> None:
    log = log_of(tmp_path / "log", {"run": str(place), **event})
    with pytest.raises(KtBatchError, match=sentence):
        run_report(str(place), log=log)
    with pytest.raises(MissingError, match="cannot be read: No such file"):
        run_report(str(place), log=tmp_path / "none")
