"""The numerics class: everything that must be equal for two results to be the same bytes."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from importlib.metadata import version

import torch

from kt_batch import __version__
from kt_batch.errors import MismatchError, UsageError
from kt_batch.index.searchers.faiss import on_gpu
from kt_batch.index.searchers.scan import scan_device
from kt_batch.models.precision import quick_precision

PACKAGES = ("numpy", "pillow", "imagecodecs", "tifffile", "pyarrow")  # those that make pixels, files and tables


def fix_numerics(threads: int, device: str = "cpu") -> dict[str, str]:
    """Pin the threads of this process and return its numerics class, which every receipt records.

    Args:
        threads: Threads to compute on.
        device: What computes, from `search_device` or `device_name`.
    """
    torch.set_num_threads(threads)
    return {
        "kt_batch": __version__,
        "torch": str(torch.__version__),
        **{package: version(package) for package in PACKAGES},
        "device": device,
        "isa": torch.backends.cpu.get_cpu_capability(),
        "products": quick_precision(),
        "threads": str(threads),
    }


def worker_device(gpus: float) -> torch.device:
    """Return where a worker computes that has been given this many GPUs: the processor, or its first GPU.

    Raises:
        UsageError: It has been given one, and torch finds none.
    """
    if not gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(
            f"--gpus {gpus:g} asks for a GPU, and torch {torch.__version__} finds none on '{socket.gethostname()}'; "
            "leave it out to compute on processors."
        )
    _fix_gpu()
    return torch.device("cuda", 0)


def _fix_gpu() -> None:
    """Make the GPU's arithmetic the same in every process: no rounded factors, no trials, no order left to chance.

    torch warns of an operation that has no such form.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when torch first multiplies on a GPU
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time


def device_name(device: torch.device) -> str:
    """Return what a numerics class says of a device: `cpu`, or the name of the GPU."""
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)


def device_memory(device: torch.device) -> int:
    """Return the bytes of memory that a GPU has."""
    return int(torch.cuda.get_device_properties(device).total_memory)


def search_device(searcher: str | None) -> str:
    """Return what computes in a process that searches with `searcher`.

    That is `cpu`, or `cpu and` the GPU that estimates scores (`scan`) or proposes patches (`ivf`). Estimates and
    proposals may differ from GPU to GPU. The scores that decide are always computed on the CPU.

    Raises:
        UsageError: `ivf` has no faiss.
    """
    if searcher is None or not (on_gpu(searcher) or (searcher == "scan" and scan_device() == "cuda")):
        return "cpu"
    return f"cpu and {torch.cuda.get_device_name() if torch.cuda.is_available() else 'a GPU'}"


def check_numerics(earlier: dict[str, str] | None, now: dict[str, str], mix: bool) -> None:
    """Raise MismatchError when earlier units were computed on another numerics class, unless `mix` allows it."""
    if earlier is None or earlier == now or mix:
        return
    raise MismatchError(
        f"Earlier units were computed on another numerics class ({differing_numerics(earlier, now)}); "
        "go on where they were made, or allow the mix with --mix-numerics."
    )


def differing_numerics(earlier: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return in words what differs between two numerics classes; nothing where they are equal."""
    names = [*now, *(key for key in earlier if key not in now)]
    return ", ".join(f"{key} {earlier.get(key)} -> {now.get(key)}" for key in names if earlier.get(key) != now.get(key))
