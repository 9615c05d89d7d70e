"""What Ray's agent tells Prometheus of a pool: `ray_kt_batch_...` on every node's metrics port."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge


class PoolMetrics:
    """Counts since the start of the command, and how many workers are at work now."""

    def __init__(self) -> None:
        self.units = Counter("kt_batch_units_done", "Units of work finished.")
        self.lost = Counter("kt_batch_workers_lost", "Workers that died, fell silent or vanished with their node.")
        self.quarantined = Counter("kt_batch_images_condemned", "Images given up because worker after worker was lost.")
        self.busy = Gauge("kt_batch_workers_busy", "Workers that are at a unit now.")
        self.waiting = Gauge("kt_batch_units_waiting", "Units that no worker has begun.")
