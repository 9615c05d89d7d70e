"""Options of libraries that hold several keys or pictures, and the presets of `extract`."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import build_library
from kt_batch.store.library import Library
from kt_batch.store.opening import open_library
from tests.cli.conftest import Say
from tests.support.pairs import draw_pairs
from tests.support.tiny import draw_all

ONE = ("--threads", "1")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return draw_all(tmp_path / "pictures", [1, 2])


def opened(place: Path) -> Library:
    return open_library(str(place))


def test_the_preset_painting_keeps_relu4_1_at_512_and_the_pictures(kt: Say, pictures: Path, tmp_path: Path) -> None:
    assert kt("extract", pictures, "--library", tmp_path / "lib", "--preset", "painting", *ONE).code == 0
    config = opened(tmp_path / "lib").config
    assert (str(config.base), config.keep_images, config.also) == ("relu4_1@512", True, ())


@pytest.mark.parametrize("how", ["command line", "file"])
def test_options_beside_a_preset_win(kt: Say, pictures: Path, tmp_path: Path, how: str) -> None:
    words: tuple[object, ...] = ("--layer", "relu3_1", "--no-keep-images")
    if how == "file":
        (tmp_path / "options.yaml").write_text("layer: relu3_1\nkeep-images: false\n")
        words = ("--config", tmp_path / "options.yaml")
    assert kt("extract", pictures, "--library", tmp_path / "lib", "--preset", "painting", *words, *ONE).code == 0
    config = opened(tmp_path / "lib").config
    assert (str(config.base), config.keep_images) == ("relu3_1@512", False)


def test_the_saved_options_of_a_preset_continue_the_library(kt: Say, pictures: Path, tmp_path: Path) -> None:
    assert kt("extract", pictures, "--library", tmp_path / "lib", "--preset", "painting", *ONE).code == 0
    (saved,) = (tmp_path / "lib/options").iterdir()
    assert {"layer: relu4_1", "keep_images: true", "size: 512"} <= set(saved.read_text().splitlines())
    said = kt("extract", "--config", saved, "--trust-config")
    assert (said.code, "nothing to do" in said.out) == (0, True)


def test_an_unknown_preset_is_wrong_usage(kt: Say, pictures: Path, tmp_path: Path) -> None:
    said = kt("extract", pictures, "--library", tmp_path / "lib", "--preset", "monet")
    assert (said.code, said.err) == (2, "kt-batch: There is no preset 'monet' of extract; there is painting.\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--also", "relu4_1"), "'relu4_1' is no layer@scale such as relu4_1@256"),
        (("--also", "relu3_1@512"), "the key relu3_1@512 stands twice"),
    ],
    ids=["no key", "the base key"],
)
def test_a_further_key_that_is_none_is_wrong_usage(
    kt: Say, pictures: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    said = kt("extract", pictures, "--library", tmp_path / "lib", *words)
    assert said.code == 2
    assert message in said.err
    assert not (tmp_path / "lib").exists()


@pytest.mark.parametrize(
    "words", [("--keep-images",), ("--also", "relu4_1@256"), ("--preset", "painting"), ("--gpus", "1")]
)
def test_these_options_have_no_effect_on_pairs(kt: Say, tmp_path: Path, words: tuple[str, ...]) -> None:
    before, after = draw_pairs(tmp_path, [1])
    said = kt("extract", "--before", before, "--after", after, "--library", tmp_path / "lib", *words)
    assert said.code == 2
    assert "has no effect on pairs" in said.err


def test_an_index_and_statistics_at_a_key_say_which(kt: Say, pictures: Path, tmp_path: Path) -> None:
    place, key = tmp_path / "lib", "relu4_1@32"
    assert kt("extract", pictures, "--library", place, "--size", 64, "--also", key, *ONE).code == 0
    said = kt("index", place, "--at", key, *ONE)
    assert said.code == 0
    assert f" of {key}, built in" in said.out
    assert kt("index", place, "--at", key, *ONE, "--json").json["key"] == key
    assert f" of {key}, computed in" in kt("statistics", place, "--at", key, *ONE).out
    said = kt("index", place, "--at", "relu2_1@32", *ONE)
    assert (said.code, "keeps those at relu3_1@64, relu4_1@32" in said.err) == (2, True)


def test_the_job_builds_an_index_for_every_key(kt: Say, pictures: Path, tmp_path: Path) -> None:
    words = [pictures, "--library", tmp_path / "lib", "--size", 64, "--also", "relu4_1@32", "--runner", "local", *ONE]
    said = kt(*words, "--json", of=build_library.load_app())
    assert said.code == 0
    assert (said.json["index"]["key"], list(said.json["further_indexes"])) == ("relu3_1@64", ["relu4_1@32"])


def test_a_dry_run_counts_further_keys_and_pictures(kt: Say, pictures: Path, tmp_path: Path) -> None:
    words = ("extract", pictures, "--library", tmp_path / "lib", "--size", 64, "--dry-run", "--json")
    plain, more = (
        kt(*words, *options).json["output_bytes_at_most"] for options in ((), ("--keep-images", "--also", "relu3_1@32"))
    )
    assert more - plain > 2 * 64 * 64 * 3
