"""`--manifest` and archives on the command line."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from jobs import build_library, train_autoencoder, translate
from tests.cli.conftest import QUICK, Say
from tests.support.hostile_archives import END, tar_entry, zipped
from tests.support.tiny import draw, draw_all

JOB = ["--runner", "local"]


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Return a manifest of a shard and a file, in a folder of its own."""
    folder = draw_all(tmp_path / "set", [1])
    data = draw(tmp_path / "2.png", 2).read_bytes()
    (folder / "000.tar").write_bytes(tar_entry("2.png", data) + tar_entry("2.txt", b"x") + END)
    (folder / "all.csv").write_text("uri,painter\n1.png,Monet\n000.tar,Sisley\n")
    return folder / "all.csv"


def test_extract_takes_a_manifest_and_says_what_it_passed_over(kt: Say, listed: Path, tmp_path: Path) -> None:
    words = ["extract", "--manifest", listed, "--library", tmp_path / "library", *QUICK]
    said = kt(*words)
    assert said.code == 0
    assert "2 images" in said.out
    assert "Passed over: 1 .txt." in said.err
    again = kt(*words, "--json")
    assert again.json["passed_over_files"] == {".txt": 1}
    dry = kt(*words, "--dry-run", "--json")
    assert (dry.json["found"], dry.json["passed_over_files"]) == (2, {".txt": 1})


def test_a_manifest_of_standard_input_beside_an_argument(
    kt: Say, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"set/1.png\n")))
    monkeypatch.chdir(tmp_path)
    said = kt("extract", "set/000.tar", "--manifest", "-", "--library", "library", *QUICK, "--json")
    assert (said.code, said.json["images"]) == (0, 2)


def test_without_images_and_manifest_there_is_nothing_to_do(kt: Say, tmp_path: Path) -> None:
    said = kt("extract", "--library", tmp_path / "library", *QUICK)
    assert said.code == 2
    assert said.err == (
        "kt-batch: no images were given; name a file, a directory, a pattern, an archive, s3://bucket/prefix or "
        "--manifest FILE\n"
    )


@pytest.mark.parametrize("content", ["", "url\n1.png\n"])
def test_an_unusable_manifest_is_one_sentence(kt: Say, listed: Path, tmp_path: Path, content: str) -> None:
    listed.write_text(content)
    said = kt("extract", "--manifest", listed, "--library", tmp_path / "library", *QUICK)
    assert said.code == 2
    assert said.err.startswith(f"kt-batch: the manifest '{listed}' needs one column 'uri'; its columns are ")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "library").exists()


def test_jobs_take_manifests_and_explain_shows_the_tags(kt: Say, listed: Path, tmp_path: Path) -> None:
    library, run = tmp_path / "library", tmp_path / "run"
    built = kt("--manifest", listed, "--library", library, *QUICK, *JOB, "--json", of=build_library.load_app())
    assert (built.code, built.json["extract"]["images"]) == (0, 2)
    made = kt(
        "--manifest",
        listed,
        "--library",
        library,
        "--out",
        run,
        *JOB,
        "--threads",
        1,
        "--json",
        of=translate.load_app(),
    )
    assert (made.code, made.json["images"]) == (0, 2)
    said = kt("explain", run, "000.tar/2.png", "--at", "5,5")
    assert "#at=512&bytes=" in said.out
    assert "[painter=Sisley]" in said.out


def test_a_shard_may_be_a_style_and_the_paintings_of_try(kt: Say, listed: Path, tmp_path: Path) -> None:
    shard = listed.parent / "000.tar"
    said = kt("try", listed.parent / "1.png", "--style", shard, "--out", tmp_path / "out.png", *QUICK)
    assert said.code == 0
    assert "Passed over: 1 .txt" in said.out


def test_neither_a_manifest_nor_an_image_that_it_names_is_overwritten(kt: Say, listed: Path, tmp_path: Path) -> None:
    words = ["extract", "--manifest", listed, "--library", tmp_path / "library", *QUICK]
    for target in (listed, listed.parent / "000.tar", listed.parent / "1.png"):
        said = kt(*words, "--rejects-csv", target)
        assert said.code == 2
        assert f"is the input '{target}', which is never overwritten" in said.err


def test_a_file_of_options_names_a_manifest_only_if_it_is_trusted(kt: Say, listed: Path, tmp_path: Path) -> None:
    config = tmp_path / "options.yaml"
    config.write_text(f"manifest: [{listed}]\n")
    words = ["extract", "--library", tmp_path / "library", "--config", config, *QUICK]
    assert "sets 'manifest'" in kt(*words).err
    assert kt(*words, "--trust-config", "--json").json["images"] == 2


def test_an_archive_that_is_no_archive_is_a_reject(kt: Say, listed: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"Dear reader")
    (tmp_path / "good.zip").write_bytes(zipped({"1.png": (listed.parent / "1.png").read_bytes()}))
    said = kt("extract", tmp_path / "*.zip", "--library", tmp_path / "library", *QUICK)
    assert said.code == 3
    assert "bad.zip: truncated, cannot read" in said.out
    assert "1 images" in said.out


def test_training_takes_a_manifest(kt: Say, listed: Path, tmp_path: Path) -> None:
    listed.write_text("url\n")
    said = kt("--manifest", listed, "--out", tmp_path / "out", *JOB, of=train_autoencoder.load_app())
    assert said.code == 2
    assert "needs one column 'uri'" in said.err
