"""Train on several workers of a Ray cluster and average their gradients (Ray Train's TorchTrainer)."""

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
    """Call `member(worker, workers, synchronise)` on all workers at the same time and wait for them.

    When a worker is lost, Ray restarts all of them, up to three times; `member` resumes from its saved state.

    Args:
        member: The training loop of one worker.
        workers: Number of workers.
        cpus: CPUs of each worker.
        gpu: Whether each worker takes one GPU.
        out: Ray Train writes its own records to `out / "ray"`.

    Raises:
        KtBatchError: The error of a worker, as it was raised there.
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
        known = [failure for failure in error.worker_failures.values() if isinstance(failure, KtBatchError)]
        raise (known[0] if known else error) from error


def _loop(config: dict[str, Any]) -> None:
    tune_process()
    context = ray.train.get_context()
    config["member"](context.get_world_rank(), context.get_world_size(), _average)


def _average(gradients: list[Tensor]) -> None:
    """Replace each gradient by its mean over all workers, in one message."""
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
