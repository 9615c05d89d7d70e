"""The last attempt at an input counts, and concurrent drivers begin a retry once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kt_batch.errors import DamagedError
from kt_batch.store.attempts import find_rejects, find_retry
from kt_batch.store.locations import LocalLocation
from kt_batch.store.plans import Item, Unit, decode_plan, encode_plan, make_units
from kt_batch.store.receipts import Receipt, new_attempt
from kt_batch.store.schemas import REJECTS
from kt_batch.store.tables import commit_table
from kt_batch.store.units import Ledger, Retry

DIGEST = "00000000000000aa"
A, B, C = (Item(f"{number:016x}", f"/in/{name}", name) for number, name in enumerate("abc"))


def plan(ledger: Ledger, *items: Item, retry: Retry | None = None, unit_size: int = 8) -> list[Unit]:
    return ledger.plan(items, unit_size, {}, DIGEST, retry)


def commit(ledger: Ledger, unit: Unit, *rejected: Item, reason: str = "fatal") -> None:
    rows = [{"uri": item.uri, "stage": "decode", "reason": reason, "message": "!"} for item in rejected]
    part = pa.Table.from_pylist(rows, schema=REJECTS)
    tables = (commit_table(ledger.location, "rejects", unit.id, part),) if rows else ()
    counts = {"images": len(unit.items) - len(rows), "rejects": len(rows), "tables": tables}
    ledger.commit(Receipt.model_validate({"unit": unit.id, "attempt": new_attempt(), "config_digest": DIGEST} | counts))


def retried(ledger: Ledger, *items: Item, unit_size: int = 8) -> list[Unit]:
    """Submit these items with a retry and return the pending units."""
    plan(ledger, *items, retry=find_retry(ledger, items, all_rejects=True), unit_size=unit_size)
    return ledger.pending()


def standing(ledger: Ledger) -> list[tuple[str, str]]:
    return sorted((row["uri"], row["reason"]) for row in find_rejects(ledger).rows.to_pylist())


@pytest.fixture
def location(tmp_path: Path) -> LocalLocation:
    return LocalLocation(tmp_path / "lib")


@pytest.fixture
def ledger(location: LocalLocation) -> Ledger:
    """Return a ledger in which A and B are planned and A is rejected."""
    ledger = Ledger(location)
    commit(ledger, plan(ledger, A, B)[0], A)
    return ledger


# ---- which inputs are retried ----------------------------------------------------------------------------------------


def test_only_rejects_are_retried(ledger: Ledger) -> None:
    (unit,) = retried(ledger, A, B, C)[-1:]
    assert (unit.items, unit.retry) == ((A,), 1)
    assert [unit.items for unit in ledger.units()] == [(A, B), (C,), (A,)]


def test_a_reject_that_is_not_listed_is_not_retried(ledger: Ledger, location: LocalLocation) -> None:
    assert retried(ledger, B) == []
    assert "plan/000001.parquet" not in location.list()


def test_a_retry_unit_has_its_own_id() -> None:
    ids = {make_units([A], 8, retry)[0].id for retry in range(4)}
    assert len(ids) == 4


def test_a_moved_file_is_retried_at_its_new_place(ledger: Ledger) -> None:
    moved = Item(A.image_id, "s3://new/a", A.name)
    (unit,) = retried(ledger, moved)
    assert unit.items == (moved,)
    commit(ledger, unit)
    assert standing(ledger) == []


def test_a_reject_that_failed_again_can_be_retried_again(ledger: Ledger) -> None:
    commit(ledger, retried(ledger, A)[0], A, reason="unreadable")
    assert standing(ledger) == [("/in/a", "unreadable")]
    (third,) = retried(ledger, A)
    assert third.retry == 2
    commit(ledger, third)
    assert standing(ledger) == []
    assert retried(ledger, A) == []


def test_a_repaired_file_is_new_work_and_is_planned_once(ledger: Ledger) -> None:
    mended = Item("f" * 16, A.uri, A.name)
    (unit,) = retried(ledger, mended)
    assert (unit.items, unit.retry) == ((mended,), 0)
    assert retried(ledger, mended) == [unit]
    commit(ledger, unit)
    assert standing(ledger) == []


def test_a_file_that_was_temporarily_unreadable_is_retried(ledger: Ledger) -> None:
    unreadable = Item("f" * 16, B.uri, B.name)
    commit(ledger, plan(ledger, unreadable)[-1], unreadable, reason="unreadable")
    assert standing(ledger) == [("/in/a", "fatal"), ("/in/b", "unreadable")]
    (unit,) = retried(ledger, B)
    assert (unit.items, unit.retry) == ((B,), 1)
    commit(ledger, unit)
    assert standing(ledger) == [("/in/a", "fatal")]


def test_a_reject_is_not_cured_by_another_file_of_its_name_or_another_name_of_its_file(ledger: Ledger) -> None:
    namesake, copy = Item("f" * 16, "/other/a", A.name), Item(A.image_id, A.uri, "other/a")
    for unit in plan(ledger, namesake, copy)[1:]:
        commit(ledger, unit)
    assert standing(ledger) == [("/in/a", "fatal")]


def test_a_reject_counts_until_its_retry_is_committed(ledger: Ledger) -> None:
    (unit,) = retried(ledger, A)
    assert standing(ledger) == [("/in/a", "fatal")]
    assert find_rejects(ledger).among([unit]) == 1
    commit(ledger, unit)
    assert find_rejects(ledger).superseded == {ledger.units()[0].id: {"/in/a"}}


# ---- once ------------------------------------------------------------------------------------------------------------


def failing(ledger: Ledger, *items: Item) -> list[Unit]:
    """Reject every item, each in a unit of its own."""
    for unit in plan(ledger, *items, unit_size=1):
        if unit.id not in ledger.receipts():
            commit(ledger, unit, *unit.items)
    return ledger.units()


def test_an_interrupted_retry_is_finished_and_no_other_begins(ledger: Ledger, location: LocalLocation) -> None:
    failing(ledger, A, B, C)
    first, second = retried(ledger, A, C, unit_size=1)
    commit(ledger, first, A)
    again = Ledger(location)
    assert retried(again, A, C) == [second]  # A failed in this retry already; the next one may retry it
    assert plan(again, A, C)[-1] == second  # nor is anything more planned without the option
    commit(again, second, C)
    assert [(unit.retry, unit.items) for unit in retried(again, A, C)] == [(2, (A, C))]


def test_a_running_retry_includes_inputs_listed_by_another_driver(ledger: Ledger) -> None:
    failing(ledger, A, C)
    retried(ledger, A)
    assert [(unit.retry, unit.items) for unit in retried(ledger, C)] == [(1, (A,)), (1, (C,))]


@dataclass(frozen=True)
class Contended(LocalLocation):
    """A location where another actor runs just before each put."""

    before_put: Callable[[], object] = lambda: None

    def put_if_absent(self, name: str, data: bytes) -> bool:
        self.before_put()
        return super().put_if_absent(name, data)


def finished(ledger: Ledger, units: Iterable[Unit], *rejected: Item) -> None:
    for unit in units:
        commit(ledger, unit, *rejected)


@pytest.mark.parametrize("outcome", ["under way", "cured", "failed again"])
def test_the_slower_of_two_concurrent_drivers_adopts_the_retry_of_the_faster(
    ledger: Ledger, location: LocalLocation, outcome: str
) -> None:
    winner = Ledger(location)

    def act() -> None:
        units = retried(winner, A) if len(winner.units()) == 1 else []
        if outcome != "under way":
            finished(winner, units, *([A] if outcome == "failed again" else []))

    loser = Ledger(Contended(location.root, act))
    retried(loser, A)
    assert [unit.items for unit in loser.units()] == [(A, B), (A,)]
    assert location.list("plan") == ["plan/000000.parquet", "plan/000001.parquet"]


def test_a_driver_with_an_outdated_view_begins_no_second_retry(ledger: Ledger, location: LocalLocation) -> None:
    seen = find_retry(ledger, [A], all_rejects=True)
    other = Ledger(location)
    commit(other, retried(other, A)[0], A)
    assert plan(ledger, A, retry=seen) == other.units()
    assert len(other.units()) == 2


# ---- existing files stay unchanged -----------------------------------------------------------------------------------


def test_a_retry_without_success_keeps_the_snapshot(ledger: Ledger) -> None:
    before = ledger.snapshot()
    commit(ledger, retried(ledger, A)[0], A)
    assert ledger.snapshot() == before
    (unit,) = retried(ledger, A)
    table = commit_table(ledger.location, "patches", unit.id, pa.table({"x": [1]}))
    receipt = Receipt(unit=unit.id, attempt=new_attempt(), config_digest=DIGEST, tables=(table,))
    ledger.commit(receipt)
    assert ledger.snapshot() != before


def test_a_retry_plan_records_its_number_and_has_the_usual_columns(ledger: Ledger, location: LocalLocation) -> None:
    units = retried(ledger, A)
    first, second = (pq.ParquetFile(location.root / f"plan/00000{number}.parquet") for number in range(2))
    assert first.schema_arrow == second.schema_arrow
    assert first.metadata.metadata[b"format"] == b"kt-batch-plan/1"
    assert b"retry" not in first.metadata.metadata
    assert (second.metadata.metadata[b"format"], second.metadata.metadata[b"retry"]) == (b"kt-batch-plan/2", b"1")
    assert Ledger(location).pending() == units


@pytest.mark.parametrize("number", [b"2", b"x", b"0", b"-1", None])
def test_a_plan_whose_retry_was_changed_is_damaged(ledger: Ledger, location: LocalLocation, number: bytes) -> None:
    retried(ledger, A)
    table = pq.read_table(location.root / "plan/000001.parquet")
    metadata = {**pq.ParquetFile(location.root / "plan/000001.parquet").metadata.metadata}
    metadata = {key: value for key, value in metadata.items() if key != b"ARROW:schema"}
    del metadata[b"retry"]
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata | ({b"retry": number} if number else {})), sink)
    with pytest.raises(DamagedError, match=r"^plan/000001\.parquet "):
        decode_plan(bytes(sink.getvalue()), "plan/000001.parquet")


def test_a_retry_plan_round_trips_through_its_file(ledger: Ledger) -> None:
    (unit,) = retried(ledger, A)
    stored = ledger._plans[1]
    assert (stored.retry, stored.units) == (1, (unit,))
    assert decode_plan(encode_plan(stored), "plan/000001.parquet") == stored
