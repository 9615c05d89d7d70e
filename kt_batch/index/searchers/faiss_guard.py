"""Import faiss late, and only when exactly one distribution installed it.

`faiss-cpu` and `faiss-gpu` write the same files. With both installed, the files on disk are a mixture.
See docs/decisions/0002-faiss-cpu-or-gpu.md.
"""

from __future__ import annotations

from importlib import metadata
from types import ModuleType

from kt_batch.errors import UsageError

DISTRIBUTIONS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12")


def load_faiss() -> ModuleType:
    """Import faiss. Raises UsageError, with the remedy, when it is absent, broken or installed twice."""
    installed = [name for name in DISTRIBUTIONS if _is_installed(name)]
    if len(installed) > 1:
        names = " ".join(installed)
        raise UsageError(
            f"{' and '.join(installed)} are both installed and overwrite each other; "
            f"run `pip uninstall --yes {names}`, then `pip install 'kt-batch[cpu]'` or `pip install 'kt-batch[gpu]'`."
        )
    try:
        import faiss
    except (ImportError, RuntimeError) as error:  # faiss-gpu raises RuntimeError when its CUDA libraries are missing
        raise UsageError(
            f"faiss cannot be loaded ({error}); "
            "install it with `pip install 'kt-batch[cpu]'` or `pip install 'kt-batch[gpu]'`."
        ) from error
    return faiss


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
