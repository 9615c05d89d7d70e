"""Metrics of a pool and of keepers for Prometheus, served as `ray_kt_batch_...` on the metrics port of every node."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge


class PoolMetrics:
    """Counters since the start of the command, and gauges of the current load."""

    def __init__(self) -> None:
        self.units = Counter("kt_batch_units_done", "Units of work finished.")
        self.lost = Counter("kt_batch_workers_lost", "Workers that died, missed their deadline or were on a lost node.")
        self.quarantined = Counter(
            "kt_batch_images_quarantined", "Images quarantined because several workers were lost over them."
        )
        self.busy = Gauge("kt_batch_workers_busy", "Workers that are running a unit.")
        self.waiting = Gauge("kt_batch_units_waiting", "Units that wait for a worker.")


class KeeperMetrics:
    """Counters of each part of an index that processes share, by its number."""

    def __init__(self) -> None:
        parts = ("part",)
        self._counters = {
            "queries": Counter("kt_batch_index_queries", "Queries that were sent to a part of an index.", parts),
            "visits": Counter("kt_batch_index_visits", "Leaves of a part of an index that queries looked into.", parts),
            "bytes": Counter("kt_batch_index_bytes", "Bytes of the messages to and from a part of an index.", parts),
            "waited": Counter("kt_batch_index_waiting_seconds", "Seconds waited for a part of an index.", parts),
            "lost": Counter("kt_batch_index_lost_requests", "Requests that were lost with a process.", parts),
        }

    def add(self, part: int, counts: Mapping[str, float]) -> None:
        """Add counts of one part; those of other names are passed over."""
        for name, count in counts.items():
            if count > 0 and name in self._counters:
                self._counters[name].inc(count, {"part": str(part)})
