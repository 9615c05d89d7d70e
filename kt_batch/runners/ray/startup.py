"""How long a pool waits for its first worker, what it says meanwhile, and when there is no use in waiting."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from kt_batch.errors import KtBatchError
from kt_batch.events import log_event
from kt_batch.runners.ray.private import autoscaler_status

SECONDS = 60.0  # without any worker, after which it is said; a node's first start takes less
AGAIN = 600.0  # and after which it is said again

logger = logging.getLogger(__name__)


class StartupTimeout:
    """Since when a pool has no worker at all."""

    def __init__(self) -> None:
        self.rest()

    def rest(self) -> None:
        """There is a worker."""
        self._since = time.monotonic()
        self._said: float | None = None

    def check(self, cpus: float, gpus: float = 0.0) -> None:
        """There is none, each of them asks for so many CPUs and GPUs. Says so once in a while; raises KtBatchError
        where no node can ever hold one."""
        now = time.monotonic()
        if now - self._since < SECONDS or (self._said is not None and now - self._said < AGAIN):
            return
        self._said = now
        nodes = [node for node in ray.nodes() if node["Alive"]]
        held = [(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in nodes]
        largest, most = max((cpu for cpu, _ in held), default=0.0), max((gpu for _, gpu in held), default=0.0)
        there = f"the Ray cluster has {len(nodes)} node{'s' * (len(nodes) != 1)}, the largest with {largest:g} CPUs"
        asked = f"{cpus:g} CPUs"
        if gpus:
            there, asked = f"{there} and no node with more than {most:g} GPUs", f"{asked} and {gpus:g} GPUs"
        if not any(cpus <= cpu and gpus <= gpu for cpu, gpu in held) and only_by_hand(nodes, autoscaler_status()):
            raise KtBatchError(
                f"No node of the Ray cluster can hold a worker: one asks for {asked}, {there}, and no autoscaler "
                "adds others; join a node with as many (`ray start --address ... --num-cpus N`) and start again."
            )
        free = ray.available_resources().get("CPU", 0.0)
        waited = f"No worker has come up for {now - self._since:.0f} s"
        said = f"{waited}: one asks for {asked}, {there}, and {free:g} CPUs are free; waiting."
        logger.warning("%s", said)
        log_event("no_worker", said, logging.WARNING)


def only_by_hand(nodes: Sequence[Mapping[str, Any]], status: Mapping[str, Any]) -> bool:
    """Whether nodes come and go by hand alone. Ray's monitor then names a type of node after each node that there is;
    an autoscaler's types have names of their own. False where the monitor does not tell, as there may be one."""
    types = set((status.get("autoscaler_report") or {}).get("active_nodes") or ())
    return bool(types) and types <= {f"node_{node['NodeID']}" for node in nodes}
