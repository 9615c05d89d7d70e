"""Names, tags and messages that steer a terminal reach neither terminal nor JSON nor log as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from tests.support.tiny import draw

EVIL = [
    "esc\x1b[2J",
    "osc\x1b]0;pwned\x07",
    "csi\x9b31m",
    "c1\x85\x90\x9d",
    "bidi\u202egnp.\u2066x\u2069",
    "marks\u200e\u200f\u061c",
    "lines\u2028\u2029",
    "line\nkt-batch: all is well",
    "return\rkt-batch: all is well",
    "invisible\u200b\U000e0041\x7f",
]
RAW = set("".join(EVIL)) - set("\n") - {character for name in EVIL for character in name if character.isprintable()}


@dataclass(frozen=True)
class Hostile:
    """A library and a run in folders with such names, of images with such names and tags."""

    root: Path
    photos: Path
    library: Path
    run: Path
    log: Path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    root = tmp_path_factory.mktemp("hostile")
    place = root / "place\x1b[2J\u202e\x9b"
    made = Hostile(root, root / "photos", place / "library", place / "run", root / "log")
    for number, name in enumerate(EVIL):
        draw(root / f"paintings/{name}.png", number)
        draw(made.photos / f"{name}.png", 100 + number)
        (made.photos / f"bad {name}.png").write_bytes(b"\x1b[2J\x9b no image %d" % number)
        (root / f"paintings/bad {name}.png").write_bytes(b"\x1b[2J no image %d" % number)
    tags = [word for name in EVIL for word in ("--tag", name)]
    own = [
        "--license",
        EVIL[0],
        "--attribution",
        EVIL[4],
        "--size",
        "64",
        "--threads",
        "1",
        "--log-file",
        str(made.log),
    ]
    assert run_app(app, ["extract", str(root / "paintings"), "--library", str(made.library), *tags, *own]) == 3
    assert run_app(app, ["index", str(made.library), "--threads", "1", "--log-file", str(made.log)]) == 0
    words = ["translate", str(made.photos), "--library", str(made.library), "--out", str(made.run), "--threads", "1"]
    assert run_app(app, [*words, "--log-file", str(made.log)]) == 3
    return made


def commands(hostile: Hostile) -> list[list[str]]:
    """Return every command that reads the library or the run, and calls that fail with their names."""
    library, run, photos = str(hostile.library), str(hostile.run), str(hostile.photos)
    outputs = sorted(path.relative_to(hostile.run).as_posix() for path in (hostile.run / "images").rglob("*.png"))
    return [
        ["inspect", library],
        ["inspect", library, "--json"],
        ["inspect", library, "--sql"],
        ["inspect", run],
        ["inspect", run, "--json"],
        ["inspect", run, "--sql"],
        ["report", library],
        ["report", library, "--json"],
        ["report", run],
        ["report", run, "--json"],
        *(["explain", run, output, "--at", "5,5"] for output in outputs),
        ["explain", run, outputs[0], "--at", "5,5", "--json"],
        ["explain", run, EVIL[0], "--at", "5,5"],
        ["verify", library],
        ["verify", library, "--json"],
        ["verify", run],
        ["verify", run, "--digest"],
        ["gc", library],
        ["gc", run, "--json"],
        ["extract", str(hostile.root / "paintings"), "--library", library, "--size", "64", "--threads", "1"],
        ["extract", photos, "--library", library, "--size", "64", "--dry-run"],
        ["extract", photos, "--library", library, "--size", "32"],
        ["extract", f"{photos}/{EVIL[0]}", "--library", library],
        ["extract", photos, "--library", library, "--encoder", EVIL[1]],
        ["extract", photos, "--library", library, "--log-file", "-", "--size", "64", "--threads", "1"],
        ["translate", photos, "--library", library, "--out", run, "--threads", "1", "--json"],
        ["translate", photos, "--library", library, "--out", run, "--alpha", EVIL[2]],
        ["translate", photos, "--library", library, "--out", run, "--config", EVIL[4]],
        ["try", f"{photos}/{EVIL[3]}.png", "--style", photos, "--out", f"{hostile.root}/{EVIL[3]}.txt"],
        ["inspect", EVIL[0]],
        ["inspect", EVIL[0], "--debug"],
        ["verify", f"{EVIL[1]}://x"],
        [EVIL[4]],
        ["--debug", "explain", run, EVIL[7], "--at", "5,5"],
    ]  # fmt: skip


def assert_harmless(text: str, words: Sequence[str]) -> None:
    raw = sorted(f"U+{ord(character):04X}" for character in set(text) & RAW)
    assert raw == [], f"{words}: {raw} in {text!r}"
    assert [line for line in text.splitlines() if line.startswith("kt-batch: all is well")] == [], words


def test_no_command_prints_them_as_they_are(hostile: Hostile, capfd: pytest.CaptureFixture[str]) -> None:
    for words in commands(hostile):
        capfd.readouterr()
        code = run_app(app, words)
        said = capfd.readouterr()
        assert_harmless(said.out, words)
        assert_harmless(said.err, words)
        assert "internal error" not in said.err, words
        assert code in (0, 1, 2, 3)
        if "--json" in words:
            json.loads(said.out)


@pytest.mark.parametrize("which", ["library", "run"])
def test_the_printed_sql_still_finds_files_with_such_names(
    hostile: Hostile, capfd: pytest.CaptureFixture[str], which: str
) -> None:
    assert run_app(app, ["inspect", str(getattr(hostile, which)), "--sql"]) == 0
    with closing(duckdb.connect()) as connection:
        connection.execute(capfd.readouterr().out)
        names = "SELECT uri FROM rejects"
        found = {Path(uri).name for (uri,) in connection.execute(names).fetchall()}
    assert found == {f"bad {name}.png" for name in EVIL}


def test_the_log_holds_escapes_and_means_the_names(hostile: Hostile) -> None:
    text = hostile.log.read_text(encoding="utf-8")
    assert_harmless(text, ["the log"])
    rejected = [event for event in map(json.loads, text.splitlines()) if event["event"] == "image_rejected"]
    assert len(rejected) == 2 * len(EVIL)


def test_a_damaged_receipt_is_named_without_them(hostile: Hostile, capfd: pytest.CaptureFixture[str]) -> None:
    damaged = Path(shutil.copytree(hostile.run, hostile.root / "damaged\x1b[2J"))
    receipt = next((damaged / "receipts").iterdir())
    receipt.write_text('{"\\u001b[2J": "\\u009b"}')
    for command in ("verify", "inspect", "report"):
        run_app(app, [command, str(damaged)])
        said = capfd.readouterr()
        assert_harmless(said.out + said.err, [command])
        assert "internal error" not in said.err
