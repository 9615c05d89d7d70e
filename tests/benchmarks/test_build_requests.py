"""An index build asks an object store for little: no footer of a routed part, and each range once."""

from __future__ import annotations

from benchmarks.build_requests import forecast, measure

PARTS, CLUSTERS = 16, 32


def test_a_build_reads_each_cluster_of_a_routed_file_in_one_request() -> None:
    requests = measure(PARTS, CLUSTERS)
    packing = requests["pack"]
    assert "open" not in packing
    assert "read" not in packing
    assert CLUSTERS < packing["read_range"] <= PARTS * CLUSTERS + 3  # one worker reads top, clusters and no more
    total = sum(sum(kinds.values()) for kinds in requests.values())
    assert total <= min(1450, sum(forecast(PARTS, CLUSTERS).values()))


def test_a_build_of_800_million_patches_is_forecast_to_make_less_than_a_million_requests() -> None:
    assert sum(forecast(6250, 6104).values()) <= 1_000_000
    assert sum(forecast(100_000, 100_000).values()) <= 2_500_000
