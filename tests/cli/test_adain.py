"""The method adain on the command line."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Say
from tests.support.collection import Collection


def test_the_command_line_reports_explains_and_continues_a_run(kt: Say, collection: Collection, tmp_path: Path) -> None:
    styles = ["--style", collection.paintings / "1.png", "--style", collection.paintings / "2.png"]
    words = ["translate", collection.photos, "--out", tmp_path / "run", "--size", 64, "--threads", 1, "--json"]
    said = kt(*words, "--method", "adain", *styles)
    assert (said.code, said.json["method"], said.json["new_images"]) == (0, "adain", 3)
    assert kt(*words, "--method", "adain", *styles).json["new_images"] == 0
    (saved,) = (tmp_path / "run/options").iterdir()
    assert kt(*words, "--config", saved, "--trust-config").json["new_images"] == 0
    assert kt("report", tmp_path / "run", "--html", tmp_path / "report.html").code == 0
    assert "transfer" in (tmp_path / "report.html").read_text(encoding="utf-8")
    explained = kt("explain", tmp_path / "run", "11.png", "--at", "10,10")
    assert explained.out.count("50.0%") == 2
    assert kt("inspect", tmp_path / "run", "--json").json["method"] == "adain"
    dry = kt(*words, "--method", "adain", *styles, "--dry-run")
    assert (dry.code, dry.json["to_do"]) == (0, 0)


def test_the_command_line_says_what_the_method_lacks(kt: Say, collection: Collection, tmp_path: Path) -> None:
    words = ["translate", collection.photos, "--out", tmp_path / "run", "--method", "adain"]
    assert "The method adain needs --style" in kt(*words).err
    assert kt(*words, "--style", collection.paintings, "--swap", "statistics").code == 2


def test_one_style_in_a_file_of_options_needs_no_list(kt: Say, collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text(f"method: adain\nstyle: {collection.paintings / '1.png'}\nsize: 64\n")
    words = ["translate", collection.photos, "--out", tmp_path / "run", "--config", tmp_path / "options.yaml"]
    assert kt(*words, "--threads", 1).code == 0


def test_a_run_without_an_output_is_one_of_sources(kt: Say, collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    words = ["translate", tmp_path / "broken.png", "--out", tmp_path / "run", "--method", "adain"]
    assert kt(*words, "--style", collection.paintings, "--size", 64, "--threads", 1).code == 3
    assert kt("inspect", tmp_path / "run", "--json").json["ncc"] is None
    assert "share" in kt("inspect", tmp_path / "run", "--sql").out
