"""The numerics class: what must be the same for two results to be the same bytes."""

from __future__ import annotations

from importlib.metadata import version

import torch

from kt_batch import __version__
from kt_batch.errors import MismatchError
from kt_batch.index.searchers.faiss import on_gpu
from kt_batch.index.searchers.scan import scan_device
from kt_batch.models.precision import quick_precision

PACKAGES = ("numpy", "pillow", "imagecodecs", "tifffile", "pyarrow")  # they make pixels, files and tables


def fix_numerics(threads: int, device: str = "cpu") -> dict[str, str]:
    """Pin the threads of this process and say which numerics class it is; goes into every receipt.

    device: what computes (`search_device`).
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
    """What computes in a process that searches with `searcher`: `cpu`, or `cpu and` the GPU that estimates scores or,
    with `ivf`, proposes patches. Which these are may differ from one to another; scores that count are always the
    cpu's. Raises UsageError where `ivf` has no faiss."""
    if searcher is None or not (on_gpu(searcher) or (searcher == "scan" and scan_device() == "cuda")):
        return "cpu"
    return f"cpu and {torch.cuda.get_device_name() if torch.cuda.is_available() else 'a GPU'}"


def check_numerics(earlier: dict[str, str] | None, now: dict[str, str], mix: bool) -> None:
    """Raise MismatchError when earlier units were computed on another numerics class and mixing was not asked for."""
    if earlier is None or earlier == now or mix:
        return
    differs = ", ".join(f"{key} {earlier.get(key)} -> {now[key]}" for key in now if earlier.get(key) != now[key])
    raise MismatchError(
        f"Earlier units were computed on another numerics class ({differs}); "
        "go on where they were made, or allow the mix with --mix-numerics."
    )
