"""What is printed may be lost, but not the work: closed and full streams, and places that are not text."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Small

KT = f"{shlex.quote(sys.executable)} -m kt_batch"
FULL = (
    "kt-batch: standard output cannot be written: No space left on device; the work of the command is done, what it "
    "printed is lost.\n"
)


def shell(line: str, folder: Path, **settings: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in a folder; its exit code is that of the first command of a pipe."""
    return subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
        capture_output=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def translate(small: Small, tmp_path: Path) -> str:
    """A command that translates three photographs."""
    return f"{KT} translate {small.photos} --library {small.library} --out run --threads 1 --unit-size 1"


def finished(folder: Path) -> bool:
    """Return whether the run is whole."""
    return len(list(folder.glob("run/receipts/*.json"))) == 3 and (folder / "run/run.json").is_file()


@pytest.mark.parametrize(
    ("redirection", "code"),
    [
        pytest.param("| true", 0, id="a reader that has gone"),
        pytest.param("| head -c 1", 0, id="a reader that takes one byte"),
        pytest.param(">&-", 0, id="closed standard output"),
        pytest.param("2>&-", 0, id="closed standard error"),
        pytest.param("2>/dev/full", 0, id="full standard error"),
        pytest.param("2>&1 | true", 0, id="both to a reader that has gone"),
        pytest.param("<&- >&- 2>&-", 0, id="all closed"),
        pytest.param("--json | true", 0, id="JSON to a reader that has gone"),
        pytest.param("--log-file - 2>&1 | true", 0, id="the log to a reader that has gone"),
        pytest.param(">/dev/full", 1, id="full standard output"),
        pytest.param(">/dev/full 2>/dev/full", 1, id="both full"),
    ],
)
def test_the_work_is_done_and_nothing_else_is_said(translate: str, tmp_path: Path, redirection: str, code: int) -> None:
    ended = shell(f"{translate} {redirection}", tmp_path)
    assert ended.returncode == code
    assert finished(tmp_path)
    for word in (b"Traceback", b"Exception ignored", b"Broken pipe", b"internal error"):
        assert word not in ended.stderr + ended.stdout


def test_a_full_device_is_one_sentence(translate: str, tmp_path: Path) -> None:
    ended = shell(f"{translate} >/dev/full", tmp_path)
    assert ended.stderr.decode().endswith(FULL)


@pytest.mark.parametrize("command", ["--help", "translate --help", "models", "models --json", "nonsense"])
@pytest.mark.parametrize("redirection", ["| true", ">&-", ">/dev/full", "2>&-"])
def test_commands_that_only_print_end_quietly(tmp_path: Path, command: str, redirection: str) -> None:
    ended = shell(f"{KT} {command} {redirection}", tmp_path)
    full = redirection == ">/dev/full" and command != "nonsense"
    assert ended.returncode == (2 if command == "nonsense" else int(full))
    assert ended.stderr.decode() == (FULL if full else ended.stderr.decode())
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_another_encoding_gets_escapes(small: Small, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "r\u00fcn \u6708").symlink_to(small.library)
    for options in ("", " --json"):
        line = f"{KT} report $'r\\u00fcn \\u6708'{options}"
        ended = shell(line, tmp_path, PYTHONIOENCODING=encoding, LC_ALL="C.UTF-8")
        assert (ended.returncode, ended.stderr) == (0, b"")
        ended.stdout.decode(encoding)
        if options:
            json.loads(ended.stdout.decode(encoding))


@pytest.mark.parametrize(
    "words",
    [
        "extract {photos} --library $'l\\xff'",
        "translate {photos} --library {library} --out $'r\\xff'",
        "translate {photos} --library {library} --out $'r\\xff/run' --json",
        "translate {photos} --library {library} --out file://$PWD/r%FF",
        "index $'l\\xff'",
        "inspect $'l\\xff'",
        "explain $'r\\xff' a.png --at 1,1",
        "verify $'l\\xff'",
        "report $'l\\xff'",
        "gc $'l\\xff'",
    ],
)
def test_a_place_that_is_no_text_is_one_sentence(small: Small, tmp_path: Path, words: str) -> None:
    ended = shell(f"{KT} {words.format(photos=small.photos, library=small.library)}", tmp_path)
    sentence = ended.stderr.decode()
    assert (ended.returncode, ended.stdout, sentence.count("\n")) == (2, b"", 1)
    assert "has bytes that are not UTF-8; allowed is a path of UTF-8" in sentence
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_text_can_be_written(small: Small, tmp_path: Path) -> None:
    photo = min(small.photos.iterdir())
    line = f"{KT} try {photo} --style {small.paintings} --out $'t\\xff.png' --size 64 --threads 1"
    ended = shell(line, tmp_path)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.startswith(rb"t\udcff.png: ")
    assert [os.fsencode(path.name) for path in tmp_path.iterdir()] == [b"t\xff.png"]
