"""A job on a real object store behind a faulty network gives the undisturbed result."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import no_progress
from kt_batch.store.locations import open_location
from tests.e2e.conftest import Small, kt
from tests.support.faulty_network import bad_weather
from tests.support.s3_server import S3Server, ceph_server  # noqa: F401  # the fixture

pytestmark = [pytest.mark.slow, pytest.mark.s3]

HOW = ["--threads", 1, "--unit-size", 1]


def job(place: str, images: Path, cache: Path, environment: dict[str, str]) -> None:
    """Run extract, index and translate with everything but the images in the bucket."""
    for words in (
        ["extract", images, "--library", f"{place}/library", "--size", 64, *HOW],
        ["index", f"{place}/library", "--max-leaf", 64, "--threads", 1],
        ["translate", images, "--library", f"{place}/library", "--out", f"{place}/run", "--cache-dir", cache, *HOW],
    ):
        ended = kt(*words, environment=environment)
        assert ended.code == 0, ended.err


def digests(place: str) -> list[str | None]:
    return [verify(f"{place}/{name}", no_progress).digest for name in ("library", "run")]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_job_over_a_faulty_network_gives_the_undisturbed_result(
    small: Small,
    ceph_server: S3Server,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    place = ceph_server.new_location(monkeypatch).uri
    address = urlsplit(ceph_server.endpoint)
    assert address.hostname
    assert address.port
    job(place, small.photos, tmp_path / "cache", ceph_server.environment)
    expected = digests(place)
    location = open_location(place)  # the same place again: provenance names its library
    for name in list(location.list()):
        location.delete(name)
    with bad_weather((address.hostname, address.port), seed) as relay:
        behind = {**ceph_server.environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{relay.port}"}
        job(place, small.photos, tmp_path / "cache-behind", behind)
    assert relay.seen["refuse"] + relay.seen["reset"] > 0
    assert relay.seen["stall"] + relay.seen["hole"] + relay.seen["throttle"] > 0
    assert None not in expected
    assert digests(place) == expected
