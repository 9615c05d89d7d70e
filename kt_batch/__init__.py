"""Translate images by example, and trace every output pixel to its source image.

Importing this package loads neither torch nor Ray and changes nothing in the process. Call `tune_process()` before
torch is imported for the speed of the commands. `docs/python.md` shows the main job in Python.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kt_batch import errors
from kt_batch.process import tune_process

if TYPE_CHECKING:
    from kt_batch.api import IndexMemory, build_index, explain, extract, merge, open_library, open_run, translate
    from kt_batch.config import RunOptions
    from kt_batch.models.weights import EncoderSource
    from kt_batch.pipelines.translate.sources import Choice
    from kt_batch.store.image_filters import ImageFilter

__version__ = "0.1.0"
__all__ = [
    "Choice",
    "EncoderSource",
    "ImageFilter",
    "IndexMemory",
    "RunOptions",
    "__version__",
    "build_index",
    "errors",
    "explain",
    "extract",
    "merge",
    "open_library",
    "open_run",
    "translate",
    "tune_process",
]

_LOADED_ON_USE = {
    "Choice": "kt_batch.pipelines.translate.sources",
    "EncoderSource": "kt_batch.models.weights",
    "ImageFilter": "kt_batch.store.image_filters",
    "RunOptions": "kt_batch.config",
    **dict.fromkeys(
        ("IndexMemory", "build_index", "explain", "extract", "merge", "open_library", "open_run", "translate"),
        "kt_batch.api",
    ),
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _LOADED_ON_USE:
        raise AttributeError(f"module 'kt_batch' has no attribute {name!r}")
    return getattr(import_module(_LOADED_ON_USE[name]), name)
