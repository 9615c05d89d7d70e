"""Units on a Ray cluster: joining it, and sharing out its processors. The pool of workers is in runners.pool."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import ray

from kt_batch.errors import StorageError
from kt_batch.runners.ray.pool import Pool, first_line
from kt_batch.runners.ray.private import head_address
from kt_batch.runners.shutdown import GracefulShutdown

U = TypeVar("U")
R = TypeVar("R")
WARM_UP_WORKERS = 4  # workers that are started before it is known how many the work is enough for
CONNECT_TIMEOUT_SECONDS = 10.0  # in which the head of a cluster takes a connection
DEADLINE_SECONDS = 1200.0  # over one image, more than a store's own retries or two decoders that hang can take


class RayRunner:
    """Runs units on the cluster at `address`, or on one started in this process when it is None.

    Each worker takes `threads` CPUs and `gpus` GPUs (a share of one, or several); `workers` bounds how many run at once
    (None: what the cluster has room for, nodes that come later included). `imports`: modules that a worker
    imports while it waits for its first unit.
    """

    def __init__(
        self,
        address: str | None,
        workers: int | None,
        threads: int,
        shutdown: GracefulShutdown | None = None,
        deadline: float = DEADLINE_SECONDS,
        gpus: float = 0.0,
        imports: Sequence[str] = (),
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._joined = not ray.is_initialized()
        self._own = self._joined and address is None and "RAY_ADDRESS" not in os.environ
        if self._joined:
            _connect(address)
        self.gpus = gpus
        self._ask = partial(_share_now, workers, threads)
        self._make = partial(Pool, deadline=deadline, shutdown=shutdown or GracefulShutdown(), imports=imports)
        self._pool = self._make(partial(self._ask, gpus), gpus=gpus)
        self.workers, self.cpus = self._ask(gpus)

    def warm_up(self) -> None:
        """On a Ray of our own, have a few workers come up while what they are to do is still being planned.

        Nobody knows yet how many the work is enough for, and on a cluster others may wait for what they would hold.
        """
        if self._own:
            self._pool.warm_up(WARM_UP_WORKERS)

    def run(
        self,
        factory: Callable[[], Callable[[U, Callable[[str], bool]], R]],
        units: Sequence[U],
        quarantine: Callable[[U, str, str], U] | None = None,
    ) -> Iterator[R]:
        """Yield results as they are finished, in any order: see Pool.run. An actor makes its worker once a stage."""
        yield from self._pool.run(factory, units, quarantine)

    def release_gpus(self) -> None:
        """Do without GPUs from now on: the workers that hold one are ended, and units get others."""
        if self.gpus:
            self._pool.close()
            self.gpus = 0.0
            self._pool = self._make(partial(self._ask, self.gpus), gpus=self.gpus)

    def close(self) -> None:
        """Leave the cluster if this runner joined it; one that was started here ends with it."""
        try:
            self._pool.close()
        finally:
            if self._joined:
                ray.shutdown()


def _share_now(workers: int | None, threads: int, gpus: float) -> tuple[int, float]:
    """`share_out` of the nodes that there are now."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    held = [int(node.get("GPU", 0) / gpus + 1e-6) for node in nodes] if gpus else None
    return share_out([int(node.get("CPU", 0)) for node in nodes], workers, threads, held)


def share_out(
    nodes: Sequence[int], workers: int | None, threads: int, held: Sequence[int] | None = None
) -> tuple[int, float]:
    """How many workers run at once on nodes of so many CPUs, and how many CPUs Ray is to set aside for each. `held`:
    how many workers the GPUs of each node are enough for; None: they need none.

    A worker must fit on one node, whatever number of threads was asked for: one that fits nowhere would wait for ever.
    """
    rooms = [(node, most) for node, most in zip(nodes, nodes if held is None else held, strict=True) if most]
    largest = max((node for node, _ in rooms), default=0) or threads  # with none yet, an autoscaler is asked for enough
    cpus = min(threads, largest)
    if workers is None:
        return max(1, sum(min(node // cpus, most) for node, most in rooms)), float(cpus)
    share = min(cpus, max(1, sum(node for node, _ in rooms)) / workers)
    return workers, float(int(share)) if share >= 1 else share  # above 1, Ray takes whole CPUs alone


def _connect(address: str | None) -> None:
    place = address or os.environ.get("RAY_ADDRESS")
    try:
        if place is not None:
            place = place or "auto"
            _check_listening(place)
            ray.init(address=place, log_to_driver=False, logging_level=logging.ERROR)
        else:  # "local": without it Ray would join one that was started here earlier, or wait for it when it is gone
            ray.init(
                address="local",
                log_to_driver=False,
                include_dashboard=False,
                logging_level=logging.ERROR,
                # Else the driver waits for workers that Ray starts beforehand: for ever, when one of them dies then.
                _system_config={"prestart_worker_first_driver": False},
            )
    except Exception as error:  # of a start that takes too long, Ray says so by a bare Exception
        failed = f"The Ray cluster at '{place}' cannot be reached" if place else "Ray cannot be started on this machine"
        raise StorageError(f"{failed}: {first_line(error)}.") from error


def _check_listening(address: str) -> None:
    """Raise OSError when nobody answers there: Ray would try again for a quarter of an hour."""
    if address.startswith("ray://"):  # whose client gives up after 30 s
        return
    place = head_address(address)
    if place is None:
        return
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise ConnectionError(error.strerror or f"no answer in {CONNECT_TIMEOUT_SECONDS:g} s") from error
