"""The help, the results and the output of the commands."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from kt_batch.cli.app import app
from kt_batch.models.weights import shipped
from tests.cli.conftest import KEYS, QUICK, Say
from tests.support.tiny import draw, draw_all, hashes

GROUPS = {"bench": ["growth", "models", "paper", "search"], "evaluate": ["pairs", "style"]}


def commands() -> dict[str, Any]:
    """Map the words of every command to its parser."""
    found = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for group, names in GROUPS.items():
        below = found.pop(group).commands
        assert sorted(below) == names
        found |= {f"{group} {name}": below[name] for name in names}
    return found


COMMANDS = sorted(commands())


# ---- help ----


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_a_description_and_an_example(kt: Say, command: str) -> None:
    said = kt(*command.split(), "--help")
    assert (said.code, said.err) == (0, "")
    assert f"kt-batch {command}" in said.out.split("Usage:")[1].split("\n", 1)[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_explained(command: str) -> None:
    parameters = commands()[command].params
    assert [parameter.name for parameter in parameters if not parameter.help] == []


def test_the_commands_are_those_of_the_readme() -> None:
    assert {"try", "extract", "index", "translate", "explain", "inspect", "demo", "models"} <= set(COMMANDS)


def test_without_a_command_help_is_shown_as_wrong_usage(kt: Say) -> None:
    said = kt()
    assert said.code == 2
    assert "Usage: " in said.out
    assert said.err == ""


# ---- the main job ----


def test_extract_index_translate_explain_and_inspect_each_print_one_json_object(kt: Say, tmp_path: Path) -> None:
    paintings, photo = draw_all(tmp_path / "paintings", [1, 2]), draw(tmp_path / "photo.png", 11)
    place, run = tmp_path / "library", tmp_path / "run"
    made = kt("extract", paintings, "--library", place, *QUICK, "--json").json
    assert (made["images"], made["rejected"], made["patches"]) == (2, 0, 2 * 15 * 12)
    built = kt("index", place, "--threads", 1, "--json").json
    assert (built["built"], built["patches"]) == (True, made["patches"])
    summary = kt("translate", photo, "--library", place, "--out", run, "--threads", 1, "--json").json
    assert summary.keys() >= KEYS
    assert (summary["images"], summary["rejected"], summary["patches"]) == (1, 0, 15 * 12)
    assert summary["seconds"] > 0
    assert summary["images_per_second"] > 0
    assert 0 < summary["ncc_mean"] <= 1
    found = kt("explain", run, "photo.png", "--at", "30,20", "--json").json
    assert found["contributions"]
    assert kt("inspect", run, "--json").json["images"] == 1
    assert kt("inspect", place, "--json").json["patches"] == made["patches"]


def test_without_json_the_summary_goes_to_standard_output_and_progress_does_not(
    kt: Say, library: Path, photos: Path, tmp_path: Path
) -> None:
    said = kt("translate", photos / "a.png", "--library", library, "--out", tmp_path / "run", "--threads", 1)
    assert said.code == 0
    first, *_, last = said.out.splitlines()
    assert first.startswith(f"{tmp_path / 'run'}: 1 images, 0 rejected, mean NCC 0.")
    assert last == f"  next: kt-batch explain {tmp_path / 'run'} IMAGE --at X,Y"
    assert "translate 1/1" in said.err
    assert "\x1b" not in said.out + said.err


def test_a_repeated_finished_command_reports_that_nothing_is_left_to_do(
    kt: Say, library: Path, photos: Path, tmp_path: Path
) -> None:
    translate = ["translate", photos / "a.png", "--library", library, "--out", tmp_path / "run", "--threads", 1]
    assert "nothing to do" not in kt(*translate).out
    before = hashes(tmp_path / "run")
    again = kt(*translate)
    assert (again.code, "nothing to do: everything was translated already" in again.out) == (0, True)
    paintings = library.parent / "paintings"
    assert (
        "nothing to do: everything was extracted already" in kt("extract", paintings, "--library", library, *QUICK).out
    )
    assert "nothing to do: it was built already" in kt("index", library, "--threads", 1).out
    assert hashes(tmp_path / "run") == before


def test_extract_reports_its_estimate_before_it_begins(kt: Say, tmp_path: Path) -> None:
    said = kt("extract", draw(tmp_path / "a.png", 1), "--library", tmp_path / "library", *QUICK)
    assert said.err.index("The library will take up to ") < said.err.index("extract 1/1")


# ---- try ----


def test_try_paints_a_large_picture_at_the_usual_size_first(
    kt: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photo.png", 11, 700, 40)
    draw(tmp_path / "painting.png", 1)
    patches = {}
    for size in (512, 600):
        said = kt("try", "photo.png", "--style", "painting.png", "--size", size, "--out", f"{size}.png", "--json")
        assert said.code == 0
        patches[size] = said.json["patches"]
    assert patches[512] == patches[600]
    with Image.open("512.png") as small, Image.open("600.png") as large:
        assert (small.size, large.size) == ((512, 29), (600, 34))


@pytest.mark.parametrize(
    "words",
    [
        ("adain",),
        ("patch_swap",),
        ("wct",),
        ("gatys", "--iterations", 2),
        ("gatys_refined", "--iterations", 2),
        ("ift",),
    ],
)
def test_try_takes_the_methods_with_style_images(
    kt: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photo.png", 11)
    draw(tmp_path / "painting.png", 1)
    said = kt("try", "photo.png", "--style", "painting.png", *QUICK, "--json", "--method", *words)
    assert (said.code, list(said.json["shares"].values())) == (0, [1.0])
    other = kt("try", "photo.png", "--style", "painting.png", "--method", "retouch", "--out", "other.png")
    assert other.code == 2
    assert "`try` follows paintings, and retouch does not; it takes painting, knowledge, adain" in other.err


def test_try_writes_one_picture_and_nothing_else(kt: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photo.png", 11)
    draw(tmp_path / "painting.png", 1)
    said = kt("try", "photo.png", "--style", "painting.png", *QUICK, "--json")
    assert said.code == 0
    assert (said.json["out"], list(said.json["shares"].values())) == ("photo-kt.png", [1.0])
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png", "painting.png", "photo-kt.png"}
    with Image.open("photo-kt.png") as image:
        assert image.size == (64, 50)
    assert kt("try", "photo.png", "--style", "painting.png", *QUICK, "--out", "small.jpg", "--strength", 0).code == 0
    with Image.open("small.jpg") as image:
        assert image.format == "JPEG"


# ---- models ----


def shipped_file(part: str) -> Path:
    folder = resources.files("kt_batch.models").joinpath("weights")
    return Path(str(folder)) / shipped()["kt-vgg"][part]["file"]


def test_models_lists_every_shipped_file_with_its_checksum(kt: Say) -> None:
    listed = kt("models", "--json").json["models"]
    expected = [(name, part, entry["sha256"]) for name, parts in shipped().items() for part, entry in parts.items()]
    assert sorted((part["name"], part["part"], part["sha256"]) for part in listed) == sorted(expected)
    assert all(part["sha256"][:16] in kt("models").out for part in listed)


def test_the_shipped_weights_total_at_most_24_megabytes(kt: Say) -> None:
    assert sum(part["bytes"] for part in kt("models", "--json").json["models"]) <= 24e6


def test_bench_models_prints_a_row_for_every_pair(kt: Say, tmp_path: Path) -> None:
    photos = draw_all(tmp_path / "photos", [1, 2])
    words = ["bench", "models", "--images", photos, "--size", "48", "--threads", "1"]
    words += ["--pair", f"twin,relu3_1,kt-vgg,{shipped_file('relu3_1')}", "--reference", shipped_file("encoder")]
    rows = kt(*words, "--json").json["rows"]
    assert [row["name"] for row in rows] == ["kt-vgg"] * (len(rows) - 1) + ["twin"]
    assert all(row["fidelity"]["same_patch"] == 1 for row in rows)
    printed = kt(*words)
    assert printed.code == 0
    assert printed.out.count("100.0%") == len(rows)


def test_bench_search_prints_a_row_for_every_searcher_and_draws_a_plot(kt: Say, tmp_path: Path) -> None:
    paintings, library = draw_all(tmp_path / "paintings", [1, 2]), tmp_path / "library"
    kt("extract", paintings, "--library", library, "--size", "48")
    kt("index", library)
    words = ["bench", "search", library, "--queries", draw_all(tmp_path / "photos", [3]), "--rivals", ""]
    words += ["--threads", "1", "--plot", tmp_path / "plots" / "recall.svg"]
    said = kt(*words, "--json")
    assert said.code == 0
    assert {"exact", "tree --certify", "hkm", "bhkm 1"} <= {row["searcher"] for row in said.json["rows"]}
    assert (tmp_path / "plots" / "recall.svg").read_text(encoding="utf-8").startswith("<svg")
    printed = kt(*words)
    assert printed.code == 0
    assert "recall@1" in printed.out


def test_bench_search_refuses_an_unknown_baseline(kt: Say, tmp_path: Path) -> None:
    said = kt("bench", "search", tmp_path, "--queries", tmp_path, "--rivals", "annoy")
    assert said.code == 2
    assert "'annoy'; there are ivf," in said.err


def test_bench_paper_refuses_an_unknown_layer(kt: Say, tmp_path: Path) -> None:
    words = ["--paintings", tmp_path, "--photographs", tmp_path, "--out", tmp_path]
    said = kt("bench", "paper", *words, "--layers", "relu9_9")
    assert said.code == 2
    assert "relu9_9" in said.err


def test_bench_growth_of_a_small_library_names_the_number_of_patches_it_needs(kt: Say, tmp_path: Path) -> None:
    paintings, library = draw_all(tmp_path / "paintings", [1]), tmp_path / "library"
    kt("extract", paintings, "--library", library, "--size", "48")
    kt("index", library)
    said = kt("bench", "growth", library, "--queries", paintings)
    assert said.code == 2
    assert "growth needs at least 262144" in said.err


def test_only_the_tree_and_exact_searchers_can_certify(kt: Say, tmp_path: Path) -> None:
    paintings, library = draw_all(tmp_path / "paintings", [1]), tmp_path / "library"
    kt("extract", paintings, "--library", library, "--size", "48")
    kt("index", library)
    words = ["translate", paintings, "--library", library, "--out", tmp_path / "run", "--certify"]
    said = kt(*words, "--searcher", "hkm")
    assert said.code == 2
    assert "certify is for the searchers tree and exact" in said.err
    assert kt(*words).code == 0


@pytest.mark.parametrize("by_file", [False, True])
def test_the_former_name_of_a_searcher_continues_the_same_run(kt: Say, tmp_path: Path, by_file: bool) -> None:
    paintings, library = draw_all(tmp_path / "paintings", [1]), tmp_path / "library"
    kt("extract", paintings, "--library", library, "--size", "48")
    kt("index", library)
    words = ["translate", paintings, "--library", library, "--out", tmp_path / "run", "--json"]
    first = kt(*words).json
    (tmp_path / "options.yaml").write_text("searcher: ours\n")
    again = kt(*words, *(["--config", tmp_path / "options.yaml"] if by_file else ["--searcher", "ours"]))
    assert (first["new_images"], again.code, again.json["new_images"], again.json["images"]) == (1, 0, 0, 1)


def test_a_pair_at_a_layer_that_is_not_a_cut_point_is_wrong_usage(kt: Say, tmp_path: Path) -> None:
    photos = draw_all(tmp_path / "photos", [1])
    said = kt("bench", "models", "--images", photos, "--pair", "x,relu9_9,kt-vgg,y")
    assert said.code == 2
    assert "relu9_9" in said.err


def test_a_pair_that_lacks_a_part_is_wrong_usage(kt: Say, tmp_path: Path) -> None:
    said = kt("bench", "models", "--images", draw_all(tmp_path / "photos", [1]), "--pair", "x,relu3_1")
    assert said.code == 2
    assert "NAME,LAYER,ENCODER,DECODER" in said.err


def test_verify_prints_only_the_digest_on_request_when_there_is_no_fault(
    kt: Say, library: Path, tmp_path: Path
) -> None:
    digest = kt("verify", library, "--json").json["digest"]
    assert kt("verify", library, "--digest").out == f"{digest}\n"
    copy = shutil.copytree(library, tmp_path / "copy")
    next((copy / "patches").iterdir()).unlink()
    said = kt("verify", copy, "--digest")
    assert said.code == 1
    assert ": 1 fault\n" in said.out
