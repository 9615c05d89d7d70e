"""Progress of a pipeline, as steps that a caller may display."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """How far a stage is, in its own units of work; `rejects` counts inputs; `note` is a sentence to show once."""

    stage: str
    done: int
    total: int
    rejects: int = 0
    note: str = ""


Progress = Callable[[Step], None]


def no_progress(step: Step) -> None:
    """Ignore a step."""
