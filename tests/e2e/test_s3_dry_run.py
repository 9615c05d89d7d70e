"""`translate --dry-run` in a separate process with all files on a real object store."""

from __future__ import annotations

from pathlib import Path

import pytest

from kt_batch.store.locations import open_location
from tests.e2e.conftest import Small, kt
from tests.support.s3_server import SECRET_KEY, S3Server, ceph_server  # noqa: F401  # the fixture
from tests.support.tiny import draw, extracted, indexed

pytestmark = [pytest.mark.s3, pytest.mark.slow]


def stored(place: str) -> dict[str, int]:
    """Map every object below a place to its size."""
    location = open_location(place)
    return {name: location.size(name) for name in location.list()}


def test_a_pilot_on_object_storage_reports_time_and_price_and_writes_nothing(
    small: Small,
    tmp_path: Path,
    ceph_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = ceph_server.new_location(monkeypatch).uri
    photos = open_location(f"{place}/photos")
    for seed in range(21, 26):
        assert photos.put_if_absent(f"summer/{seed}.png", draw(tmp_path / f"{seed}.png", seed).read_bytes())
    assert photos.put_if_absent("summer/cut.png", (tmp_path / "21.png").read_bytes()[:400])
    extracted([small.paintings], f"{place}/library")
    indexed(f"{place}/library")
    words: list[object] = ["translate", f"{place}/photos", "--library", f"{place}/library", "--out", f"{place}/run"]
    words += ["--cache-dir", tmp_path / "cache", "--threads", 1, "--unit-size", 2]
    asked = [*words, "--dry-run", "--pilot", 4, "--price", 1.5]
    before = stored(place)

    told = kt(*asked)
    assert told.code in (0, 3), told.err  # 3 where the pilot has met the broken one
    assert f"{place}/run: a dry run, nothing was written there" in told.out
    assert "6 images found, 0 done already, 6 to do" in told.out
    assert SECRET_KEY not in told.out + told.err
    found = kt(*asked, "--json").json
    sizes = [photos.size(name) for name in photos.list()]
    assert (found["place"], found["input_bytes"], found["units_to_plan"]) == (f"{place}/run", sum(sizes), 3)
    assert (found["free_bytes"], found["unreadable"], found["pilot"]["images"]) == (None, 0, 4)
    assert 0 < found["estimated_cost"] == pytest.approx(1.5 * found["estimated_worker_hours"])
    assert found["estimated_output_bytes"] == 6 * found["pilot"]["output_bytes_per_image"] > 0
    assert stored(place) == before

    done = kt(*words, "--json")
    assert (done.code, done.json["images"], done.json["rejected"]) == (3, 5, 1), done.err
    after = stored(place)
    again = kt(*asked)
    assert (again.code, "nothing to do: everything is done already" in again.out) == (3, True), again.out + again.err
    assert stored(place) == after
