"""Presets of `extract`: names for what a library is to hold. Options given beside one win."""

from __future__ import annotations

from collections.abc import Mapping

from kt_batch.errors import UsageError

EXTRACT_PRESETS: dict[str, Mapping[str, object]] = {
    # The coarse level of a painting: relu4_1 alone, and the pictures in which the fine levels look.
    "painting": {"layer": "relu4_1", "size": 512, "keep_images": True},
}


def extract_preset(name: str) -> Mapping[str, object]:
    """Return the options of the preset called `name`. Raises UsageError when there is none."""
    if name not in EXTRACT_PRESETS:
        raise UsageError(f"There is no preset '{name}' of extract; there is {', '.join(EXTRACT_PRESETS)}.")
    return EXTRACT_PRESETS[name]
