"""Units on a Ray cluster: joining it, and sharing out its processors. The pool of workers is in runners.pool."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import ray
from ray.exceptions import RayError

from kt_batch.errors import StorageError
from kt_batch.runners.drain import Drain
from kt_batch.runners.pool import Pool, first_line

U = TypeVar("U")
R = TypeVar("R")
DEADLINE = 1200.0  # seconds over one image, more than a store's own retries or two decoders that hang can take


class RayRunner:
    """Runs units on the cluster at `address`, or on one started in this process when it is None.

    Each worker takes `threads` CPUs; `workers` bounds how many run at once (None: what the cluster has room for, nodes
    that come later included).
    """

    def __init__(
        self,
        address: str | None,
        workers: int | None,
        threads: int,
        drain: Drain | None = None,
        deadline: float = DEADLINE,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._joined = not ray.is_initialized()
        if self._joined:
            _connect(address)
        self._share = partial(_share_now, workers, threads)
        self.workers, self.cpus = self._share()
        self._pool = Pool(self._share, deadline, drain or Drain())

    def run(
        self,
        factory: Callable[[], Callable[[U, Callable[[str], None]], R]],
        units: Sequence[U],
        condemn: Callable[[U, str, str], U] | None = None,
    ) -> Iterator[R]:
        """Yield results as they are finished, in any order: see Pool.run. An actor makes its worker once a stage."""
        yield from self._pool.run(factory, units, condemn)

    def close(self) -> None:
        """Leave the cluster if this runner joined it; one that was started here ends with it."""
        try:
            self._pool.close()
        finally:
            if self._joined:
                ray.shutdown()


def _node_cpus() -> list[int]:
    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


def _share_now(workers: int | None, threads: int) -> tuple[int, float]:
    """`share_out` of the nodes that there are now."""
    return share_out(_node_cpus(), workers, threads)


def share_out(nodes: Sequence[int], workers: int | None, threads: int) -> tuple[int, float]:
    """How many workers run at once on nodes of so many CPUs, and how many CPUs Ray is to set aside for each.

    A worker must fit on one node, whatever number of threads was asked for: one that fits nowhere would wait for ever.
    """
    largest = max(nodes, default=0) or threads  # with no CPU yet, an autoscaler is asked for what will be needed
    cpus = min(threads, largest)
    if workers is None:
        return max(1, sum(node // cpus for node in nodes)), float(cpus)
    share = min(cpus, max(1, sum(nodes)) / workers)
    return workers, float(int(share)) if share >= 1 else share  # above 1, Ray takes whole CPUs alone


def _connect(address: str | None) -> None:
    try:
        if address is not None or "RAY_ADDRESS" in os.environ:
            ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        place = address or os.environ.get("RAY_ADDRESS", "this machine")
        raise StorageError(f"The Ray cluster at '{place}' cannot be reached: {first_line(error)}.") from error
