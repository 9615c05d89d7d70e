"""No command writes over an input, or over a file of others unasked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.errors import UsageError
from kt_batch.store.targets import Inputs, Target
from tests.support.collection import Collection
from tests.support.tiny import draw


def kt(*words: object) -> int:
    return run_app(app, [str(word) for word in words])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a photograph, a painting, and other names of both."""
    draw(tmp_path / "photo.png", 21)
    draw(tmp_path / "styles/painting.png", 22)
    (tmp_path / "deep").mkdir()
    (tmp_path / "link.png").symlink_to("photo.png")
    (tmp_path / "hard.png").hardlink_to(tmp_path / "photo.png")
    (tmp_path / "alias").symlink_to("styles")
    return tmp_path


OTHER_NAMES = [
    "photo.png", "link.png", "hard.png", "deep/../photo.png", "./photo.png", "styles/painting.png",
    "alias/painting.png", "styles/../alias/painting.png",
]  # fmt: skip


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["unasked", "forced"])
@pytest.mark.parametrize("name", OTHER_NAMES)
def test_try_never_writes_over_its_photograph_or_a_style(
    name: str, force: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in (folder / "photo.png", folder / "styles/painting.png")}
    words = ("try", folder / "photo.png", "--style", folder / "styles", "--out", f"{folder}/{name}", *force)
    assert kt(*words) == 2
    assert "which is never overwritten" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_try_replaces_a_file_only_if_forced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = folder / "other.png"
    other.write_bytes(b"a drawing of somebody")
    words = ("try", folder / "photo.png", "--style", folder / "styles", "--out", other, "--size", 64, "--threads", 1)
    assert kt(*words) == 2
    assert "exists already; name another file, or give --force" in capsys.readouterr().err
    assert other.read_bytes() == b"a drawing of somebody"
    assert kt(*words, "--force") == 0
    assert other.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["run", "deep", "pipe.png", "nowhere/x.png", "dangling.png"])
def test_a_target_that_is_no_new_file_is_refused(name: str, folder: Path) -> None:
    (folder / "run").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "dangling.png").symlink_to("gone.png")
    with pytest.raises(UsageError, match=r"^--out '"):
        Target("--out", folder / name).check()


def test_a_report_writes_over_no_part_of_its_place_and_no_page_of_others(
    collection: Collection, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = Path(collection.library)
    receipt = next((library / "receipts").iterdir())
    (folder / "index.html").write_text("<html>mine</html>")
    for target in (receipt, library / "library.json", library / "plan/000000.parquet", folder / "index.html"):
        before = target.read_bytes()
        assert kt("report", library, "--html", target) == 2
        assert target.read_bytes() == before
    assert kt("report", library, "--html", folder / "page.html") == 0
    assert kt("report", library, "--html", folder / "page.html") == 0  # its own earlier page
    capsys.readouterr()


def test_no_file_is_written_among_the_files_of_any_library_or_run(collection: Collection, folder: Path) -> None:
    (folder / "library").symlink_to(collection.library)
    for name in ("library/receipts/page.html", "library/plan/page.html", "library/index/deep/page.html"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with pytest.raises(UsageError, match="lies among the files of the library or run"):
            Target("--to", folder / name, force=True).check()
    assert Target("--to", folder / "library/page.html").check() == Path(collection.library) / "page.html"


def test_a_run_or_a_library_is_no_input_folder_and_no_file(
    collection: Collection, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ("translate", folder / "styles", "--library", collection.library, "--out", folder / "alias"),
        ("translate", folder / "photo.png", "--library", collection.library, "--out", folder / "photo.png"),
        ("extract", folder / "styles/painting.png", "--library", folder / "styles"),
        ("extract", folder / "styles", "--library", folder / "hard.png"),
    ):
        assert kt(*words) == 2
    assert sorted(path.name for path in (folder / "styles").iterdir()) == ["painting.png"]
    assert "name another folder" in capsys.readouterr().err


@pytest.mark.parametrize("below", ["images", "index/0123456789abcdef/build", "plan", "rejects/deep"])
def test_no_run_or_library_lies_among_the_files_of_another_one(
    below: str, collection: Collection, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "library").symlink_to(collection.library)
    inside = folder / "library" / below
    before = sorted(Path(collection.library).rglob("*"))
    assert kt("translate", folder / "photo.png", "--library", collection.library, "--out", inside) == 2
    assert kt("extract", folder / "photo.png", "--library", inside) == 2
    assert capsys.readouterr().err.count("lies among the files of the library or run") == 2
    assert sorted(Path(collection.library).rglob("*")) == before


def test_a_log_is_appended_to_no_input(folder: Path, collection: Collection) -> None:
    before = (folder / "photo.png").read_bytes()
    words = ("translate", folder / "photo.png", "--library", collection.library, "--out", folder / "run")
    assert kt(*words, "--log-file", folder / "photo.png") != 0
    assert (folder / "photo.png").read_bytes() == before


def test_an_empty_input_is_no_empty_log(folder: Path, collection: Collection) -> None:
    (folder / "empty.png").touch()
    words = ("translate", folder, "--library", collection.library, "--out", folder / "new")
    assert kt(*words, "--log-file", folder / "empty.png") == 2
    assert (folder / "empty.png").read_bytes() == b""


def test_weights_are_inputs_too(folder: Path) -> None:
    weights = folder / "w.png"
    weights.write_bytes(b"tensors")
    with pytest.raises(UsageError, match="never overwritten"):
        Target("--out", weights, Inputs(files=[weights]), force=True).check()
