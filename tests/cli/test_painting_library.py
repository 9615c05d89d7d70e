"""A library for paintings by the commands: the index that it gets, and the index that a painting takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from kt_batch.errors import UsageError
from kt_batch.methods.painting.levels import LAYERS
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.translate.library_images import load_decoders
from kt_batch.store.indexes import read_index_summaries
from kt_batch.store.names import in_command
from kt_batch.store.opening import open_library, open_run
from kt_batch.store.run import Run
from tests.cli.conftest import Say
from tests.support.tiny import draw, draw_all

ONE = ("--threads", "1")
CENTRED, RAW = ("--match-space", "centred"), ("--match-space", "raw")
PAINTING = ("--preset", "painting", *ONE)


@pytest.fixture
def library(kt: Say, tmp_path: Path) -> Path:
    """Two paintings, extracted for paintings and not indexed."""
    place = tmp_path / "my lib"
    words = ("--library", place, "--preset", "painting", "--size", 64, *ONE)
    assert kt("extract", draw_all(tmp_path / "paintings", [1, 2]), *words).code == 0
    return place


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return draw(tmp_path / "photo.png", 11)


def command_in(message: str) -> list[str]:
    """Return the words after `kt-batch` of the command that a message ends with."""
    return shlex.split(message.strip().rpartition("kt-batch ")[2])


def searched(run: Path) -> str | None:
    """Return the digest of the index that a run searched."""
    opened = open_run(str(run))
    assert isinstance(opened, Run)
    return str(opened.committed.config["index_digest"])


def test_a_library_for_paintings_gets_a_centred_index_without_an_option(
    kt: Say, library: Path, photo: Path, tmp_path: Path
) -> None:
    said = kt("index", library, *ONE)
    assert re.search(r"[0-9,]+ centred patches", said.out)
    assert f"next: kt-batch translate PHOTOS --library '{library}' --preset painting --out RUN" in said.out
    assert kt("index", library, *CENTRED, *ONE, "--json").json["built"] is False
    assert kt("translate", photo, "--library", library, "--out", tmp_path / "run", *PAINTING).code == 0


def test_other_libraries_and_keys_get_a_raw_index_without_an_option(kt: Say, tmp_path: Path) -> None:
    words = (
        "--library",
        tmp_path / "lib",
        "--size",
        64,
        "--also",
        "relu4_1@64",
        "--also",
        "relu4_1@32",
        "--keep-images",
    )
    assert kt("extract", draw_all(tmp_path / "paintings", [1, 2]), *words, *ONE).code == 0
    for key, space in (("relu3_1@64", "raw"), ("relu4_1@64", "centred"), ("relu4_1@32", "raw")):
        said = kt("index", tmp_path / "lib", "--at", key, *ONE, "--json").json
        assert (said["match_space"], said["for_painting"]) == (space, space == "centred")
    assert kt("index", tmp_path / "lib", "--at", "relu4_1@64", *RAW, *ONE, "--json").json["match_space"] == "raw"


@pytest.mark.parametrize("named", [True, False])
def test_a_painting_refuses_a_raw_index_and_names_the_command_that_helps(
    kt: Say, library: Path, photo: Path, tmp_path: Path, named: bool
) -> None:
    digest = kt("index", library, *RAW, *ONE, "--json").json["index"]
    words = ("translate", photo, "--library", library, "--out", tmp_path / "run", *PAINTING)
    said = kt(*words, *(("--index", digest) if named else ()))
    assert said.code == 1
    assert f"The index {digest} of '{library.as_uri()}' is raw, and this method needs a centred one; run: " in said.err
    assert command_in(said.err) == ["index", str(library), *CENTRED]
    assert kt(*command_in(said.err), *ONE).code == 0
    assert kt(*words).code == 0


def test_a_painting_takes_the_centred_one_of_two_indexes_and_others_are_told_which_is_which(
    kt: Say, library: Path, photo: Path, tmp_path: Path
) -> None:
    raw, centred = (kt("index", library, *space, *ONE, "--json").json["index"] for space in (RAW, CENTRED))
    words = ("translate", photo, "--library", library, *ONE)
    assert kt(*words, "--method", "painting", "--out", tmp_path / "run").code == 0
    assert searched(tmp_path / "run") == centred
    said = kt(*words, "--out", tmp_path / "other")
    assert said.code == 1
    assert f"{raw} (raw)" in said.err
    assert f"{centred} (centred)" in said.err


def test_two_indexes_of_one_match_space_are_told_apart_by_their_settings(
    kt: Say, library: Path, photo: Path, tmp_path: Path
) -> None:
    plain, small = (kt("index", library, *more, *ONE, "--json").json["index"] for more in ((), ("--max-leaf", 64)))
    said = kt("translate", photo, "--library", library, "--out", tmp_path / "run", *PAINTING)
    assert said.code == 1
    assert f"{plain} (centred)" in said.err
    assert f"{small} (centred, max_leaf 64)" in said.err


def test_a_missing_index_is_named_with_the_command_that_builds_it(
    kt: Say, library: Path, photo: Path, tmp_path: Path
) -> None:
    said = kt("translate", photo, "--library", library, "--out", tmp_path / "run", *PAINTING)
    assert said.code == 1
    assert command_in(said.err) == ["index", str(library), *CENTRED]


def test_the_command_of_a_missing_index_names_its_key(kt: Say, photo: Path, tmp_path: Path) -> None:
    words = ("--library", tmp_path / "lib", "--size", 64, "--also", "relu4_1@64", "--keep-images", *ONE)
    assert kt("extract", draw_all(tmp_path / "paintings", [1, 2]), *words).code == 0
    said = kt("translate", photo, "--library", tmp_path / "lib", "--out", tmp_path / "run", *PAINTING)
    assert command_in(said.err) == ["index", str(tmp_path / "lib"), "--at", "relu4_1@64", *CENTRED]
    assert kt(*command_in(said.err), *ONE).code == 0
    assert kt("translate", photo, "--library", tmp_path / "lib", "--out", tmp_path / "run", *PAINTING).code == 0


@pytest.mark.parametrize(
    ("uri", "typed"),
    [
        ("s3://bucket/a/lib", "s3://bucket/a/lib"),
        ("s3://bucket/my lib", "'s3://bucket/my lib'"),
        ("file:///data/lib", "/data/lib"),
        ("file:///data/my%20lib", "'/data/my lib'"),
        ("/data/it's", """'/data/it'"'"'s'"""),
        ("lib", "lib"),
    ],
)
def test_a_place_in_a_command_is_as_a_user_types_it(uri: str, typed: str) -> None:
    assert in_command(uri) == typed


def test_the_key_of_a_library_for_paintings_is_the_methods_first_level(library: Path) -> None:
    painted = open_library(str(library)).config.painted
    assert painted is not None
    assert painted.layer == LAYERS[0]
    assert read_index_summaries(open_library(str(library)).location) == []


def test_an_encoder_without_decoders_for_every_level_is_refused_with_those_that_have_them() -> None:
    encoder = load_encoder(EncoderSource())
    sentence = r"The encoder 'vgg19' has no decoders for relu4_1, relu3_1, .*; kt-vgg has them"
    with pytest.raises(UsageError, match=sentence):
        load_decoders(encoder, "vgg19", LAYERS)
