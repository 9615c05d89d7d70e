"""The log of a driver on Ray records worker events under the ids of receipts and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kt_batch.errors import StorageError
from kt_batch.events import write_log
from kt_batch.runners.ray.runner import RayRunner
from kt_batch.store.images.files import image_id
from kt_batch.store.locations import open_location
from kt_batch.store.units import Ledger
from tests.e2e.conftest import Small
from tests.e2e.test_poison import PoisonRunner
from tests.support.ray_local import ray_here, ray_runner  # noqa: F401  # the fixtures
from tests.support.tiny import draw_all, extracted, rows
from tests.test_events import SECRETS, Busy, busy_store, only

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.usefixtures("ray_here")]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def names_of(events: list[dict[str, Any]], **fields: Any) -> list[str]:
    """Return the names of the events with these fields, in order."""
    return [event["event"] for event in events if fields.items() <= event.items()]


def test_a_rejected_image_is_followed_from_its_unit_to_its_reason_by_ids(
    ray_runner: RayRunner,  # noqa: F811
    tmp_path: Path,
) -> None:
    images = draw_all(tmp_path / "images", [1, 2, 3])
    bad = images / "bad.jpg"
    bad.write_bytes(b"no image")
    with write_log(str(tmp_path / "log")):
        extracted([images], tmp_path / "library", ray_runner)
    events = lines(tmp_path / "log")
    rejected = only(events, event="image_rejected", image=image_id(bad.read_bytes()))
    (row,) = rows(tmp_path / "library", "rejects")
    assert (rejected["uri"], rejected["reason"], rejected["message"]) == (row["uri"], row["reason"], row["message"])
    assert names_of(events, unit=rejected["unit"]) == ["unit_started", "image_rejected", "unit_committed"]
    ledger = Ledger(open_location(str(tmp_path / "library")))
    receipt = ledger.receipts()[rejected["unit"]]
    (unit,) = [unit for unit in ledger.units() if unit.id == rejected["unit"]]
    assert str(bad) in [item.uri for item in unit.items]
    committed = only(events, event="unit_committed", unit=unit.id, attempt=receipt.attempt)
    assert committed["worker"] == rejected["worker"] == receipt.worker
    assert "worker_ready" in names_of(events, worker=receipt.worker)


def test_the_log_counts_the_workers_lost_to_an_image_until_its_quarantine(small: Small, tmp_path: Path) -> None:
    poison = min(small.paintings.iterdir())
    runner = PoisonRunner(poison, "dies")
    with write_log(str(tmp_path / "log")):
        extracted([small.paintings], tmp_path / "library", runner)
    runner.close()
    events = lines(tmp_path / "log")
    quarantined = only(events, event="image_quarantined", image=image_id(poison.read_bytes()))
    told = names_of(events, unit=quarantined["unit"])
    lost, again = told.count("worker_lost"), told.count("unit_retried")
    assert told.count("unit_started") == lost + 1 == again + 1 >= 4
    assert told[-2:] == ["image_rejected", "unit_committed"]
    ready = [event["worker"] for event in events if event["event"] == "worker_ready"]
    assert {event["worker"] for event in events if event["event"] == "worker_lost"} < set(ready)
    rejected = only(events, event="image_rejected", unit=quarantined["unit"])
    assert (rejected["image"], rejected["reason"]) == (quarantined["image"], "fatal")
    assert quarantined["message"] in rejected["message"]


def test_worker_events_before_an_error_are_in_the_log_without_secrets(tmp_path: Path) -> None:
    with busy_store(Busy(999)) as endpoint:
        environment = {**SECRETS, "AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
        runner = RayRunner(None, 1, 1)
        with write_log(str(tmp_path / "log")), pytest.raises(StorageError, match="the store answered SlowDown"):
            list(runner.run(lambda: reading(environment), ["some unit"]))
        runner.close()
    events = lines(tmp_path / "log")
    retries = [event for event in events if event["event"] == "storage_retry"]
    assert [event["tries"] for event in retries] == [1, 2, 3, 4]
    expected = {"unit": "some unit", "image": "0123456789abcdef", "object": "s3://bucket/prefix/a/name"}
    assert all(expected.items() <= event.items() for event in retries)
    text = (tmp_path / "log").read_text()
    assert not [secret for secret in (*SECRETS.values(), endpoint) if secret in text]


def reading(environment: dict[str, str]) -> Any:
    """Return a worker that reads an object for an image of its unit."""

    def worker(unit: str, beat: Any) -> bytes:
        import os

        os.environ.update(environment)
        beat("0123456789abcdef")
        return open_location("s3://bucket/prefix").read_bytes("a/name")

    return worker
