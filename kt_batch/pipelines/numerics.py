"""The numerics class: everything that must be equal for two results to be the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

import torch

from kt_batch import __version__
from kt_batch.errors import MismatchError
from kt_batch.index.searchers.faiss import on_gpu
from kt_batch.index.searchers.scan import scan_device
from kt_batch.models.precision import quick_precision

PACKAGES = ("numpy", "pillow", "imagecodecs", "tifffile", "pyarrow")  # those that make pixels, files and tables


def fix_numerics(threads: int, device: str = "cpu") -> dict[str, str]:
    """Pin the threads of this process and return its numerics class, which every receipt records.

    Args:
        threads: Threads to compute on.
        device: What computes, from `search_device`.
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
