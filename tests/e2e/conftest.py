"""Fixtures that run the real commands in separate processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny import draw_all, extracted, indexed

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND = Path(sys.executable).with_name("kt-batch")


@dataclass(frozen=True)
class Ended:
    """The exit code and the output of a process."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


def run(*words: object, environment: Mapping[str, str] | None = None, timeout: float = 600) -> Ended:
    """Run a command line until it ends."""
    line = [os.fspath(word) if isinstance(word, Path) else str(word) for word in words]
    done = subprocess.run(
        line,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
        timeout=timeout,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def kt(*words: object, environment: Mapping[str, str] | None = None) -> Ended:
    """Run `kt-batch WORDS`."""
    return run(COMMAND, *words, environment=environment)


@dataclass(frozen=True)
class Small:
    """Three paintings, three photographs, and an indexed library of the paintings; 64 pixels, one thread."""

    paintings: Path
    photos: Path
    library: Path
    index: str


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    root = tmp_path_factory.mktemp("small")
    paintings, photos = draw_all(root / "paintings", [1, 2, 3]), draw_all(root / "photos", [11, 12, 13])
    extracted([paintings], root / "library")
    return Small(paintings, photos, root / "library", indexed(root / "library").index)
