"""Laws of retries, for any listings, failures and interruptions."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_batch.store.attempts import find_rejects, find_retry
from kt_batch.store.locations import LocalLocation
from kt_batch.store.plans import Item, Unit
from kt_batch.store.receipts import Receipt, new_attempt
from kt_batch.store.schemas import REJECTS
from kt_batch.store.tables import commit_table
from kt_batch.store.units import Attempt, Ledger

DIGEST = "0" * 16

# Few images, places and names, so that inputs are moved, repaired and listed again.
items = st.builds(
    Item, st.integers(0, 3).map("{:016x}".format), st.sampled_from(["/in/a", "/in/b", "s3://x/a"]),
    st.sampled_from(["a", "b"]),
)  # fmt: skip


@dataclass(frozen=True)
class Submission:
    """One submission: its inputs, its failures, the retry option and when it is killed."""

    listed: list[Item]
    retry: bool
    failing: frozenset[str]
    units: int
    unit_size: int


submissions = st.builds(
    Submission,
    listed=st.lists(items, max_size=5),
    retry=st.booleans(),
    failing=st.frozensets(st.integers(0, 3).map("{:016x}".format)),
    units=st.integers(0, 5),
    unit_size=st.integers(1, 3),
)


def submit(ledger: Ledger, submission: Submission) -> None:
    """Run a submission as a pipeline does until it is killed."""
    retry = find_retry(ledger, submission.listed, all_rejects=True) if submission.retry else None
    ledger.plan(submission.listed, submission.unit_size, {}, DIGEST, retry)
    for unit in ledger.pending()[: submission.units]:
        rejected = [item for item in unit.items if item.image_id in submission.failing]
        rows = [{"uri": item.uri, "stage": "decode", "reason": "fatal", "message": ""} for item in rejected]
        part = pa.Table.from_pylist(rows, schema=REJECTS)
        tables = (commit_table(ledger.location, "rejects", unit.id, part),) if rows else ()
        ledger.commit(Receipt(unit=unit.id, attempt=new_attempt(), config_digest=DIGEST, tables=tables))


def same_input(one: Item, other: Item) -> bool:
    return one.name == other.name and (one.image_id == other.image_id or one.uri == other.uri)


def key(item: Item) -> tuple[str, str]:
    return item.image_id, item.name


def rejects_by_definition(ledger: Ledger) -> set[tuple[str, Item]]:
    """Return the committed rejects whose inputs are in no later committed unit."""
    attempts = [(unit, receipt) for unit, receipt in ledger.attempts() if receipt]
    uris = {unit: table["uri"].to_pylist() for unit, table in ledger.reject_tables(attempts).items()}
    return {
        (unit.id, item)
        for number, (unit, _) in enumerate(attempts)
        for item in unit.items
        if item.uri in uris.get(unit.id, [])
        and not any(same_input(item, later) for other, _ in attempts[number + 1 :] for later in other.items)
    }


@settings(max_examples=60)
@given(st.lists(submissions, min_size=1, max_size=6))
def test_retries_plan_rejects_once_and_change_nothing_else(history: list[Submission]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        location = LocalLocation(Path(folder))
        for submission in history:
            ledger = Ledger(location)
            before, standing = ledger.attempts(), find_rejects(ledger).standing
            submit(Ledger(location), submission)
            units = ledger.units()
            check_new_units(before, standing, units[len(before) :], submission)
            assert units[: len(before)] == [unit for unit, _ in before]
            assert len({unit.id for unit in units}) == len(units)
            rejects = find_rejects(ledger)
            assert rejects.standing == rejects_by_definition(ledger)
            assert set(rejects.rows["uri"].to_pylist()) == {item.uri for _, item in rejects.standing}


def check_new_units(
    before: list[Attempt], standing: frozenset[tuple[str, Item]], new: list[Unit], submission: Submission
) -> None:
    planned = {key(item) for unit, _ in before for item in unit.items}
    waiting = [item for unit, receipt in before if receipt is None for item in unit.items]
    last = max((unit.retry for unit, _ in before), default=0)
    open_retry = last > 0 and any(unit.retry == last for unit, receipt in before if receipt is None)
    for unit in new:
        for item in unit.items:
            assert item in submission.listed
            if unit.retry == 0:
                assert key(item) not in planned
            else:
                assert submission.retry
                assert any(same_input(item, failed) for _, failed in standing)
                assert not any(same_input(item, other) for other in waiting)
                assert unit.retry == (last if open_retry else last + 1)
    units = [*(unit for unit, _ in before), *new]
    tries = Counter((key(item), unit.retry) for unit in units for item in unit.items)
    assert all(count == 1 for count in tries.values())


@settings(max_examples=60)
@given(st.lists(submissions, max_size=5), st.lists(items, min_size=1, max_size=5))
def test_retries_without_failures_leave_no_listed_reject(history: list[Submission], listed: list[Item]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(LocalLocation(Path(folder)))
        for submission in history:
            submit(ledger, submission)
        for _ in range(3):  # the running retry, its failures, and the failures of a late first attempt
            submit(ledger, Submission(listed, True, frozenset(), 99, 2))
        left = find_rejects(ledger).standing
        assert not [item for _, item in left if any(same_input(item, other) for other in listed)]
        count = len(ledger.units())
        submit(ledger, Submission(listed, True, frozenset(), 99, 2))
        assert len(ledger.units()) == count
