"""The command line and the jobs: what they print, where they print it, and the code they end with."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer
import yaml
from PIL import Image

import kt_batch.cli
from kt_batch.cli import app, parse_clusters, parse_pixel
from kt_batch.errors import UsageError
from kt_batch.models.weights import shipped
from kt_batch.options import ConfigFile, Size
from kt_batch.pipelines.translate import translate
from kt_batch.start import allowed_rejects, job_code, new_encoder, run_app
from tests.tiny import draw, draw_all, hashes

JOBS = Path(__file__).resolve().parent.parent / "jobs"
GROUPS = {"bench": ["models"]}


def commands() -> dict[str, Any]:
    """Every command by the words it is called with."""
    found = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for group, names in GROUPS.items():
        below = found.pop(group).commands
        assert sorted(below) == names
        found |= {f"{group} {name}": below[name] for name in names}
    return found


COMMANDS = sorted(commands())
QUICK = ["--threads", "1", "--size", "64"]
KEYS = {"images", "rejected", "patches", "seconds", "images_per_second", "ncc_mean"}


@dataclass(frozen=True)
class Said:
    """What a command ended with and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which must be one JSON object and nothing else."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        assert self.out.count("\n") == 1
        return found


Say = Callable[..., Said]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def kt(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run `kt-batch` in this process."""

    def run(*words: object, of: typer.Typer = app) -> Said:
        capsys.readouterr()
        code = run_app(of, [str(word) for word in words])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two paintings, extracted and indexed by the commands."""
    root = tmp_path_factory.mktemp("cli")
    place = root / "library"
    assert run_app(app, ["extract", str(draw_all(root / "paintings", [1, 2])), "--library", str(place), *QUICK]) == 0
    assert run_app(app, ["index", str(place), "--threads", "1"]) == 0
    return place


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """One good photograph and one that is none."""
    draw(tmp_path / "photos/a.png", 11)
    (tmp_path / "photos/bad.jpg").write_bytes(b"no image")
    return tmp_path / "photos"


def job(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"jobs_{name}", JOBS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does_and_gives_an_example(kt: Say, command: str) -> None:
    said = kt(*command.split(), "--help")
    assert (said.code, said.err) == (0, "")
    assert f"kt-batch {command}" in said.out.split("Usage:")[1].split("\n", 1)[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_explained(command: str) -> None:
    parameters = commands()[command].params
    assert [parameter.name for parameter in parameters if not parameter.help] == []


def test_the_commands_are_those_of_the_readme() -> None:
    assert {"try", "extract", "index", "translate", "explain", "inspect", "demo", "models"} <= set(COMMANDS)


def test_without_a_command_the_help_is_shown_as_wrong_usage(kt: Say) -> None:
    said = kt()
    assert said.code == 2
    assert "Usage: " in said.out
    assert said.err == ""


# ---- the main job ----------------------------------------------------------------------------------------------------


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


def test_for_a_person_the_summary_is_lines_on_standard_output_and_progress_is_not(
    kt: Say, library: Path, photos: Path, tmp_path: Path
) -> None:
    said = kt("translate", photos / "a.png", "--library", library, "--out", tmp_path / "run", "--threads", 1)
    assert said.code == 0
    first, *_, last = said.out.splitlines()
    assert first.startswith(f"{tmp_path / 'run'}: 1 images, 0 rejected, mean NCC 0.")
    assert last == f"  next: kt-batch explain {tmp_path / 'run'} IMAGE --at X,Y"
    assert "translate 1/1" in said.err
    assert "\x1b" not in said.out + said.err


def test_a_finished_command_started_again_says_that_there_is_nothing_to_do(
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


def test_extract_says_what_it_will_take_before_it_begins(kt: Say, tmp_path: Path) -> None:
    said = kt("extract", draw(tmp_path / "a.png", 1), "--library", tmp_path / "library", *QUICK)
    assert said.err.index("The library will take up to ") < said.err.index("extract 1/1")


# ---- codes -----------------------------------------------------------------------------------------------------------


def test_rejects_end_with_3_and_are_counted(kt: Say, library: Path, photos: Path, tmp_path: Path) -> None:
    said = kt("translate", photos, "--library", library, "--out", tmp_path / "run", "--threads", 1, "--json")
    assert (said.code, said.json["images"], said.json["rejected"]) == (3, 1, 1)
    assert "1 rejected" in said.err
    said = kt("extract", photos, "--library", tmp_path / "library", *QUICK, "--json")
    assert (said.code, said.json["images"], said.json["rejected"]) == (3, 1, 1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["extract"], "Missing argument 'images'."),
        (["extract", "{photos}/a.png"], "Missing option '--library'."),
        (["nonsense"], "No such command 'nonsense'."),
        (["extract", "{photos}", "--library", "{new}", "--size", "banana"], "--size"),
        (["extract", "{photos}", "--library", "{new}", "--size", "1"], "size got 1"),
        (["extract", "{photos}", "--library", "{new}", "--colour", "1"], "No such option"),
        (["extract", "{photos}", "--library", "ftp://somewhere"], "scheme ftp://"),
        (["extract", "{photos}/none", "--library", "{new}"], "does not exist"),
        (["extract", "{photos}", "--library", "{new}", "--encoder", "vgg18"], "no encoder 'vgg18'"),
        (["extract", "{photos}", "--library", "{new}", "--threads", "0"], "threads got 0"),
        (["index", "{library}", "--clusters", "3,x"], "--clusters is a list"),
        (["index", "{library}", "--max-leaf", "2"], "max_leaf got 2"),
        (["translate", "{photos}", "--library", "{library}", "--out", "{new}", "--alpha", "2"], "alpha got 2.0"),
        (["translate", "{photos}", "--library", "{library}", "--out", "{new}", "--top-k", "0"], "top_k got 0"),
        (["translate", "{photos}", "--library", "{library}", "--out", "{new}", "--swap", "x"], "--swap"),
        (["explain", "{library}", "a.png", "--at", "1;2"], "--at is a pixel such as 120,80, not '1;2'"),
        (["try", "{photos}/a.png", "--style", "{photos}/a.png", "--out", "x.bmp"], "must end in .png, .jpg or .webp"),
        (["try", "{photos}/a.png", "--style", "{photos}/a.png", "--out", "{new}/x.png"], "no directory that exists"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_sentence(
    kt: Say, library: Path, photos: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    said = kt(*(word.format(photos=photos, library=library, new=tmp_path / "new") for word in words))
    assert (said.code, said.out) == (2, "")
    assert sentence in said.err
    assert said.err.startswith("kt-batch: ")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("there", "sentence"), [(True, "holds no images"), (False, "does not exist")])
def test_an_empty_directory_and_none_at_all_are_wrong_usage(
    kt: Say, tmp_path: Path, there: bool, sentence: str
) -> None:
    if there:
        (tmp_path / "in").mkdir()
    said = kt("extract", tmp_path / "in", "--library", tmp_path / "library")
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith(f"kt-batch: '{tmp_path / 'in'}' {sentence}")
    assert not (tmp_path / "library").exists()


def test_a_failure_ends_with_1_and_one_sentence(kt: Say, library: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    none = tmp_path / "none"
    good = photos / "a.png"
    for words, sentence in [
        (["index", none], "is not a knowledge library"),
        (["translate", good, "--library", none, "--out", tmp_path / "run"], "is not a knowledge library"),
        (["translate", good, "--library", library, "--out", tmp_path / "run", "--index", "ffff"], "0 indexes 'ffff'"),
        (["extract", good, "--library", tmp_path / "file/library", *QUICK], "cannot write"),
        (["extract", good, "--library", library, *QUICK, "--stride", "2"], "stride (1 there, 2 here)"),
        (["extract", good, "--library", tmp_path / "new", "--encoder-weights", none], "cannot be read"),
        (["inspect", none], "none"),
        (["try", photos / "bad.jpg", "--style", good, "--out", tmp_path / "x.png"], "bad.jpg' cannot be used"),
    ]:
        said = kt(*words)
        assert (said.code, said.out) == (1, ""), words
        assert sentence in said.err
        assert said.err.splitlines()[-1].startswith("kt-batch: ")
        assert "Traceback" not in said.err


def test_a_bug_is_one_sentence_and_with_debug_a_traceback_too(
    kt: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(kt_batch.cli, "inspect", broken)
    said = kt("inspect", tmp_path)
    assert (said.code, said.err) == (1, "kt-batch: internal error, ZeroDivisionError: a bug (--debug shows where)\n")
    said = kt("inspect", "--debug", tmp_path)
    assert said.code == 1
    assert said.err.startswith("Traceback (most recent call last)")
    assert "in broken" in said.err


def test_debug_may_stand_anywhere(kt: Say, tmp_path: Path) -> None:
    for words in (["--debug", "inspect", tmp_path / "none"], ["inspect", tmp_path / "none", "--debug"]):
        assert "Traceback (most recent call last)" in kt(*words).err


def test_an_interrupt_ends_with_1_and_says_how_to_go_on(
    kt: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(kt_batch.cli, "inspect", interrupted)
    said = kt("inspect", tmp_path)
    assert (said.code, "start the same command again to go on" in said.err) == (1, True)


def test_weights_and_cache_mean_the_same_to_a_worker_in_another_directory(
    kt: Say, library: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = resources.files("kt_batch.models") / "weights"
    entry = shipped()["kt-vgg"]
    for part in ("encoder", "relu3_1"):
        (tmp_path / part).write_bytes((folder / entry[part]["file"]).read_bytes())
    jobs: list[Any] = []

    def watched(images: Any, job: Any, *rest: Any) -> Any:
        jobs.append(job)
        return translate(images, job, *rest)

    monkeypatch.setattr(kt_batch.cli, "translate", watched)
    monkeypatch.chdir(tmp_path)
    words = ["--encoder-weights", "encoder", "--decoder-weights", "relu3_1", "--cache-dir", "cache", "--threads", 1]
    assert kt("translate", photos / "a.png", "--library", library, "--out", "run", *words).code == 0
    (job,) = jobs
    places = (job.source.path, job.decoder_path, job.cache, job.run)
    assert places == tuple(str(tmp_path / name) for name in ("encoder", "relu3_1", "cache", "run"))
    source, _ = new_encoder("kt-vgg", "encoder", "relu3_1", 64)
    assert source.path == str(tmp_path / "encoder")


# ---- a file of options -----------------------------------------------------------------------------------------------


def test_options_may_stand_in_a_file_and_those_given_win(kt: Say, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    options = tmp_path / "options.yaml"
    options.write_text(yaml.safe_dump({"size": 32, "max-patches": 7, "unit_size": 1, "threads": 1, "tag": ["x", "y"]}))
    extract = ["extract", tmp_path / "a.png", "--config", options, "--json"]
    assert kt(*extract, "--library", tmp_path / "one").json["patches"] == 7
    assert kt(*extract, "--library", tmp_path / "two", "--max-patches", 5).json["patches"] == 5
    config = kt("inspect", tmp_path / "one", "--json").json
    assert (config["size"], config["images"]) == (32, 1)


def test_the_options_of_a_command_lie_beside_its_output_and_are_accepted_again(
    kt: Say, library: Path, photos: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = kt("translate", photos / "a.png", "--library", library, "--out", run, "--threads", 1, "--alpha", 0.5)
    assert first.code == 0
    (saved,) = (run / "options").iterdir()
    content = yaml.safe_load(saved.read_text())
    assert (content["alpha"], content["images"], content["swap"]) == (0.5, [str(photos / "a.png")], "geometric")
    again = kt("translate", "--config", saved)
    assert (again.code, "nothing to do" in again.out) == (0, True)
    moved = kt("translate", "--config", saved, "--out", tmp_path / "other")
    assert (moved.code, hashes(tmp_path / "other", "images")) == (0, hashes(run, "images"))
    for command, place in (("extract", library), ("index", library)):
        (saved,) = (place / "options").glob(f"{command}-*.yaml")
        assert "nothing to do" in kt(command, "--config", saved).out


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("colour: red", "unknown option 'colour'"),
        ("- a\n- b", "holds no mapping"),
        ("a: [", "cannot be read as YAML"),
        ("size: banana", "size"),
        ("config: other.yaml", "unknown option 'config'"),
        ("help: true", "unknown option 'help'"),
    ],
)
def test_a_file_of_options_that_makes_no_sense_is_refused(
    kt: Say, photos: Path, tmp_path: Path, text: str, sentence: str
) -> None:
    options = tmp_path / "options.yaml"
    options.write_text(text)
    said = kt("extract", photos / "a.png", "--library", tmp_path / "new", "--config", options)
    assert said.code == 2
    assert sentence in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "new").exists()


def test_a_file_of_options_that_is_not_there_is_refused(kt: Say, photos: Path, tmp_path: Path) -> None:
    said = kt("extract", photos / "a.png", "--library", tmp_path / "new", "--config", tmp_path / "none.yaml")
    assert (said.code, "none.yaml" in said.err) == (2, True)


def test_yaml_that_would_build_objects_is_refused(kt: Say, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text(f"size: !!python/object/apply:pathlib.Path.touch ['{tmp_path / 'owned'}']")
    assert kt("extract", photos / "a.png", "--library", tmp_path / "new", "--config", tmp_path / "evil.yaml").code == 2
    assert not (tmp_path / "owned").exists()


# ---- try -------------------------------------------------------------------------------------------------------------


def test_try_makes_one_picture_and_nothing_else(kt: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "photo.png", 11)
    draw(tmp_path / "painting.png", 1)
    said = kt("try", "photo.png", "--style", "painting.png", *QUICK, "--json")
    assert said.code == 0
    assert (said.json["out"], list(said.json["shares"].values())) == ("photo-kt.png", [1.0])
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png", "painting.png", "photo-kt.png"}
    with Image.open("photo-kt.png") as image:
        assert image.size == (64, 50)
    assert kt("try", "photo.png", "--style", "painting.png", *QUICK, "--out", "small.jpg", "--alpha", 0).code == 0
    with Image.open("small.jpg") as image:
        assert image.format == "JPEG"


# ---- jobs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Three good paintings and one file that is none."""
    draw_all(tmp_path / "mixed", [1, 2, 3])
    (tmp_path / "mixed/bad.jpg").write_bytes(b"no image")
    return tmp_path / "mixed"


@pytest.mark.parametrize(
    ("bounds", "code"),
    [
        ([], 0),
        (["--max-rejects", "1"], 0),
        (["--max-rejects", "0"], 1),
        (["--max-rejects", "25%"], 0),
        (["--max-rejects", "24%"], 1),
        (["--strict"], 3),
    ],
)
def test_a_job_ends_with_0_while_rejects_stay_within_bounds(
    kt: Say, mixed: Path, tmp_path: Path, bounds: list[str], code: int
) -> None:
    build = job("build_library").app
    arguments = [mixed, "--library", tmp_path / "library", *QUICK, "--runner", "local", "--max-patches", "30", "--json"]
    said = kt(*arguments, *bounds, of=build)
    assert said.code == code
    assert (said.json["extract"]["rejected"], said.json["index"]["patches"]) == (1, 90)


def test_the_jobs_do_what_the_commands_do(kt: Say, library: Path, photos: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    common = [photos, "--library", library, "--threads", 1, "--json"]
    assert kt("translate", *common, "--out", one).code == 3
    said = kt(*common, "--out", other, "--runner", "local", of=job("translate").app)
    assert (said.code, said.json.keys() >= KEYS) == (0, True)
    assert hashes(one, "images") == hashes(other, "images")
    assert [path.name.split("-")[0] for path in (other / "options").iterdir()] == ["translate"]
    said = kt(*common, "--out", other, "--runner", "local", "--strict", of=job("translate").app)
    assert said.code == 3


@pytest.mark.parametrize("name", ["build_library", "translate"])
def test_a_bound_that_makes_no_sense_is_refused_before_the_work(
    kt: Say, library: Path, photos: Path, tmp_path: Path, name: str
) -> None:
    words = [photos, "--library", library if name == "translate" else tmp_path / "new", "--max-rejects", "few"]
    words += ["--out", tmp_path / "new"] if name == "translate" else []
    said = kt(*words, "--runner", "local", of=job(name).app)
    assert (said.code, "--max-rejects is a number or a percentage" in said.err) == (2, True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("text", "total", "allowed"), [("12", 5, 12), ("5%", 200, 10), ("0", 9, 0), ("100%", 3, 3)])
def test_bounds_are_numbers_or_shares(text: str, total: int, allowed: float) -> None:
    assert allowed_rejects(text, total) == allowed


@pytest.mark.parametrize("text", ["", "%", "-1", "nan", "inf", "five", "5%%"])
def test_other_bounds_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        allowed_rejects(text, 10)


def test_the_code_of_a_job() -> None:
    assert [job_code(n, 10, "20%", strict=False) for n in (0, 2, 3)] == [0, 0, 1]
    assert [job_code(n, 10, "20%", strict=True) for n in (0, 1, 3)] == [0, 3, 3]


# ---- small parts -----------------------------------------------------------------------------------------------------


def test_pixels_and_clusters_are_read() -> None:
    assert parse_pixel("120, 80") == (120, 80)
    assert parse_clusters("64,16") == (64, 16)
    assert parse_clusters(None) == ()
    for text in ("", "1", "1,2,3", "-1,2", "a,b", "1.5,2"):
        with pytest.raises(UsageError, match="--at is a pixel"):
            parse_pixel(text)
    for text in ("", "0", "1,", "-3", "²"):
        with pytest.raises(UsageError, match="--clusters is a list"):
            parse_clusters(text)


def test_a_command_of_anyones_takes_a_file_of_options(kt: Say, tmp_path: Path) -> None:
    small = typer.Typer(add_completion=False)

    @small.command()
    def show(size: Size = 5, config: ConfigFile = None) -> int:
        typer.echo(size)
        return 0

    (tmp_path / "a.yaml").write_text("size: 9\n")
    (tmp_path / "empty.yaml").write_text("")
    assert kt("--config", tmp_path / "a.yaml", of=small).out == "9\n"
    assert kt("--config", tmp_path / "empty.yaml", of=small).out == "5\n"


# ---- models ----------------------------------------------------------------------------------------------------------


def test_models_lists_every_shipped_file_with_its_checksum(kt: Say) -> None:
    listed = kt("models", "--json").json["models"]
    expected = [(name, part, entry["sha256"]) for name, parts in shipped().items() for part, entry in parts.items()]
    assert sorted((part["name"], part["part"], part["sha256"]) for part in listed) == sorted(expected)
    assert all(part["sha256"][:16] in kt("models").out for part in listed)


def test_all_shipped_weights_together_are_at_most_24_megabytes(kt: Say) -> None:
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


def test_a_pair_at_a_layer_that_is_no_cut_point_is_wrong_usage(kt: Say, tmp_path: Path) -> None:
    photos = draw_all(tmp_path / "photos", [1])
    said = kt("bench", "models", "--images", photos, "--pair", "x,relu9_9,kt-vgg,y")
    assert said.code == 2
    assert "relu9_9" in said.err


def test_a_pair_that_lacks_a_part_is_wrong_usage(kt: Say, tmp_path: Path) -> None:
    said = kt("bench", "models", "--images", draw_all(tmp_path / "photos", [1]), "--pair", "x,relu3_1")
    assert said.code == 2
    assert "NAME,LAYER,ENCODER,DECODER" in said.err


def shipped_file(part: str) -> Path:
    folder = resources.files("kt_batch.models").joinpath("weights")
    return Path(str(folder)) / shipped()["kt-vgg"][part]["file"]
