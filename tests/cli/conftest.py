"""Fixtures that run commands in this process, and a library for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from tests.support.tiny import draw, draw_all

QUICK = ["--threads", "1", "--size", "64"]
KEYS = {"images", "rejected", "patches", "seconds", "images_per_second", "ncc_mean"}


@dataclass(frozen=True)
class Said:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Parse standard output, which must be exactly one JSON object."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        assert self.out.count("\n") == 1
        return found


Say = Callable[..., Said]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def kt(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run `kt-batch` in this process."""

    def run(*words: object, of: typer.Typer = app) -> Said:
        capsys.readouterr()
        code = run_app(of, [str(word) for word in words])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two paintings, extracted and indexed by the commands."""
    root = tmp_path_factory.mktemp("cli")
    place = root / "library"
    assert run_app(app, ["extract", str(draw_all(root / "paintings", [1, 2])), "--library", str(place), *QUICK]) == 0
    assert run_app(app, ["index", str(place), "--threads", "1"]) == 0
    return place


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A valid photograph and a file that is not an image."""
    draw(tmp_path / "photos/a.png", 11)
    (tmp_path / "photos/bad.jpg").write_bytes(b"no image")
    return tmp_path / "photos"
