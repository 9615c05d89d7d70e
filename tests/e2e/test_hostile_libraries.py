"""Every command that reads a damaged library or run ends in one sentence that names the file, within bounds."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from tests.e2e.conftest import COMMAND
from tests.support.hostile_libraries import CASES, READ, Case, Pair, make_pair

MEMORY = 3 << 30  # bytes of address space of a command, torch's libraries among them
BOMBS = ("gigabytes", "millions", "one long text", "terabyte", "claims two gigabytes")
ENDLESS = ("pipe", "socket", "endless device")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("hostile"))


def words(command: str, pair: Pair, place: Path) -> list[str]:
    """Return the command line for a place of a pair."""
    quick = ["--threads", "1"]
    match command:
        case "explain":
            return ["explain", str(pair.run), "11.png", "--at", "1,1", "--library", str(pair.library)]
        case "translate" | "dry":
            dry = ["--dry-run"] if command == "dry" else []
            return ["translate", str(pair.photos), "--library", str(pair.library), "--out", str(pair.run), *quick, *dry]
        case "extract":
            return ["extract", str(pair.paintings), "--library", str(pair.library), "--size", "64", *quick]
        case "index":
            return ["index", str(pair.library), "--seed", "1", *quick]  # another one than is there
    return [command, str(place)]


def is_one_sentence(error: str) -> bool:
    """Tell whether standard error ends in one sentence of ours, after progress and warnings."""
    ours = [line for line in error.splitlines() if line.startswith("kt-batch: ")]
    return len(ours) == 1 and "internal error" not in error and "Traceback" not in error


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_damaged_file_costs_one_sentence_that_names_it(
    case: Case, pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = pair.copied(tmp_path)
    place = copy.library if case.place == "library" else copy.run
    case.damage(place)
    for command in dict.fromkeys([*READ, *case.commands]):
        code = run_app(app, words(command, copy, place))
        out, error = capsys.readouterr()
        assert "internal error" not in error, command
        assert "Traceback" not in error, command
        if command in case.commands:
            assert code in (1, 2), (command, error)
            if command == "verify" and not error.strip().splitlines()[-1].startswith("kt-batch: "):
                assert case.file in out, command  # it lists all faults
            else:
                assert is_one_sentence(error), (command, error)
                assert case.file in error, (command, error)
