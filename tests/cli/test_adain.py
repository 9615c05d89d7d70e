"""The method adain on the command line."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

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


def test_try_mixes_paintings_by_their_weights(kt: Say, collection: Collection, tmp_path: Path) -> None:
    one, other = collection.paintings / "1.png", collection.paintings / "2.png"
    words = ["try", collection.photos / "11.png", "--out", tmp_path / "a.png", "--size", 64, "--method", "adain"]
    said = kt(*words, "--style", f"{one}=3", "--style", other, "--json")
    assert (said.code, said.json["shares"]) == (0, {str(one): 0.75, str(other): 0.25})


def test_styles_hold_in_the_regions_of_a_mask(kt: Say, collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    mask = Image.new("L", (64, 50))
    mask.paste(1, (16, 0, 64, 50))
    mask.save(tmp_path / "masks/11.png")
    styles = ["--style", collection.paintings / "2.png", "--style", collection.paintings / "1.png", "--size", 64]
    tried = ["try", collection.photos / "11.png", "--method", "adain", *styles, "--json"]
    said = kt(*tried, "--mask", tmp_path / "masks/11.png", "--out", tmp_path / "a.png")
    assert (said.code, said.json["shares"]) == (
        0,
        {str(collection.paintings / "1.png"): 0.75, str(collection.paintings / "2.png"): 0.25},
    )
    words = ["translate", collection.photos, "--method", "adain", *styles, "--threads", 1, "--json"]
    run = kt(*words, "--mask", tmp_path / "masks", "--out", tmp_path / "run")
    assert (run.code, run.json["new_images"], run.json["rejected"]) == (3, 1, 2)
    with Image.open(tmp_path / "a.png") as one, Image.open(tmp_path / "run/images/11.png.png") as other:
        assert one.tobytes() == other.tobytes()
    pilot = kt(*words, "--mask", tmp_path / "masks", "--out", tmp_path / "new", "--dry-run", "--pilot", 3).json["pilot"]
    assert {Path(each["uri"]).name for each in pilot["rejects"]} == {"12.png", "13.png"}  # 11.png has a mask here too
    assert kt(*tried, "--regions", 2, "--out", tmp_path / "b.png").code == 0
    searched = [*tried[:3], "knowledge", *tried[4:], "--mask", tmp_path / "masks/11.png", "--out", tmp_path / "k.png"]
    assert list(kt(*searched).json["shares"].values()) == [0.7333, 0.2667]  # 11 and 4 of 15 columns of patches
    refused = kt(*tried, "--mask", tmp_path / "masks/11.png", "--regions", 2, "--out", tmp_path / "c.png")
    assert (refused.code, "give one of them" in refused.err) == (2, True)
