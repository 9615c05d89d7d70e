"""The option --build-memory of the command, the job and a file of options."""

from __future__ import annotations

from pathlib import Path

import pytest

import kt_batch
from jobs import build_library
from kt_batch.cli.options import parse_size
from kt_batch.errors import UsageError
from tests.cli.conftest import QUICK, Say
from tests.support.tiny import draw_all, hashes

TOO_LITTLE = "kt-batch: --build-memory is 0.1 GB, but indexing 360 patches of 608 values takes 0.47 GB in a process"


@pytest.fixture
def library(kt: Say, tmp_path: Path) -> Path:
    """Two paintings without an index."""
    paintings = draw_all(tmp_path / "paintings", [1, 2])
    assert kt("extract", paintings, "--library", tmp_path / "library", *QUICK).code == 0
    return tmp_path / "library"


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 10**9), ("1.5", 1_500_000_000), ("2GB", 2 * 10**9), ("800 mb", 800 * 10**6), (None, None)],
)
def test_a_size_is_in_gigabytes_or_says_its_unit(text: str | None, size: int | None) -> None:
    assert parse_size("--build-memory", text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1TB", "much", "1e3", "nan", "0.0GB"])
def test_what_is_no_size_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=rf"--build-memory is a number of gigabytes above 0 .*, not '{text}'"):
        parse_size("--build-memory", text)


def test_too_little_memory_is_one_sentence_of_the_command_and_the_job(kt: Say, library: Path) -> None:
    said = kt("index", library, "--threads", "1", "--build-memory", "100MB")
    assert (said.code, said.out) == (2, "")
    assert said.err.splitlines()[-1].startswith(TOO_LITTLE)
    words = (library.parent / "paintings", "--library", library, *QUICK, "--runner", "local")
    said = kt(*words, "--build-memory", "0.1", of=build_library.load_app())
    assert (said.code, said.err.splitlines()[-1].startswith(TOO_LITTLE)) == (2, True)
    assert not (library / "index").exists()
    with pytest.raises(UsageError, match=r"takes 0\.47 GB in a process"):
        kt_batch.build_index(library, build_memory=0.1)
    with pytest.raises(UsageError, match="build_memory is nan; allowed are gigabytes above 0"):
        kt_batch.build_index(library, build_memory=float("nan"))
    for memory in (float("nan"), kt_batch.IndexMemory(float("nan"), replicas=2)):
        with pytest.raises(UsageError, match="index_memory is nan; allowed are gigabytes above 0"):
            kt_batch.translate([], library, kt_batch.Choice(), method="identity", index_memory=memory)


def test_a_file_of_options_sets_it_and_the_index_is_that_without_it(kt: Say, library: Path, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("build_memory: 0.6\n")
    said = kt("index", library, "--threads", "1", "--config", tmp_path / "options.yaml", "--json")
    assert said.code == 0, said.err
    limited = hashes(library, "index")
    for path in sorted((library / "index").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert kt("index", library, "--threads", "1", "--json").json["index"] == said.json["index"]
    assert hashes(library, "index") == limited
