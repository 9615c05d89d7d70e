"""Libraries and runs of strangers: every command ends with success or one sentence, soon and in bounded memory."""

from __future__ import annotations

import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from tests.support.collection import Collection
from tests.support.hostile_libraries import CASES
from tests.support.tiny import translate_request, translated

GIB = 1 << 30
BOMBS = [name for name in CASES if any(word in name for word in ("long_", "many_rows", "hole", "deep"))]
ENDLESS = [name for name in CASES if name.endswith(("-pipe", "-device"))]


@pytest.fixture(scope="module")
def places(collection: Collection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a library and a run of it."""
    root = tmp_path_factory.mktemp("places")
    shutil.copytree(collection.library, root / "library")
    translated([collection.photos], translate_request(root / "library", root / "run", collection.index))
    return root


def damaged(places: Path, tmp_path: Path, case: str) -> Path:
    place, pattern, change = CASES[case]
    shutil.copytree(places, tmp_path / "places")
    summary = tmp_path / "places/run/run.json"
    summary.write_text(summary.read_text().replace(str(places), str(tmp_path / "places")))
    change(min((tmp_path / "places" / place).glob(pattern)))
    return tmp_path / "places"


def commands(root: Path) -> list[list[str]]:
    library, run = str(root / "library"), str(root / "run")
    return [
        *([word, place] for word in ("inspect", "report", "verify", "gc") for place in (library, run)),
        ["explain", run, "11.png", "--at", "1,1", "--library", library],
        ["explain", run, "11.png", "--at", "1,1"],
        ["inspect", run, "--sql"],
    ]


def ends_in_a_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    code = run_app(app, words)
    error = capsys.readouterr().err
    assert "internal error" not in error, (words, error)
    assert "Traceback" not in error, (words, error)
    if code not in (0, 1) or (code == 1 and error):
        assert code in (1, 2), words
    assert len([line for line in error.splitlines() if line.startswith("kt-batch: ")]) <= 1
    return code


@pytest.mark.parametrize("case", [name for name in CASES if name not in BOMBS + ENDLESS])
def test_every_command_ends_in_one_sentence(
    case: str, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = damaged(places, tmp_path, case)
    codes = [ends_in_a_sentence(words, capsys) for words in commands(root)]
    # A receipt that is a folder is none, so its unit is pending. A library has no outputs.
    harmless = case.startswith("summary-") or case in (
        "receipt-folder",
        "run_receipt-folder",
        "receipt-too_few_outputs",
    )
    assert any(codes) or harmless


def in_a_small_process(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of 4 GiB of address space, of which imports take 2, for at most a minute."""
    return subprocess.run(
        [sys.executable, "-m", "kt_batch", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 * GIB, 4 * GIB)),
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", BOMBS + ENDLESS)
def test_a_bomb_takes_little_memory_and_a_pipe_no_time(case: str, places: Path, tmp_path: Path) -> None:
    root = damaged(places, tmp_path, case)
    place = str(root / CASES[case][0])
    for word in ("inspect", "verify", "report"):
        ended = in_a_small_process([word, place])
        assert ended.returncode in (0, 1, 2), ended.stderr
        assert not any(fault in ended.stderr for fault in ("Traceback", "internal error", "MemoryError"))


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_never_end_in_an_internal_error(
    seed: int, places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(seed)
    root = tmp_path / "places"
    shutil.copytree(places, root)
    files = sorted(path for path in root.rglob("*") if path.is_file() and "index" not in path.parts)
    for path in chance.sample(files, 4):
        data = bytearray(path.read_bytes())
        for _ in range(chance.choice((1, 3, 30))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.unlink()
        path.write_bytes(data)
    for words in commands(root):
        ends_in_a_sentence(words, capsys)
