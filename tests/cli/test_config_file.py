"""A file of options from a stranger: what it may set, and how large and deep it may be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs import build_library, translate
from tests.cli.conftest import Say
from tests.support.tiny import draw

EXTRACT = "max_patches: 5\n"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    draw(tmp_path / "a.png", 1)
    return tmp_path / "a.png"


GUARDED = [
    ("extract", "library", "{new}"),
    ("extract", "log_file", "{new}"),
    ("extract", "log-file", "{new}"),
    ("extract", "runner", "ray"),
    ("extract", "address", "10.0.0.1:6379"),
    ("extract", "images", "s3://bucket/photos"),
    ("extract", "images", "[a.png, 's3://bucket/photos']"),
    ("extract", "encoder", "vgg19"),
    ("extract", "encoder_weights", "s3://bucket/weights.safetensors"),
    ("index", "library", "{new}"),
    ("index", "log_file", "'-'"),
    ("translate", "out", "{new}"),
    ("translate", "library", "S3://bucket/library"),
    ("translate", "cache_dir", "{new}"),
    ("translate", "log_file", "{new}"),
    ("translate", "runner", "ray"),
    ("translate", "style", "['https://example.org/a.jpg']"),
    ("try", "out", "{new}"),
]


@pytest.mark.parametrize(("command", "key", "value"), GUARDED)
def test_what_writes_or_connects_is_refused_from_a_file(
    kt: Say, photo: Path, tmp_path: Path, command: str, key: str, value: str
) -> None:
    new = tmp_path / "new"
    (tmp_path / "options.yaml").write_text(f"{key}: {value.format(new=new)}\n")
    commands: dict[str, dict[str, list[object]]] = {
        "extract": {"images": [photo], "library": ["--library", new]},
        "index": {"library": [new]},
        "translate": {"images": [photo], "library": ["--library", new], "out": ["--out", new]},
        "try": {"photo": [photo], "style": ["--style", photo]},
    }
    words = [word for name, option in commands[command].items() if name != key for word in option]
    said = kt(command, *words, "--config", tmp_path / "options.yaml")
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert f"sets '{key}', which" in said.err
    assert "--trust-config" in said.err
    assert not new.exists()


def test_a_file_sets_how_much_of_an_index_a_process_holds(kt: Say, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("index_memory: 8\n")
    words = (photo, "--method", "adain", "--style", photo, "--out", tmp_path / "run")
    said = kt("translate", *words, "--config", tmp_path / "options.yaml")
    assert (said.code, "searches no index, so --index-memory has no effect" in said.err) == (2, True)


@pytest.mark.parametrize("job", [build_library, translate])
def test_the_jobs_refuse_the_same(kt: Say, photo: Path, tmp_path: Path, job: object) -> None:
    (tmp_path / "options.yaml").write_text("address: 10.0.0.1:6379\n")
    words = [photo, "--library", tmp_path / "new", *(["--out", tmp_path / "run"] if job is translate else [])]
    said = kt(*words, "--config", tmp_path / "options.yaml", of=job.load_app())  # type: ignore[attr-defined]
    assert (said.code, "sets 'address', which" in said.err) == (2, True)


def test_the_refused_value_is_not_shown(kt: Say, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("address: 'ray://user:secret@10.0.0.1:10001'\n")
    said = kt("extract", photo, "--library", tmp_path / "new", "--config", tmp_path / "options.yaml")
    assert (said.code, "secret" in said.err) == (2, False)


def test_a_trusted_file_may_set_them(kt: Say, photo: Path, tmp_path: Path) -> None:
    options = tmp_path / "options.yaml"
    options.write_text(f"library: {tmp_path / 'new'}\nlog_file: {tmp_path / 'log'}\nsize: 32\nthreads: 1\n")
    for words in (["--trust-config", "--config", options], ["--config", options, "--trust-config"]):
        assert kt("extract", photo, *words).code == 0
    assert (tmp_path / "log").read_text().count("run_started") == 2


def test_an_option_that_the_caller_gives_is_not_taken_from_the_file(kt: Say, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text(f"library: {tmp_path / 'planted'}\nsize: 32\nthreads: 1\nlog_file: x\n")
    words = ["--library", tmp_path / "mine", "--log-file", tmp_path / "log"]
    assert kt("extract", photo, "--config", tmp_path / "options.yaml", *words).code == 0
    assert (tmp_path / "mine").is_dir()
    assert not (tmp_path / "planted").exists()


def test_a_file_cannot_trust_itself(kt: Say, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text(f"trust_config: true\nlibrary: {tmp_path / 'new'}\n")
    said = kt("extract", photo, "--config", tmp_path / "options.yaml")
    assert (said.code, "unknown option 'trust_config'" in said.err) == (2, True)


BOMB = "a: &a [x, x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=False)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(BOMB, "anchors and aliases are not allowed in line 1", id="alias bomb"),
        pytest.param("tag: [x]\nlicense: *tag\n", "anchors and aliases are not allowed in line 2", id="alias"),
        pytest.param("license: &x y\n", "anchors and aliases are not allowed", id="anchor"),
        pytest.param("<<: {size: 32}\n", "cannot be read as YAML", id="merge key"),
        pytest.param("tag: " + "[" * 100_000, "nested too deeply", id="deep list"),
        pytest.param("tag: [[[[[x]]]]]", "nested too deeply", id="five lists"),
        pytest.param("{a: " * 50_000, "nested too deeply", id="deep mapping"),
        pytest.param("? " * 10_000 + "a", "nested too deeply", id="deep keys"),
        pytest.param("size: 32\nsize: 64\n", "'size' stands twice in line 2", id="key twice"),
        pytest.param("max_patches: 1\nmax-patches: 2\n", "'max-patches' stands twice", id="key in two spellings"),
        pytest.param("license: " + "x" * 5000, "more than 4096 characters", id="long text"),
        pytest.param("size: 1" + ":59" * 100_000, "more than 4096 characters", id="huge number to base 60"),
        pytest.param("size: 0x" + "f" * 100_000, "more than 4096 characters", id="huge number to base 16"),
        pytest.param("# \n" * 400_000, "has 1200000 bytes; allowed are 1048576", id="large file"),
        pytest.param("size: {a: 1}\n", "a value that no option has", id="mapping as value"),
        pytest.param("tag: [[a]]\n", "a value that no option has", id="list of lists"),
        pytest.param("license: 2001-01-01\n", "a value that no option has", id="date"),
        pytest.param("license: 2001-99-99\n", "cannot be read as YAML", id="date that is none"),
        pytest.param("license: !!binary aGk=\n", "a value that no option has", id="bytes"),
        pytest.param("license: !!python/name:os.system x\n", "cannot be read as YAML", id="code"),
        pytest.param("size: " + "1" * 4001, "size", id="number over the limit of Python"),
        pytest.param("[]: 1\n", "cannot be read as YAML", id="list as key"),
        pytest.param("1: 1\n", "unknown option '1'", id="number as key"),
        pytest.param("license: a\x1b[2J\n", "cannot be read as YAML", id="control character"),
        pytest.param("--- a\n--- b\n", "cannot be read as YAML", id="two documents"),
        pytest.param("license: \x00\n", "cannot be read as YAML", id="zero byte"),
    ],
)  # fmt: skip
def test_a_hostile_file_is_one_sentence(kt: Say, photo: Path, tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "options.yaml").write_text(text)
    said = kt("extract", photo, "--library", tmp_path / "new", "--config", tmp_path / "options.yaml")
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1), said.err
    assert sentence in said.err
    assert len(said.err) < 5000
    assert not (tmp_path / "new").exists()


def test_bytes_that_are_no_utf_8_are_one_sentence(kt: Say, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_bytes(b"license: \xff\n")
    said = kt("extract", photo, "--library", tmp_path / "new", "--config", tmp_path / "options.yaml")
    assert (said.code, "cannot be read as YAML" in said.err, said.err.count("\n")) == (2, True, 1)


def test_a_pipe_a_folder_and_a_device_are_not_opened(kt: Say, photo: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for place, kind in (("pipe", "is a pipe"), ("link", "is a device"), (".", "it is a directory")):
        said = kt("extract", photo, "--library", tmp_path / "new", "--config", tmp_path / place)
        assert (said.code, kind in said.err, said.err.count("\n")) == (2, True, 1)
