"""Options from the command line or a file, and final exit codes and messages."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
import yaml

import kt_batch.cli.inspection
import kt_batch.cli.translate
from kt_batch.cli.config_file import ConfigFile
from kt_batch.cli.inspection import parse_pixel
from kt_batch.cli.options import CutOptions, EncoderOptions, new_encoder, parse_clusters
from kt_batch.errors import UsageError
from kt_batch.models.weights import shipped
from kt_batch.pipelines.translate.finish import translate
from kt_batch.store.locations import absolute_place
from tests.cli.conftest import QUICK, Say
from tests.support.tiny import draw, hashes

# ---- codes ----


def test_rejects_end_with_3_and_are_counted(kt: Say, library: Path, photos: Path, tmp_path: Path) -> None:
    said = kt("translate", photos, "--library", library, "--out", tmp_path / "run", "--threads", 1, "--json")
    assert (said.code, said.json["images"], said.json["rejected"]) == (3, 1, 1)
    assert "1 rejected" in said.err
    said = kt("extract", photos, "--library", tmp_path / "library", *QUICK, "--json")
    assert (said.code, said.json["images"], said.json["rejected"]) == (3, 1, 1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["extract"], "Missing option '--library'."),
        (["extract", "--library", "{new}"], "no images were given"),
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
        (
            ["translate", "{photos}", "--library", "{library}", "--out", "{new}", "--temperature", "inf"],
            "finite number",
        ),
        (["translate", "{photos}", "--library", "{library}", "--out", "{new}", "--swap", "x"], "--swap"),
        (["translate", "{photos}", "--library", "{library}", "--out", "{new}", "--searcher", "x"], "searcher got 'x'"),
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
def test_an_empty_and_a_missing_directory_are_wrong_usage(kt: Say, tmp_path: Path, there: bool, sentence: str) -> None:
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


def test_a_bug_is_one_sentence_and_with_debug_also_a_traceback(
    kt: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(kt_batch.cli.inspection, "inspect", broken)
    said = kt("inspect", tmp_path)
    assert (said.code, said.err) == (1, "kt-batch: internal error, ZeroDivisionError: a bug (--debug shows where)\n")
    said = kt("inspect", "--debug", tmp_path)
    assert said.code == 1
    assert said.err.startswith("Traceback (most recent call last)")
    assert "in broken" in said.err


def test_debug_may_appear_anywhere_on_the_command_line(kt: Say, tmp_path: Path) -> None:
    for words in (["--debug", "inspect", tmp_path / "none"], ["inspect", tmp_path / "none", "--debug"]):
        assert "Traceback (most recent call last)" in kt(*words).err


def test_an_interrupt_ends_with_130_and_explains_how_to_continue(
    kt: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(kt_batch.cli.inspection, "inspect", interrupted)
    said = kt("inspect", tmp_path)
    sentence = "kt-batch: interrupted; what is finished is kept, start the same command again to go on.\n"
    assert (said.code, said.err) == (130, sentence)


def test_relative_weights_and_cache_resolve_for_a_worker_in_another_directory(
    kt: Say, library: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = resources.files("kt_batch.models") / "weights"
    entry = shipped()["kt-vgg"]
    for part in ("encoder", "relu3_1"):
        (tmp_path / part).write_bytes((folder / entry[part]["file"]).read_bytes())
    jobs: list[Any] = []

    def watched(request: Any, *rest: Any) -> Any:
        jobs.append(request)
        return translate(request, *rest)

    monkeypatch.setattr(kt_batch.cli.translate, "translate", watched)
    monkeypatch.chdir(tmp_path)
    words = ["--encoder-weights", "encoder", "--decoder-weights", "relu3_1", "--cache-dir", "cache", "--threads", 1]
    assert kt("translate", photos / "a.png", "--library", library, "--out", "run", *words).code == 0
    (job,) = jobs
    places = (job.sources.encoder.path, job.sources.decoder, job.sources.cache, absolute_place(job.run))
    assert places == tuple(str(tmp_path / name) for name in ("encoder", "relu3_1", "cache", "run"))
    source, _ = new_encoder(EncoderOptions(encoder_weights="encoder"), CutOptions(size=64))
    assert source.path == str(tmp_path / "encoder")


# ---- a file of options ----


def test_options_may_come_from_a_file_and_command_line_options_override_them(kt: Say, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    options = tmp_path / "options.yaml"
    options.write_text(yaml.safe_dump({"size": 32, "max-patches": 7, "unit_size": 1, "threads": 1, "tag": ["x", "y"]}))
    extract = ["extract", tmp_path / "a.png", "--config", options, "--json"]
    assert kt(*extract, "--library", tmp_path / "one").json["patches"] == 7
    assert kt(*extract, "--library", tmp_path / "two", "--max-patches", 5).json["patches"] == 5
    config = kt("inspect", tmp_path / "one", "--json").json
    assert (config["size"], config["images"]) == (32, 1)


def test_the_options_saved_with_the_output_are_accepted_again(
    kt: Say, library: Path, photos: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = kt("translate", photos / "a.png", "--library", library, "--out", run, "--threads", 1, "--alpha", 0.5)
    assert first.code == 0
    (saved,) = (run / "options").iterdir()
    content = yaml.safe_load(saved.read_text())
    assert (content["alpha"], content["images"], content["swap"]) == (0.5, [str(photos / "a.png")], "geometric")
    again = kt("translate", "--config", saved, "--trust-config")
    assert (again.code, "nothing to do" in again.out) == (0, True)
    moved = kt("translate", "--config", saved, "--out", tmp_path / "other")
    assert (moved.code, hashes(tmp_path / "other", "images")) == (0, hashes(run, "images"))
    for command, place in (("extract", library), ("index", library)):
        (saved,) = (place / "options").glob(f"{command}-*.yaml")
        assert "nothing to do" in kt(command, "--config", saved, "--trust-config").out


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
def test_an_invalid_file_of_options_is_refused(kt: Say, photos: Path, tmp_path: Path, text: str, sentence: str) -> None:
    options = tmp_path / "options.yaml"
    options.write_text(text)
    said = kt("extract", photos / "a.png", "--library", tmp_path / "new", "--config", options)
    assert said.code == 2
    assert sentence in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "new").exists()


def test_a_missing_file_of_options_is_refused(kt: Say, photos: Path, tmp_path: Path) -> None:
    said = kt("extract", photos / "a.png", "--library", tmp_path / "new", "--config", tmp_path / "none.yaml")
    assert (said.code, "none.yaml" in said.err) == (2, True)


def test_yaml_that_would_build_objects_is_refused(kt: Say, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text(f"size: !!python/object/apply:pathlib.Path.touch ['{tmp_path / 'owned'}']")
    assert kt("extract", photos / "a.png", "--library", tmp_path / "new", "--config", tmp_path / "evil.yaml").code == 2
    assert not (tmp_path / "owned").exists()


# ---- small parts ----


def test_pixels_and_clusters_are_parsed() -> None:
    assert parse_pixel("120, 80") == (120, 80)
    assert parse_clusters("64,16") == (64, 16)
    for text in ("", "1", "1,2,3", "-1,2", "a,b", "1.5,2"):
        with pytest.raises(UsageError, match="--at is a pixel"):
            parse_pixel(text)
    for text in ("", "0", "1,", "-3", "²"):
        with pytest.raises(UsageError, match="--clusters is a list"):
            parse_clusters(text)


def test_any_argument_parser_can_take_a_file_of_options(kt: Say, tmp_path: Path) -> None:
    small = typer.Typer(add_completion=False)

    @small.command()
    def show(size: Annotated[int, typer.Option("--size")] = 5, config: ConfigFile = None) -> int:
        typer.echo(size)
        return 0

    (tmp_path / "a.yaml").write_text("size: 9\n")
    (tmp_path / "empty.yaml").write_text("")
    assert kt("--config", tmp_path / "a.yaml", of=small).out == "9\n"
    assert kt("--config", tmp_path / "empty.yaml", of=small).out == "5\n"
