"""Report that no worker comes up, and fail if none ever can."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from kt_batch.errors import KtBatchError
from kt_batch.events import log_event
from kt_batch.runners.ray.private import autoscaler_status

logger = logging.getLogger(__name__)

NODES_SHOWN = 10


def report_startup_delay(waited: float, cpus: float, gpus: float) -> None:
    """Warn that no worker has come up for `waited` seconds, where each needs so many CPUs and GPUs.

    Raises:
        KtBatchError: No node can hold a worker, and no autoscaler adds other nodes.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    sizes = [(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in nodes]
    most_cpus = max((node_cpus for node_cpus, _ in sizes), default=0.0)
    most_gpus = max((node_gpus for _, node_gpus in sizes), default=0.0)
    cluster = f"the Ray cluster has {len(nodes)} node{'s' * (len(nodes) != 1)}, the largest with {most_cpus:g} CPUs"
    needs = f"{cpus:g} CPUs"
    if gpus:
        cluster = f"{cluster} and no node with more than {most_gpus:g} GPUs"
        needs = f"{needs} and {gpus:g} GPUs"
    fits = any(cpus <= node_cpus and gpus <= node_gpus for node_cpus, node_gpus in sizes)
    if not fits and nodes_join_by_hand(nodes, autoscaler_status()):
        raise KtBatchError(
            f"No node of the Ray cluster can hold a worker: one asks for {needs}, {cluster}, and no autoscaler "
            "adds others; join a node with as many (`ray start --address ... --num-cpus N`) and start again."
        )
    free = ray.available_resources().get("CPU", 0.0)
    message = (
        f"No worker has come up for {waited:.0f} s: one asks for {needs}, {cluster}, "
        f"and {free:g} CPUs are free; waiting."
    )
    logger.warning("%s", message)
    log_event("no_worker", message, logging.WARNING)


def check_memory(parts: Sequence[int], replicas: int = 1) -> None:
    """Check that actors with so many bytes of memory find room, the largest first; so many of each part.

    Raises:
        KtBatchError: The nodes that there are have not enough memory, and no autoscaler adds others.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    sizes = [int(node["Resources"].get("memory", 0)) for node in nodes]
    free, memory = list(sizes), [size for size in parts for _ in range(replicas)]
    for wanted in sorted(memory, reverse=True):
        roomiest = max(range(len(free)), key=free.__getitem__, default=None)
        if roomiest is None or free[roomiest] < wanted:
            if not nodes_join_by_hand(nodes, autoscaler_status()):
                return
            shown = ", ".join(f"{size / 1e9:.1f}" for size in sorted(sizes, reverse=True)[:NODES_SHOWN])
            times = f", in {replicas} replicas each," if replicas > 1 else ""
            fewer = ", give a smaller --index-replicas" if replicas > 1 else ""
            raise KtBatchError(
                f"The Ray cluster has no room for the index: its {len(parts)} parts{times} need "
                f"{sum(memory) / 1e9:.1f} GB of memory, the largest {max(memory) / 1e9:.1f} GB, and its {len(nodes)} "
                f"nodes have {shown} GB for Ray; join more nodes{fewer}, or give a smaller --index-memory where a part "
                "is larger than a node."
            )
        free[roomiest] -= wanted


def report_waiting_keepers(waited: float, count: int, memory: Sequence[int]) -> None:
    """Warn that so many parts of an index have waited for a node with room."""
    message = (
        f"{count} of {len(memory)} parts of the index have not started for {waited:.0f} s: each waits for a node with "
        f"up to {max(memory) / 1e9:.1f} GB of memory free for Ray; waiting."
    )
    logger.warning("%s", message)
    log_event("no_keeper", message, logging.WARNING)


def nodes_join_by_hand(nodes: Sequence[Mapping[str, Any]], status: Mapping[str, Any]) -> bool:
    """Return whether nodes join by hand alone; False if Ray's monitor does not tell, as there may be an autoscaler.

    Without an autoscaler the monitor names a type of node after each node; an autoscaler's types have other names.
    """
    types = set((status.get("autoscaler_report") or {}).get("active_nodes") or ())
    return bool(types) and types <= {f"node_{node['NodeID']}" for node in nodes}
