"""The real commands turn every hostile file into an image or a reject reason."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections import Counter
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.e2e.conftest import COMMAND, Ended, Small, kt
from tests.support.hostile import Case, make_corpus
from tests.support.hostile_places import Whole, make_whole
from tests.support.tiny import column, draw, hashes, rows

# The memory limit of each of the two processes in bytes. Half of it is for Python and torch and for the largest file,
# 256 MiB that are not an image. Images declared or inflated beyond the pixel limit are never in memory.
LIMITS = {"driver": 1000 << 20, "decoder": 500 << 20}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case]]:
    folder = tmp_path_factory.mktemp("hostile") / "in"
    folder.mkdir()
    return folder, make_corpus(folder)


def expected(folder: Path, cases: list[Case]) -> tuple[set[str], dict[str, str]]:
    """Return the URIs of the valid files and a map of URI to reason of the others."""
    good = {str(folder / case.name) for case in cases if case.verdict == "good"}
    return good, {str(folder / case.name): str(case.verdict) for case in cases if case.verdict != "good"}


def no_traceback(ended: Ended) -> None:
    assert "Traceback" not in ended.err
    assert "internal error" not in ended.err
    assert "Warning" not in ended.err


def test_every_file_is_extracted_or_rejected_with_its_reason(corpus: tuple[Path, list[Case]], tmp_path: Path) -> None:
    folder, cases = corpus
    files = [folder / case.name for case in cases]
    ended = kt("extract", *files, "--library", tmp_path / "library", "--size", 64, "--threads", 1, "--json")
    no_traceback(ended)
    good, bad = expected(folder, cases)
    assert {row["uri"]: row["reason"] for row in rows(tmp_path / "library", "rejects")} == bad
    found = [uri for uris in column(tmp_path / "library", "images", "uris") for uri in uris]
    assert sorted(found) == sorted(good)
    assert (ended.code, ended.json["images"], ended.json["rejected"]) == (3, len(good), len(bad))
    assert all(row["message"] for row in rows(tmp_path / "library", "rejects"))


def test_every_file_is_translated_or_rejected_with_its_reason(
    corpus: tuple[Path, list[Case]], small: Small, tmp_path: Path
) -> None:
    folder, cases = corpus
    run = tmp_path / "run"
    files = [folder / case.name for case in cases]
    ended = kt("translate", *files, "--library", small.library, "--out", run, "--threads", 1, "--json")
    no_traceback(ended)
    good, bad = expected(folder, cases)
    assert {row["uri"]: row["reason"] for row in rows(run, "rejects")} == bad
    outputs = {entry["uri"]: name for name, entry in json.loads((run / "run.json").read_text())["outputs"].items()}
    assert outputs.keys() == good
    assert set(outputs.values()) == set(hashes(run, "images"))
    assert (ended.code, ended.json["images"], ended.json["rejected"]) == (3, len(good), len(bad))
    for name in outputs.values():
        with Image.open(run / name) as image:
            image.load()
            assert max(image.size) <= 64


def test_nothing_is_written_outside_the_run(corpus: tuple[Path, list[Case]], small: Small, tmp_path: Path) -> None:
    folder, cases = corpus
    names = [case.name for case in cases if case.note in ("what shells run", "a leading dash", "a line break")]
    assert len(names) == 3
    files = [folder / name for name in names]
    before = set(folder.iterdir())
    ended = kt("translate", *files, "--library", small.library, "--out", tmp_path / "run", "--threads", 1)
    assert ended.code == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]
    assert set(folder.iterdir()) == before


def test_a_directory_is_searched_recursively_for_names_of_images(small: Small, tmp_path: Path) -> None:
    draw(tmp_path / "in/été 夏/a b.png", 21)
    draw(tmp_path / "in/other/a b.png", 22)
    draw(tmp_path / "in/.hidden/c.png", 23)
    shutil.copy(tmp_path / "in/other/a b.png", tmp_path / "in/notes.txt")
    ended = kt("translate", tmp_path / "in", "--library", small.library, "--out", tmp_path / "out ü", "--threads", 1)
    assert ended.code == 0
    assert sorted(hashes(tmp_path / "out ü", "images")) == ["images/other/a b.png.png", "images/été 夏/a b.png.png"]


# ---- the whole corpus ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole") / "in"
    folder.mkdir()
    return make_whole(folder)


def watched(*words: object) -> tuple[Ended, dict[str, int]]:
    """Run `kt-batch WORDS`; measure the peak memory of its process and its image reader."""
    peaks: Counter[str] = Counter()
    ended = threading.Event()
    line = [str(COMMAND), *map(str, words)]
    with subprocess.Popen(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        watcher = threading.Thread(target=watch, args=(psutil.Process(process.pid), peaks, ended))
        watcher.start()
        try:
            out, err = process.communicate(timeout=240)
        finally:
            process.kill()
            ended.set()
            watcher.join()
    return Ended(process.returncode, out, err), dict(peaks)


def watch(process: psutil.Process, peaks: Counter[str], ended: threading.Event) -> None:
    """Sample the peak memory that the kernel keeps for each process."""
    while not ended.wait(0.02):
        try:
            for each in (process, *process.children()):
                role = "decoder" if "kt_batch.store.images.reader_child" in each.cmdline() else "driver"
                status = Path(f"/proc/{each.pid}/status").read_text()
                held = next((int(row.split()[1]) << 10 for row in status.splitlines() if row.startswith("VmHWM")), 0)
                peaks[role] = max(peaks[role], held)
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError, ProcessLookupError):
            continue  # one process ended while it was sampled


def within_limits(peaks: dict[str, int]) -> bool:
    assert peaks.keys() == LIMITS.keys()
    return all(peaks[role] <= limit for role, limit in LIMITS.items())


def verdicts(place: Path) -> dict[str, str]:
    found = rows(place, "rejects")
    assert all(row["message"] for row in found)
    assert len({row["uri"] for row in found}) == len(found)
    return {row["uri"]: row["reason"] for row in found}


@pytest.mark.slow
def test_the_whole_corpus_meets_its_verdicts_in_extract_within_bounded_memory(whole: Whole, tmp_path: Path) -> None:
    library = tmp_path / "library"
    assert whole.cases > 600
    ended, peaks = watched("extract", *whole.arguments, "--library", library, "--size", 64, "--threads", 1, "--json")
    no_traceback(ended)
    assert verdicts(library) == whole.bad
    assert sorted(uri for uris in column(library, "images", "uris") for uri in uris) == sorted(whole.good)
    assert (ended.code, ended.json["images"], ended.json["rejected"]) == (3, len(whole.good), len(whole.bad))
    assert within_limits(peaks), peaks
    assert {path.name for path in tmp_path.iterdir()} == {"library"}


@pytest.mark.slow
def test_the_whole_corpus_meets_its_verdicts_in_translate_within_bounded_memory(
    whole: Whole, small: Small, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ended, peaks = watched(
        "translate", *whole.arguments, "--library", small.library, "--out", run, "--threads", 1, "--json"
    )
    no_traceback(ended)
    assert verdicts(run) == whole.bad
    outputs = {entry["uri"]: name for name, entry in json.loads((run / "run.json").read_text())["outputs"].items()}
    assert outputs.keys() == whole.good
    written = set(hashes(run, "images"))
    assert (set(outputs.values()), len(written)) == (written, len(whole.good))
    assert (ended.code, ended.json["images"], ended.json["rejected"]) == (3, len(whole.good), len(whole.bad))
    assert within_limits(peaks), peaks
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert kt("verify", run).code == 0


@pytest.mark.slow
def test_unusual_places_listed_again_give_no_new_work(whole: Whole, tmp_path: Path) -> None:
    words = ["extract", whole.folder / "places", "--library", tmp_path / "library", "--size", 64, "--threads", 1]
    first, again = kt(*words, "--json"), kt(*words, "--json")
    assert (first.code, again.code) == (3, 3)
    assert first.json["images"] == again.json["images"] > 0
    assert (again.json["new_images"], again.json["new_rejected"]) == (0, 0)
    assert kt("verify", tmp_path / "library").code == 0
