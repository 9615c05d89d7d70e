"""What somebody who may write to a place can plant there with hashes that agree; `verify` compares it with the plan."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.errors import DamagedError
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import no_progress
from kt_batch.store import layout
from kt_batch.store.locations import open_location
from kt_batch.store.receipts import new_attempt
from kt_batch.store.units import Ledger
from tests.support.collection import Collection
from tests.support.tiny import draw, translate_request, translated

Content = dict[str, Any]


@pytest.fixture(scope="module")
def made(collection: Collection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run of two pictures and a reject, each in a unit of its own."""
    root = tmp_path_factory.mktemp("planted")
    for number in (11, 12):
        draw(root / f"photos/{number}.png", number)
    (root / "photos/bad.png").write_bytes(b"no image")
    request = translate_request(collection.library, root / "run", collection.index)
    translated([root / "photos"], request, unit_size=1)
    return root


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def unit_of(run: Path, name: str) -> str:
    return next(unit.id for unit in Ledger(open_location(str(run))).units() if unit.items[0].name == name)


def read(run: Path, name: str) -> Content:
    content: Content = json.loads((run / layout.receipt_path(unit_of(run, name))).read_bytes())
    return content


def write(run: Path, unit: str, content: Content) -> None:
    path = run / layout.receipt_path(unit)
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(content, sort_keys=True, separators=(",", ":")))


def plant_picture(run: Path, name: str, picture: bytes) -> list[list[object]]:
    """Put a picture where an output is; return the `outputs` of a receipt that agrees with it."""
    path = run / f"images/{name}.png"
    path.unlink(missing_ok=True)
    path.write_bytes(picture)
    return [[hashlib.sha256(picture).hexdigest(), len(picture)]]


def table_for(run: Path, source: str, kind: str, unit: str) -> Content:
    """Copy a table of an input's unit to another unit; return its entry for the receipt."""
    (table,) = (table for table in read(run, source)["tables"] if table["kind"] == kind)
    there = layout.part_path(kind, unit_of(run, source), table["sha256"])
    (run / layout.part_path(kind, unit, table["sha256"])).write_bytes((run / there).read_bytes())
    entry: Content = table
    return entry


def faults(place: Path) -> str:
    return "\n".join(verify(str(place), no_progress).faults)


def test_an_honest_run_has_no_fault(run: Path) -> None:
    assert faults(run) == ""


def test_a_foreign_picture_without_provenance_is_found(run: Path) -> None:
    outputs = plant_picture(run, "11.png", (run / "images/12.png.png").read_bytes())
    write(run, unit_of(run, "11.png"), {**read(run, "11.png"), "tables": [], "outputs": outputs})
    assert "has outputs, such as images/11.png.png, and no provenance" in faults(run)


def test_receipts_of_units_in_no_plan_are_counted_and_change_nothing(run: Path) -> None:
    before = verify(str(run), no_progress)
    write(run, "0" * 16, {**read(run, "11.png"), "unit": "0" * 16})
    after = verify(str(run), no_progress)
    assert (before.unplanned, after.unplanned) == (0, 1)
    assert (after.digest, after.faults) == (before.digest, ())


def test_the_provenance_of_another_picture_is_found(run: Path) -> None:
    unit = unit_of(run, "11.png")
    table = table_for(run, "12.png", layout.PROVENANCE, unit)
    write(run, unit, {**read(run, "11.png"), "tables": [table]})
    assert f"The provenance of unit {unit} is of images/12.png.png, not of images/11.png.png" in faults(run)


def test_rejects_of_inputs_of_another_unit_are_found(run: Path) -> None:
    unit, content = unit_of(run, "11.png"), read(run, "11.png")
    table = table_for(run, "bad.png", layout.REJECTS, unit)
    write(run, unit, {**content, "tables": [*content["tables"], table], "rejects": 1})
    assert f"The rejects of unit {unit} name inputs of no such unit: " in faults(run)


@pytest.mark.parametrize(
    ("name", "edit", "said"),
    [
        ("11.png", {"images": 3}, "counts 3 images and has 1"),
        ("11.png", {"patches": 1}, "and the receipt counts 1."),
        ("11.png", {"rejects": 2}, "counts 2 rejects and names no table of them"),
        ("bad.png", {"rejects": 0}, "and the receipt counts 0."),
    ],
)
def test_a_receipt_that_counts_otherwise_than_its_tables_is_found(
    run: Path, name: str, edit: Content, said: str
) -> None:
    write(run, unit_of(run, name), {**read(run, name), **edit})
    assert said in faults(run)


def test_a_receipt_of_another_configuration_is_refused(run: Path) -> None:
    write(run, unit_of(run, "11.png"), {**read(run, "11.png"), "config_digest": "0" * 16})
    with pytest.raises(DamagedError, match=f"has the config digest {'0' * 16}, but its plan has"):
        verify(str(run), no_progress)


def test_the_patches_of_another_image_are_found_in_a_library(collection: Collection, tmp_path: Path) -> None:
    library = Path(shutil.copytree(collection.library, tmp_path / "library"))
    (_, receipt), (other, _) = Ledger(open_location(str(library))).attempts()[:2]
    assert receipt is not None
    content = json.loads(receipt.to_json())
    for table in receipt.tables:
        there = library / layout.part_path(table.kind, other.id, table.sha256)
        there.write_bytes((library / table.name).read_bytes())
    write(library, other.id, {**content, "unit": other.id, "item_seconds": []})
    assert f"The patches of unit {other.id} name images of no such unit: " in faults(library)


# ---- done once more ----


def test_a_picture_of_what_is_no_image_is_different_and_not_absent(run: Path) -> None:
    """The input is there and is no image, so no run can have made a picture of it."""
    unit, content = unit_of(run, "bad.png"), read(run, "11.png")
    outputs = plant_picture(run, "bad.png", (run / "images/11.png.png").read_bytes())
    table = table_for(run, "11.png", layout.PROVENANCE, unit)
    write(run, unit, {**content, "unit": unit, "outputs": outputs, "tables": [table]})
    summary = recompute(str(run), Recompute(3), no_progress)
    assert (sorted(summary.equal), summary.different, summary.absent) == (["11.png", "12.png"], ["bad.png"], [])


def test_a_receipt_that_claims_another_machine_must_still_have_nearly_the_same_matches(run: Path) -> None:
    """A picture of another numerics class may be off by one step; its provenance may not be another picture's."""
    unit, content = unit_of(run, "11.png"), read(run, "11.png")
    numerics = {**content["numerics"], "isa": "another"}
    write(run, unit, {**content, "numerics": numerics})
    honest = recompute(str(run), Recompute(3), no_progress)
    table = table_for(run, "12.png", layout.PROVENANCE, unit)
    write(run, unit, {**content, "numerics": numerics, "tables": [table]})
    planted = recompute(str(run), Recompute(3), no_progress)
    assert (honest.close, honest.different) == (["11.png"], [])
    assert (planted.close, planted.different) == ([], ["11.png"])


def test_patches_of_another_machine_are_compared_within_rounding(collection: Collection, tmp_path: Path) -> None:
    library = Path(shutil.copytree(collection.library, tmp_path / "library"))
    for unit, receipt in Ledger(open_location(str(library))).attempts():
        assert receipt is not None
        content = json.loads(receipt.to_json())
        write(library, unit.id, {**content, "numerics": {**content["numerics"], "isa": "another"}})
    summary = recompute(str(library), Recompute(1), no_progress)
    assert (len(summary.close), summary.different) == (1, [])


def test_a_check_that_could_check_nothing_fails(
    run: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made / "photos").rename(tmp_path / "photos")
    try:
        assert run_app(app, ["verify", str(run), "--recompute", "2", "--seed", "7"]) == 1
        assert "0 images done once more (--seed 7): 0 equal, 0 different" in capsys.readouterr().out
    finally:
        (tmp_path / "photos").rename(made / "photos")


# ---- adopted by a worker ----


def test_a_worker_does_not_adopt_a_receipt_with_other_outputs_than_it_has_just_made(run: Path) -> None:
    ledger = Ledger(open_location(str(run)))
    receipt = ledger.receipts()[unit_of(run, "11.png")]
    assert ledger.commit(receipt) == receipt
    other = receipt.model_copy(update={"attempt": new_attempt(), "outputs": (("0" * 64, 1),)})
    with pytest.raises(DamagedError, match="claims other outputs"):
        ledger.commit(other)
    elsewhere = other.model_copy(update={"numerics": {**receipt.numerics, "isa": "another"}})
    assert ledger.commit(elsewhere) == receipt  # of another numerics class, the first one counts


def test_a_part_of_the_same_name_and_size_with_other_content_is_not_adopted(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"patches")
    (tmp_path / "place/patches").mkdir(parents=True)
    (tmp_path / "place/patches/part").write_bytes(b"planted")
    with pytest.raises(DamagedError, match="other content than its name says"):
        open_location(str(tmp_path / "place")).put_content("patches/part", mine)
