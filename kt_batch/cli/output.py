"""Output of commands for a person: summaries and pages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import typer


def print_summary(content: Mapping[str, object], lines: Sequence[str], as_json: bool) -> None:
    """Print a summary as one JSON object, or as lines for a person."""
    typer.echo(json.dumps(content, ensure_ascii=False) if as_json else "\n".join(lines))


def retry_lines(rejected: int) -> list[str]:
    """Say what can be done about rejects, if there are any."""
    return ["  rejected images are listed in rejects/; --retry-rejected tries them once more"] if rejected else []


def counted(number: int, noun: str) -> str:
    """Return `1 file`, `2 files`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
