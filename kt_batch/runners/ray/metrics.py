"""Metrics of a pool for Prometheus, served as `ray_kt_batch_...` on the metrics port of every node."""

from __future__ import annotations

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
