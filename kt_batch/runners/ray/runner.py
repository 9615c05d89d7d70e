"""Join a Ray cluster, divide its processors among workers, and run units there."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import ray

from kt_batch.errors import StorageError
from kt_batch.redaction import redacted
from kt_batch.runners.base import Keeper, PartSeen
from kt_batch.runners.ray.keepers import Keepers
from kt_batch.runners.ray.own_session import OwnSession, RayEnvironment
from kt_batch.runners.ray.pool import Pool, first_line
from kt_batch.runners.ray.private import head_address, print_node_messages
from kt_batch.runners.ray.startup import check_memory
from kt_batch.runners.shutdown import GracefulShutdown
from kt_batch.store.places import ANONYMOUS, REQUESTER_PAYS

U = TypeVar("U")
R = TypeVar("R")
WARM_UP_WORKERS = 4  # workers started while planning is still running
CONNECT_TIMEOUT_SECONDS = 10.0
NOT_STARTED = "Ray cannot be started on this machine"
DEADLINE_SECONDS = 1200.0  # for one image; longer than all retries of a store, or two image readers that hang


class RayRunner:
    """Runs units on a Ray cluster.

    Args:
        address: The cluster to join; None joins the one in RAY_ADDRESS, or starts one in this process.
        workers: Number of workers at the same time; None for as many as the cluster has room for, also on nodes that
            join later.
        threads: CPUs of each worker.
        shutdown: Tells whether shutdown is requested.
        deadline: Seconds that a worker may be silent over one part of a unit.
        gpus: GPUs of each worker: a share of one, or a whole number.
        imports: Modules that a worker imports before its first unit.
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
        self._connection = None if ray.is_initialized() else _Connection(address)
        self.gpus = gpus
        self._capacity = partial(_current_capacity, workers, threads)
        self._threads = threads
        self._shutdown = shutdown or GracefulShutdown()
        self._services: list[Keepers] = []
        self._make_pool = partial(Pool, deadline=deadline, shutdown=self._shutdown, imports=imports)
        self.on_part: PartSeen | None = None
        try:
            self._pool = self._make_pool(partial(self._capacity, gpus), gpus=gpus)
            self.workers, self.cpus = self._capacity(gpus)
        except BaseException:  # also Ctrl-C: nobody has the runner, to close it
            self._disconnect()
            raise

    def warm_up(self) -> None:
        """Start a few workers while planning is still running, if Ray runs in this process alone.

        On a shared cluster they could take resources that others wait for.
        """
        if self._connection is not None and self._connection.own is not None:
            self._pool.warm_up(WARM_UP_WORKERS)

    def run(
        self,
        factory: Callable[[], Callable[[U, Callable[[str], bool]], R]],
        units: Sequence[U],
        quarantine: Callable[[U, str, str], U] | None = None,
    ) -> Iterator[R]:
        """Yield results as units finish, in any order, as `Pool.run` does. An actor calls `factory` once per stage."""
        self._pool.on_part = self.on_part
        yield from self._pool.run(factory, units, quarantine)

    def serve(self, factories: Sequence[Callable[[], Keeper]], memory: Sequence[int], replicas: int = 1) -> Keepers:
        """Start actors for each factory, each with so many bytes of memory, and wait until all run.

        The threads of each are its share of the cluster's CPUs, and at least those of a worker.

        Raises:
            KtBatchError: The cluster has not enough memory.
            StoppedError: Shutdown was requested.
        """
        check_memory(memory, replicas)
        cpus = sum(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
        threads = max(self._threads, cpus // (len(factories) * replicas))
        keepers = Keepers(factories, threads, memory, replicas, self._shutdown.check)
        self._services.append(keepers)
        try:
            keepers.wait_until_started()
        except BaseException:  # also Ctrl-C: the memory is not reserved until the runner is closed
            keepers.close()
            raise
        return keepers

    def hosts(self) -> int:
        """Return the number of hosts of the cluster: nodes with one address are one host."""
        return len({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]})

    def close(self) -> None:
        """Leave the cluster if this runner joined it, and end it if this runner started it."""
        try:
            self._pool.close()  # before the services: workers would wait for their successors
            for service in self._services:
                service.close()
        finally:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _current_capacity(workers: int | None, threads: int, gpus: float) -> tuple[int, float]:
    """Apply `share_out` to the nodes that are alive."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpu_workers = [int(node.get("GPU", 0) / gpus + 1e-6) for node in nodes] if gpus else None
    return share_out([int(node.get("CPU", 0)) for node in nodes], workers, threads, gpu_workers)


def share_out(
    nodes: Sequence[int], workers: int | None, threads: int, gpu_workers: Sequence[int] | None = None
) -> tuple[int, float]:
    """Return how many workers run at the same time, and the CPUs that Ray reserves for each.

    A worker gets fewer CPUs than `threads` if no node has so many: a worker that fits nowhere would wait for ever.

    Args:
        nodes: CPUs of each node.
        workers: Number of workers; None for as many as there is room for.
        threads: CPUs that a worker asks for.
        gpu_workers: Number of workers that the GPUs of each node suffice for; None if workers need no GPU.
    """
    limits = nodes if gpu_workers is None else gpu_workers
    usable = [(node, limit) for node, limit in zip(nodes, limits, strict=True) if limit]
    largest = max((node for node, _ in usable), default=0) or threads  # without nodes, an autoscaler adds some
    cpus = min(threads, largest)
    if workers is None:
        return max(1, sum(min(node // cpus, limit) for node, limit in usable)), float(cpus)
    share = min(cpus, max(1, sum(node for node, _ in usable)) / workers)
    return workers, float(int(share)) if share >= 1 else share  # above 1, Ray accepts only whole CPUs


class _Connection:
    """This process's connection to a Ray: a cluster's, or one that it starts itself.

    A cluster is joined with the token settings of the environment. Ray's variables are as they were after `close`.
    Until then Ray prints nothing of its own.

    Attributes:
        own: The session of the Ray that this process started; None in a cluster.
    """

    def __init__(self, address: str | None) -> None:
        place = address or os.environ.get("RAY_ADDRESS")
        self._environment = RayEnvironment()
        self.own: OwnSession | None = None
        print_node_messages(False)
        try:
            if place is not None:
                place = place or "auto"
                _join(place)
            else:
                self.own = OwnSession()
                _start(self.own)
        except BaseException as error:  # also Ctrl-C: nothing may stay
            self.close()
            if not isinstance(error, Exception):
                raise
            # Ray raises a bare Exception if the start takes too long.
            where = (
                f"The Ray cluster at '{redacted(place)}' cannot be reached"
                if place
                else "Ray cannot be started on this machine"
            )
            raise StorageError(f"{where}: {first_line(error)}.") from error

    def close(self) -> None:
        """Leave the cluster, or end the own Ray and remove its files."""
        ray.shutdown()
        if self.own is not None:
            self.own.close()
        self._environment.restore()
        print_node_messages(True)


def _join(place: str) -> None:
    _check_listening(place)
    switches = {name: os.environ[name] for name in (ANONYMOUS, REQUESTER_PAYS) if name in os.environ}
    environment = {"env_vars": switches} if switches else None
    ray.init(address=place, log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment)


def _start(own: OwnSession) -> None:
    ray.init(
        address="local",  # else Ray would join a cluster that was started here earlier, or wait for it if it is gone
        log_to_driver=False,
        include_dashboard=False,
        logging_level=logging.ERROR,
        _temp_dir=str(own.folder),
        # The driver would wait for the workers that Ray starts in advance: for ever, if one of them dies.
        _system_config={"prestart_worker_first_driver": False},
    )


def _check_listening(address: str) -> None:
    """Raise OSError if no process listens at the address; Ray would retry for a quarter of an hour."""
    if address.startswith("ray://"):  # Ray's client gives up after 30 s
        return
    place = head_address(address)
    if place is None:
        return
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise ConnectionError(error.strerror or f"no answer in {CONNECT_TIMEOUT_SECONDS:g} s") from error
