"""Every command that reads a damaged library or run ends in one sentence that names the file, within bounds."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
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
            return ["explain", str(pair.run), "11.png", "--at", "1,1"]
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


def limited(*line: str) -> tuple[int, str]:
    """Run `kt-batch` with a limit of memory and of time; return its code and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(MEMORY), *line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
from kt_batch.cli import main
sys.argv[1:] = sys.argv[2:]
sys.exit(main())
"""


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in CASES
        if (case.place == "library" or "provenance" in case.name)
        and any(word in case.name for word in (*BOMBS, *ENDLESS))
    ],
    ids=lambda case: case.name,
)
def test_what_a_few_bytes_stand_for_is_never_in_memory(case: Case, pair: Pair, tmp_path: Path) -> None:
    copy = pair.copied(tmp_path)
    place = copy.library if case.place == "library" else copy.run
    case.damage(place)
    code, said = limited(*words(case.commands[0], copy, place))
    assert code in (1, 2), said
    assert case.file in said
    assert "Cannot allocate" not in said
    assert "Traceback" not in said


KINDS = ("plan/*.parquet", "receipts/*.json", "images/part-*", "patches/part-*", "rejects/part-*", "provenance/part-*")


@pytest.mark.parametrize("seed", range(60))
def test_any_changed_bytes_cost_a_sentence_or_nothing(
    seed: int, pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, chance = pair.copied(tmp_path), random.Random(seed)
    pattern = KINDS[seed % len(KINDS)]
    paths = sorted([*copy.library.glob(pattern), *copy.run.glob(pattern)])
    damage(chance.choice(paths), chance)
    for place in (copy.library, copy.run):
        for command in (*READ, "explain"):
            code = run_app(app, words(command, copy, place))
            error = capsys.readouterr().err
            assert code in (0, 1, 2), (command, error)
            assert "internal error" not in error, (command, error)


def damage(path: Path, chance: random.Random) -> None:
    """Flip some bits, cut a piece out, or write zeros; prefer the end, where a Parquet file describes itself."""
    data = bytearray(path.read_bytes())
    start = len(data) - min(len(data), 2000) if chance.random() < 0.7 else 0
    match chance.randrange(3):
        case 0:
            for _ in range(chance.randrange(1, 9)):
                data[chance.randrange(start, len(data))] ^= 1 << chance.randrange(8)
        case 1:
            at = chance.randrange(start, len(data))
            del data[at : at + chance.randrange(1, 40)]
        case _:
            at = chance.randrange(start, len(data))
            data[at : at + 16] = bytes(len(data[at : at + 16]))
    path.write_bytes(data)
