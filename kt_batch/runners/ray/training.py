"""A training on the workers of a Ray cluster, their gradients averaged (Ray Train's TorchTrainer)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import torch.distributed
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer
from torch import Tensor

from kt_batch.errors import KtBatchError
from kt_batch.process import tune_process

Member = Callable[[int, int, Callable[[list[Tensor]], None] | None], None]


def run_members(member: Member, *, workers: int, cpus: float, gpu: bool, out: Path) -> None:
    """Call `member(worker, workers, synchronise)` on `workers` workers at once and wait for them.

    Each takes `cpus` CPUs and, with `gpu`, one GPU. Ray Train keeps its own records in `out / "ray"`. A worker that
    is lost makes Ray start all of them again, up to three times; the member goes on from its state. An error of ours is
    raised here as it was there.
    """
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"member": member},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": cpus, "GPU": int(gpu)}
        ),
        run_config=RunConfig(storage_path=str(out / "ray"), failure_config=FailureConfig(max_failures=3)),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        ours = [failure for failure in error.worker_failures.values() if isinstance(failure, KtBatchError)]
        raise (ours[0] if ours else error) from error


def _loop(config: dict[str, Any]) -> None:
    tune_process()
    context = ray.train.get_context()
    config["member"](context.get_world_rank(), context.get_world_size(), _average)


def _average(gradients: list[Tensor]) -> None:
    """Replace every gradient by its mean over all workers; one message for all of them."""
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
