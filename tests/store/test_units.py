"""Concurrent drivers plan every item once and commit every unit once."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kt_batch.config import ExtractConfig
from kt_batch.errors import DamagedError, MismatchError, StorageError, UsageError
from kt_batch.store.layout import part_path
from kt_batch.store.locations import LocalLocation
from kt_batch.store.plans import Item, Plan, Unit, decode_plan, encode_plan, make_units, owners
from kt_batch.store.receipts import HOST_LENGTH, Receipt, TableRef, new_attempt, parse_receipt, this_worker
from kt_batch.store.units import Ledger
from tests.support.s3_server import S3Server, moto_server  # noqa: F401  # the fixture

CONFIG: dict[str, Any] = {"encoder": {"layer": "relu3_1", "size": 512}, "stride": 1}
DIGEST = "00000000000000aa"


def an_item(number: int, name: str | None = None, *, uri: str = "") -> Item:
    name = name or f"{number}.jpg"
    return Item(f"{number:016x}", uri or f"file:///in/{name}", name)


def a_receipt(unit: Unit, **changes: Any) -> Receipt:
    output = (hashlib.sha256(unit.id.encode()).hexdigest(), 1234)
    fields = {
        "unit": unit.id,
        "attempt": new_attempt(),
        "config_digest": DIGEST,
        "outputs": (output,) * len(unit.items),
    }
    return Receipt(**{**fields, **changes})


def a_table(unit: Unit, kind: str = "patches", content: bytes = b"") -> TableRef:
    sha256 = hashlib.sha256(unit.id.encode() + content).hexdigest()
    return TableRef(kind=kind, name=part_path(kind, unit.id, sha256), rows=16129, bytes=33031168, sha256=sha256)


@pytest.fixture
def location(tmp_path: Path) -> LocalLocation:
    return LocalLocation(tmp_path / "lib")


@pytest.fixture
def ledger(location: LocalLocation) -> Ledger:
    return Ledger(location)


def planned(ledger: Ledger, *numbers: int, unit_size: int = 2) -> list[Unit]:
    return ledger.plan([an_item(number) for number in numbers], unit_size, CONFIG, DIGEST)


# ---- dividing --------------------------------------------------------------------------------------------------------


def test_items_are_divided_in_the_order_of_their_content() -> None:
    units = make_units([an_item(3), an_item(1), an_item(2)], 2)
    assert [unit.items for unit in units] == [(an_item(1), an_item(2)), (an_item(3),)]


def test_the_items_of_a_unit_determine_its_id() -> None:
    content = '[["0000000000000001","1.jpg","file:///in/1.jpg"]]'
    assert make_units([an_item(1)], 8)[0].id == hashlib.sha256(content.encode()).hexdigest()[:16]


def test_all_names_of_one_image_share_a_unit() -> None:
    items = [an_item(1), an_item(2, "a"), an_item(2, "b"), an_item(2, "c"), an_item(3)]
    assert [len(unit.items) for unit in make_units(items, 2)] == [1, 3, 1]
    assert [len(unit.items) for unit in make_units(items, 4)] == [4, 1]


def test_an_item_listed_from_two_places_counts_once() -> None:
    twice = [an_item(1, "a", uri="s3://b/a"), an_item(1, "a", uri="file:///a")]
    assert make_units(twice, 8)[0].items == (an_item(1, "a", uri="file:///a"),)


@pytest.mark.parametrize(("image_id", "unit_size"), [("0" * 16, 0), ("0" * 15, 1), ("A" * 16, 1), ("", 1)])
def test_a_unit_size_below_one_and_a_malformed_image_id_are_refused(image_id: str, unit_size: int) -> None:
    with pytest.raises(UsageError, match="allowed"):
        make_units([Item(image_id, "u", "n")], unit_size)


def test_an_image_belongs_to_the_first_unit_that_contains_it(ledger: Ledger) -> None:
    planned(ledger, 1, 2)
    first, second = ledger.plan([an_item(2, "copy.jpg"), an_item(3)], 2, CONFIG, DIGEST)
    assert owners([first, second]) == {
        an_item(1).image_id: first.id,
        an_item(2).image_id: first.id,
        an_item(3).image_id: second.id,
    }


# ---- the plan --------------------------------------------------------------------------------------------------------


def test_planning_again_changes_nothing(ledger: Ledger, location: LocalLocation) -> None:
    first = planned(ledger, 1, 2, 3)
    assert planned(Ledger(location), 3, 2, 1, unit_size=8) == first
    assert location.list() == ["plan/000000.parquet"]


def test_added_items_make_new_units_and_leave_the_old_ones(ledger: Ledger, location: LocalLocation) -> None:
    first = planned(ledger, 2, 4, 6)
    both = planned(ledger, 1, 2, 3, 4, 5, 6)
    assert both[: len(first)] == first
    assert [unit.items for unit in both[len(first) :]] == [(an_item(1), an_item(3)), (an_item(5),)]
    assert location.list() == ["plan/000000.parquet", "plan/000001.parquet"]


def test_a_moved_item_stays_planned(ledger: Ledger) -> None:
    first = planned(ledger, 1)
    assert ledger.plan([an_item(1, uri="s3://moved/1.jpg")], 2, CONFIG, DIGEST) == first


def test_a_vanished_item_stays_planned(ledger: Ledger) -> None:
    first = planned(ledger, 1, 2)
    assert planned(ledger, 2) == first


def test_planning_no_items_writes_nothing(ledger: Ledger, location: LocalLocation) -> None:
    assert planned(ledger) == []
    assert location.list() == []
    assert ledger.config() is None


def test_another_ledger_sees_the_plan(ledger: Ledger, location: LocalLocation) -> None:
    other = Ledger(location)
    assert other.units() == []
    units = planned(ledger, 1, 2, 3)
    assert other.units() == units
    assert other.config() == (CONFIG, DIGEST)


@dataclass(frozen=True)
class Contended(LocalLocation):
    """A location where another actor runs just before each put."""

    before_put: Callable[[], object] = lambda: None

    def put_if_absent(self, name: str, data: bytes) -> bool:
        self.before_put()
        return super().put_if_absent(name, data)


def test_a_driver_that_loses_the_race_adopts_the_winning_plan_and_adds_missing_items(location: LocalLocation) -> None:
    winner = Ledger(location)
    loser = Ledger(Contended(location.root, lambda: planned(winner, 1, 2)))
    units = planned(loser, 2, 3)
    assert [unit.items for unit in units] == [(an_item(1), an_item(2)), (an_item(3),)]
    assert winner.units() == units


def test_a_driver_with_other_options_that_loses_the_race_is_refused(location: LocalLocation) -> None:
    loser = Ledger(Contended(location.root, lambda: planned(Ledger(location), 1)))
    with pytest.raises(MismatchError):
        loser.plan([an_item(1)], 2, {"stride": 2}, "00000000000000bb")


def test_two_drivers_share_the_work_in_a_bucket(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    place = moto_server.new_location(monkeypatch)
    first, second = Ledger(place), Ledger(place)
    units = planned(first, 1, 2, 3)
    assert planned(second, 3, 2, 1) == units
    mine, theirs = a_receipt(units[0]), a_receipt(units[0])
    assert first.commit(mine) == mine
    assert second.commit(theirs) == mine
    assert second.pending() == first.pending() == units[1:]
    assert place.list() == ["plan/000000.parquet", f"receipts/{units[0].id}.json"]


def test_many_concurrent_drivers_plan_every_item_once(location: LocalLocation) -> None:
    def drive(start: int) -> None:
        planned(Ledger(location), *range(start, start + 10))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(drive, range(8)))
    items = [item for unit in Ledger(location).units() for item in unit.items]
    assert sorted(items, key=lambda item: item.image_id) == [an_item(number) for number in range(17)]


def test_the_refusal_of_other_options_names_both_digests_and_the_difference(ledger: Ledger) -> None:
    planned(ledger, 1)
    other = {"encoder": {"layer": "relu4_1", "size": 512}, "stride": 1, "seed": 7}
    with pytest.raises(MismatchError) as caught:
        ledger.plan([an_item(1)], 2, other, "00000000000000bb")
    message = str(caught.value)
    assert "00000000000000aa" in message
    assert "00000000000000bb" in message
    assert message.endswith(
        'they differ in encoder.layer ("relu3_1" there, "relu4_1" here), seed (unset there, 7 here)'
    )


def test_a_real_configuration_round_trips_with_its_digest(ledger: Ledger) -> None:
    config = ExtractConfig.model_validate({"encoder": {"weights_sha256": "ab" * 32}, "tags": ["1889", "ölbild"]})
    ledger.plan([an_item(1)], 8, config.model_dump(mode="json"), config.digest())
    found = ledger.config()
    assert found is not None
    assert ExtractConfig.model_validate(found[0]) == config
    assert found[1] == config.digest()


def test_a_plan_file_is_plain_parquet(ledger: Ledger, location: LocalLocation) -> None:
    unit = planned(ledger, 1, 2)[0]
    file = pq.ParquetFile(location.root / "plan/000000.parquet")
    assert file.schema_arrow.equals(
        pa.schema([("unit", pa.binary(8)), ("image_id", pa.binary(8)), ("uri", pa.string()), ("name", pa.string())])
    )
    assert file.read().to_pylist()[1] == {
        "unit": bytes.fromhex(unit.id),
        "image_id": bytes.fromhex("0000000000000002"),
        "uri": "file:///in/2.jpg",
        "name": "2.jpg",
    }
    assert file.metadata.metadata == {
        b"format": b"kt-batch-plan/1",
        b"config": b'{"encoder":{"layer":"relu3_1","size":512},"stride":1}',
        b"config_digest": b"00000000000000aa",
    }
    assert {file.metadata.row_group(0).column(column).compression for column in range(4)} == {"ZSTD"}


def test_equal_plans_have_equal_bytes() -> None:
    def plan(items: list[Item], config: dict[str, Any]) -> bytes:
        return encode_plan(Plan(tuple(make_units(items, 2)), config, DIGEST))

    items = [an_item(number) for number in range(5)]
    assert plan(items, {"a": 1, "b": 2}) == plan(items[::-1], {"b": 2, "a": 1})


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_the_error_for_a_damaged_plan_names_it(ledger: Ledger, location: LocalLocation, keep: int) -> None:
    planned(ledger, 1)
    path = location.root / "plan/000000.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedError, match=r"plan/000000\.parquet is not readable as Parquet"):
        Ledger(location).units()


def test_a_plan_whose_items_were_changed_is_damaged() -> None:
    forged = encode_plan(Plan((Unit("0" * 16, (an_item(1),)),), CONFIG, DIGEST))
    with pytest.raises(DamagedError, match="holds a unit 0000000000000000 whose items make"):
        decode_plan(forged, "plan/000000.parquet")


def test_a_plan_of_another_format_is_refused() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"unit": []}), sink)
    with pytest.raises(DamagedError, match=r"format None; allowed are 'kt-batch-plan/1' to 'kt-batch-plan/5'"):
        decode_plan(bytes(sink.getvalue()), "plan/000000.parquet")


def test_a_gap_in_the_plan_is_damage(ledger: Ledger, location: LocalLocation) -> None:
    planned(ledger, 1)
    planned(ledger, 2)
    location.delete("plan/000000.parquet")
    with pytest.raises(DamagedError, match=r"holds plan/000001\.parquet, but not the earlier plan/000000\.parquet"):
        Ledger(location).units()


# ---- commits ---------------------------------------------------------------------------------------------------------


def test_a_committed_unit_is_no_longer_pending(ledger: Ledger, location: LocalLocation) -> None:
    first, second = planned(ledger, 1, 2, 3)
    assert ledger.pending() == [first, second]
    receipt = a_receipt(first, tables=(a_table(first),), images=2, patches=32258, timings={"encode": 1.5})
    assert ledger.commit(receipt) == receipt
    assert ledger.pending() == [second]
    assert Ledger(location).receipts() == {first.id: receipt}


def test_the_second_commit_of_a_unit_returns_the_first_receipt(ledger: Ledger, location: LocalLocation) -> None:
    unit = planned(ledger, 1)[0]
    mine, late = a_receipt(unit), a_receipt(unit)
    ledger.commit(mine)
    assert Ledger(location).commit(late) == mine
    assert ledger.receipts() == {unit.id: mine}


def test_a_retried_commit_whose_reply_was_lost_returns_its_own_receipt(ledger: Ledger) -> None:
    receipt = a_receipt(planned(ledger, 1)[0])
    ledger.commit(receipt)
    assert ledger.commit(receipt) == receipt


@dataclass(frozen=True)
class Failing(LocalLocation):
    """A location whose puts fail before or after they take effect."""

    stored: bool = True

    def put_if_absent(self, name: str, data: bytes) -> bool:
        if self.stored:
            super().put_if_absent(name, data)
        raise StorageError("the request failed")


def test_a_commit_that_failed_after_it_was_stored_is_read_back(location: LocalLocation) -> None:
    receipt = a_receipt(planned(Ledger(location), 1)[0])
    assert Ledger(Failing(location.root)).commit(receipt) == receipt


def test_a_commit_that_failed_before_it_was_stored_is_a_failure(location: LocalLocation) -> None:
    receipt = a_receipt(planned(Ledger(location), 1)[0])
    with pytest.raises(StorageError, match="the request failed"):
        Ledger(Failing(location.root, stored=False)).commit(receipt)
    assert Ledger(location).receipts() == {}


def test_all_attempts_at_one_unit_get_the_same_receipt(location: LocalLocation) -> None:
    unit = planned(Ledger(location), 1)[0]
    attempts = [a_receipt(unit) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda receipt: Ledger(location).commit(receipt), attempts))
    assert len({receipt.attempt for receipt in told}) == 1
    assert told[0] in attempts


def test_a_receipt_of_an_unplanned_unit_is_ignored(ledger: Ledger) -> None:
    planned(ledger, 1)
    ledger.commit(a_receipt(Unit("f" * 16, (an_item(9),))))
    assert ledger.receipts() == {}


def test_deleting_a_receipt_makes_its_unit_pending_again(ledger: Ledger, location: LocalLocation) -> None:
    unit = planned(ledger, 1)[0]
    ledger.commit(a_receipt(unit))
    assert ledger.pending() == []
    location.delete(f"receipts/{unit.id}.json")
    assert ledger.pending() == [unit]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff",
        b'{"tables":[null]}',
        b'{"format":"kt-batch-receipt/2","tables":[],"unit":"' + b"0" * 16 + b'"}',
        b"[" * 100_000,
    ],
)
def test_the_error_for_a_damaged_receipt_names_it(ledger: Ledger, location: LocalLocation, data: bytes) -> None:
    unit = planned(ledger, 1)[0]
    location.put_if_absent(f"receipts/{unit.id}.json", data)
    with pytest.raises(DamagedError, match=rf"receipts/{unit.id}\.json (is not|is nested|holds)"):
        ledger.receipts()


def test_a_receipt_under_another_units_name_is_damaged(ledger: Ledger, location: LocalLocation) -> None:
    first, second = planned(ledger, 1, 2, unit_size=1)
    location.put_if_absent(f"receipts/{first.id}.json", a_receipt(second).to_json())
    with pytest.raises(DamagedError, match="is the receipt of another unit"):
        ledger.receipts()


def test_a_receipt_of_another_configuration_or_length_is_damaged(location: LocalLocation) -> None:
    first, second = planned(Ledger(location), 1, 2, unit_size=1)
    Ledger(location).commit(a_receipt(first, config_digest="00000000000000bb"))
    with pytest.raises(DamagedError, match="00000000000000bb, but its plan has 00000000000000aa"):
        Ledger(location).receipts()
    location.delete(f"receipts/{first.id}.json")
    Ledger(location).commit(a_receipt(second, outputs=(None, None)))
    with pytest.raises(DamagedError, match="has 2 outputs, but its unit has 1 items"):
        Ledger(location).receipts()


def test_a_receipt_is_compact_json_without_names_and_round_trips() -> None:
    unit = make_units([an_item(1), an_item(2)], 8)[0]
    output = ("ab" * 32, 5)
    receipt = a_receipt(unit, tables=(a_table(unit),), outputs=(output, None), rejects=1, timings={"encode": 0.12345})
    assert receipt.timings == {"encode": 0.123}
    content = json.loads(receipt.to_json())
    assert content["outputs"] == [["ab" * 32, 5], None]
    assert list(content["tables"][0]) == ["bytes", "kind", "rows", "sha256"]
    assert receipt.to_json() == json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    assert parse_receipt(receipt.to_json(), f"{unit.id}.json") == receipt


def test_report_figures_are_rounded_and_round_trip() -> None:
    unit = make_units([an_item(1), an_item(2)], 8)[0]
    receipt = a_receipt(unit, finished=1763718000.12345, worker="node-7:42", item_seconds=(1.23456, None))
    content = json.loads(receipt.to_json())
    assert (content["finished"], content["worker"], content["item_seconds"]) == (
        1763718000.123, "node-7:42", [1.235, None],
    )  # fmt: skip
    assert parse_receipt(receipt.to_json(), f"{unit.id}.json") == receipt


def test_a_receipt_without_a_worker_is_read_and_left_unchanged() -> None:
    unit = make_units([an_item(1)], 8)[0]
    data = a_receipt(unit, timings={"encode": 1.5}).to_json()
    assert json.loads(data).keys().isdisjoint({"finished", "worker", "item_seconds"})
    old = parse_receipt(data, f"{unit.id}.json")
    assert (old.finished, old.worker, old.item_seconds) == (None, None, ())
    assert old.to_json() == data


@pytest.mark.parametrize(
    "told",
    [
        {"worker": "no process"},
        {"worker": f"{'h' * 33}:1"},
        {"worker": "<b>:1"},
        {"finished": -1.0},
        {"finished": float("inf")},
        {"item_seconds": (float("nan"),)},
    ],
)
def test_a_receipt_with_invalid_report_figures_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        a_receipt(make_units([an_item(1)], 8)[0], **told)


def test_timings_for_a_wrong_number_of_items_are_damage(ledger: Ledger) -> None:
    ledger.commit(a_receipt(planned(ledger, 1)[0], item_seconds=(1.0, 2.0)))
    with pytest.raises(DamagedError, match="has 2 seconds of items, but its unit has 1 items"):
        ledger.receipts()


@pytest.mark.parametrize(
    ("host", "kept"),
    [
        ("vm", "vm"),
        ("ip-10-0-0-1.ec2.internal", "ip-10-0-0-1.ec2.internal"),
        ("raycluster-kuberay-worker-group-abcde.default.svc.cluster.local", "uster-kuberay-worker-group-abcde"),
        ("Grüße <b>", "Gr--e--b-"),
        ("", "-"),
    ],
)
def test_a_worker_is_named_after_its_host_and_process(monkeypatch: pytest.MonkeyPatch, host: str, kept: str) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    monkeypatch.setattr("os.getpid", lambda: 42)
    assert this_worker() == f"{kept}:42"
    assert a_receipt(make_units([an_item(1)], 8)[0], worker=this_worker()).worker == f"{kept}:42"


def test_a_receipt_cannot_point_outside_its_place() -> None:
    unit = make_units([an_item(1)], 8)[0]
    table = a_table(unit)
    with pytest.raises(ValueError, match="should be called"):
        a_receipt(unit, tables=(table.model_copy(update={"name": "../../etc/passwd"}),))
    forged = json.loads(a_receipt(unit, tables=(table,)).to_json())
    forged["tables"][0]["name"] = "../../etc/passwd"
    assert parse_receipt(json.dumps(forged).encode(), f"{unit.id}.json").tables == (table,)
    forged["tables"][0]["kind"] = "../patches"
    with pytest.raises(DamagedError, match="kind"):
        parse_receipt(json.dumps(forged).encode(), f"{unit.id}.json")


# ---- snapshots and size ----------------------------------------------------------------------------------------------


def test_a_snapshot_depends_only_on_committed_units(tmp_path: Path) -> None:
    def snapshot(name: str, order: int, content: bytes = b"", **changes: Any) -> str:
        ledger = Ledger(LocalLocation(tmp_path / name))
        for unit in planned(ledger, 1, 2, 3, 4)[::order]:
            ledger.commit(a_receipt(unit, tables=(a_table(unit, content=content),), **changes))
        return ledger.snapshot()

    first = snapshot("first", 1, timings={"encode": 1.0})
    assert len(first) == 16
    assert snapshot("other-order", -1, timings={"encode": 2.0}, numerics={"threads": "2"}) == first
    told: dict[str, Any] = {"finished": 1763718000.0, "worker": "node-7:42", "item_seconds": (1.0, None)}
    assert snapshot("others-worker", 1, **told) == first
    assert snapshot("other-table", 1, content=b"x") != first
    assert snapshot("other-outputs", 1, outputs=(("cd" * 32, 1), None)) != first


def test_a_snapshot_grows_with_each_commit(ledger: Ledger) -> None:
    units = planned(ledger, 1, 2, 3)
    seen = {ledger.snapshot()}
    for unit in units:
        ledger.commit(a_receipt(unit))
        seen.add(ledger.snapshot())
    assert len(seen) == 3


NUMERICS = {
    "torch": "2.13.0+cpu",
    "numpy": "2.4.6",
    "pillow": "13.0.0",
    "device": "cpu",
    "isa": "AVX512",
    "threads": "2",
    "kt_batch": "0.1.0",
    "imagecodecs": "2026.3.6",
    "tifffile": "2026.3.3",
    "pyarrow": "26.0.1",
}


def test_plan_and_receipts_take_at_most_200_bytes_per_image(ledger: Ledger, location: LocalLocation) -> None:
    chance = random.Random(7)
    names = [f"2023/{chance.randint(1, 12):02d}/IMG_{chance.randint(0, 10**12):012d}.jpg" for _ in range(64 * 8)]
    items = [Item(f"{chance.getrandbits(64):016x}", f"s3://studio-archive/photographs/{name}", name) for name in names]
    assert len(items[0].uri) == 60
    config = ExtractConfig.model_validate({"encoder": {"weights_sha256": "ab" * 32}})
    units = ledger.plan(items, 8, config.model_dump(mode="json"), config.digest())
    assert [len(unit.items) for unit in units] == [8] * 64
    for unit in units:
        outputs = tuple((f"{chance.getrandbits(256):064x}", chance.randint(300_000, 700_000)) for _ in unit.items)
        timings = {"read": 0.123, "encode": 2.345, "search": 12.345, "swap": 1.234, "decode": 2.345, "write": 0.123}
        counts = {"images": 8, "patches": 129032}
        told = {
            "finished": 1_763_718_000 + chance.random() * 10_000,
            "worker": f"{'w' * HOST_LENGTH}:{chance.randint(10**6, 4 * 10**6)}",
            "item_seconds": tuple(chance.uniform(10, 99) for _ in unit.items),
        }
        tables = (a_table(unit, "provenance"),)
        receipt = a_receipt(unit, tables=tables, outputs=outputs, numerics=NUMERICS, **counts, **told)
        ledger.commit(receipt.model_copy(update={"timings": timings, "config_digest": config.digest()}))
    assert len(ledger.receipts()) == 64
    cost = sum(location.size(name) for name in location.list()) / len(items)
    assert cost <= 200


def test_a_plan_states_the_outputs_whose_paths_are_not_the_plain_ones() -> None:
    items = (Item("1" * 16, "/in/A.jpg", "A.jpg"), Item("2" * 16, "/in/a.jpg", "a.jpg", f"images/a-{'2' * 16}.jpg.png"))
    (unit,) = make_units(items, 8)
    data = encode_plan(Plan((unit,), {}, "0" * 16))
    (read,) = decode_plan(data, "plan/000000.parquet").units
    assert [item.output_path("png") for item in read.items] == ["images/A.jpg.png", f"images/a-{'2' * 16}.jpg.png"]


@pytest.mark.parametrize("output", ["../a.png", "/etc/a.png", "plan/000000.parquet", "images/../run.json", "images"])
def test_a_plan_with_an_output_elsewhere_is_damaged(output: str) -> None:
    (unit,) = make_units([Item("1" * 16, "/in/a.jpg", "a.jpg", output)], 8)
    with pytest.raises(DamagedError, match="names the output"):
        decode_plan(encode_plan(Plan((unit,), {}, "0" * 16)), "plan/000000.parquet")
