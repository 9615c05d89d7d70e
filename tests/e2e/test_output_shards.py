"""`--output tar` and `--output parquet`, by the real commands, and read back by the libraries that training uses."""

from __future__ import annotations

import json
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.runners.ray.runner import RayRunner
from kt_batch.store.locations import open_location
from kt_batch.store.opening import open_run
from kt_batch.store.output_shards import sample_key
from tests.e2e.conftest import COMMAND, ROOT, Small, kt, run
from tests.e2e.paused import paused
from tests.e2e.test_resume import DRIVER
from tests.support.ray_local import ray_here, ray_runner  # noqa: F401  # the fixtures
from tests.support.tiny import draw_all, hashes, translate_request, translated

FORMS = ["tar", "parquet"]


def words(small: Small, place: Path, form: str, *more: object) -> list[str]:
    line = ["translate", small.photos, "--library", small.library, "--out", place, "--output", form, "--threads", 1]
    return [str(word) for word in (*line, *more)]


@pytest.fixture(scope="module")
def whole(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in each form, with two photographs to a shard."""
    folder = tmp_path_factory.mktemp("whole")
    for form in FORMS:
        assert run_app(app, words(small, folder / form, form, "--shard-size", 2)) == 0
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_shards_are_made_checked_and_explained_by_the_commands(small: Small, tmp_path: Path, form: str) -> None:
    made = kt(*words(small, tmp_path / "run", form, "--shard-size", 2))
    assert made.code == 0
    assert "\n  2 shards, listed in run.json as `shards`\n" in made.out
    checked = kt("verify", tmp_path / "run", "--recompute", 1, "--json")
    assert (checked.code, checked.json["faults"]) == (0, [])
    told = kt("explain", tmp_path / "run", "11.png", "--at", "10,20", "--json")
    assert (told.code, told.json["output"], told.json["width"]) == (0, "images/11.png.png", 64)
    assert kt("report", tmp_path / "run", "--html", tmp_path / "page").code == 0
    again = kt(*words(small, tmp_path / "run", form, "--json"))
    assert (again.code, again.json["new_images"], again.json["shards"]) == (0, 0, 2)


def test_a_shard_size_without_shards_is_wrong_usage(small: Small, tmp_path: Path) -> None:
    ended = kt(*words(small, tmp_path / "run", "files", "--shard-size", 5))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert "--shard-size 5 is for --output tar or parquet" in ended.err


def test_both_options_can_stand_in_a_file_and_are_options_of_the_job(small: Small, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("output: tar\nshard-size: 2\nthreads: 1\n")
    line = [small.photos, "--library", small.library, "--out", tmp_path / "run", "--config", tmp_path / "options.yaml"]
    job = run(sys.executable, ROOT / "jobs/translate.py", *line, "--runner", "local")
    assert job.code == 0, job.err
    assert hashes(tmp_path / "run", "shards") == hashes(whole / "tar", "shards")
    (saved,) = (tmp_path / "run/options").iterdir()
    assert {"output: tar", "shard_size: 2"} <= set(saved.read_text().splitlines())


@pytest.mark.parametrize(
    ("form", "folder", "number", "when"),
    [
        ("tar", "shards", 1, "before"),
        ("parquet", "shards", 2, "after"),
        pytest.param("parquet", "shards", 1, "before", marks=pytest.mark.slow),
        pytest.param("tar", "shards", 2, "after", marks=pytest.mark.slow),
        pytest.param("tar", "provenance", 1, "after", marks=pytest.mark.slow),
        pytest.param("tar", "receipts", 1, "before", marks=pytest.mark.slow),
        pytest.param("tar", "receipts", 1, "after", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_into_shards_continues_and_leaves_nothing_behind(
    small: Small, whole: Path, tmp_path: Path, form: str, folder: str, number: int, when: str
) -> None:
    line = words(small, tmp_path / "run", form, "--shard-size", 2)
    assert run(sys.executable, "-c", DRIVER, folder, number, when, *line).code == -signal.SIGKILL
    assert run_app(app, line) == 0
    assert run_app(app, ["gc", str(tmp_path / "run"), "--delete"]) == 0
    assert hashes(tmp_path / "run", "shards") == hashes(whole / form, "shards")
    assert open_location(str(tmp_path / "run")).list_temporary() == {}
    assert run_app(app, ["verify", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("form", FORMS)
def test_two_drivers_of_one_run_make_each_shard_once(small: Small, whole: Path, tmp_path: Path, form: str) -> None:
    line = words(small, tmp_path / "run", form, "--shard-size", 2)
    with paused(4, *line) as first:  # it has written plan, shard and provenance, and is about to write the receipt
        assert kt(*line).code == 0
        first.go_on()
        ended = first.end()
    assert ended.code == 0, ended.err
    assert hashes(tmp_path / "run", "shards") == hashes(whole / form, "shards")
    checked = kt("verify", tmp_path / "run", "--json")
    assert (checked.code, checked.json["faults"], checked.json["orphans"]) == (0, [], 0)


@pytest.mark.parametrize("form", FORMS)
def test_a_disk_that_fills_up_is_one_sentence_and_leaves_nothing(small: Small, tmp_path: Path, form: str) -> None:
    limited = ["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", COMMAND]  # no file may have more than 8 KiB
    ended = run(*limited, *words(small, tmp_path / "run", form, "--shard-size", 3))
    assert ended.code == 1
    assert ended.err.splitlines()[-1].startswith(f"kt-batch: cannot write {tmp_path}/run/.tmp-")
    assert "Traceback" not in ended.err
    assert "Exception ignored" not in ended.err
    assert open_location(str(tmp_path / "run")).list_temporary() == {}
    assert not (tmp_path / "run/shards").exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_no_byte_of_a_shard(
    small: Small,
    tmp_path: Path,
    form: str,
    workers: int,
    ray_runner: RayRunner,  # noqa: F811  # joins the cluster that the next one shares
) -> None:
    photos = draw_all(tmp_path / "photos", range(30, 37))
    for place, runner in (("local", None), ("ray", RayRunner(None, workers, threads=1))):
        request = translate_request(small.library, tmp_path / place, small.index, output=form)
        assert translated([photos], request, runner, unit_size=2).shards == 4
    assert hashes(tmp_path / "ray", "shards") == hashes(tmp_path / "local", "shards")
    assert (tmp_path / "ray/run.json").read_bytes() == (tmp_path / "local/run.json").read_bytes()


# ---- what training reads ---------------------------------------------------------------------------------------------


# Each prints key, size and sidecar of every sample, and runs in a process of its own: readers leave files open.
WEBDATASET = """
import json, sys
import webdataset

run = sys.argv[1]
shards = [f"{run}/{shard['name']}" for shard in json.load(open(f"{run}/run.json"))["shards"]]
for sample in webdataset.WebDataset(shards, shardshuffle=False).decode("pil"):
    print(json.dumps([sample["__key__"], sample["png"].size, sample["json"]]))
"""
DATASETS = """
import json, sys
from datasets import load_dataset

run, cache = sys.argv[1:]
for row in load_dataset("parquet", data_files=f"{run}/shards/*.parquet", split="train", cache_dir=cache):
    print(json.dumps([row["key"], row.pop("image").size, row]))
"""
DATASETS_OF_TARS = """
import json, sys
from datasets import load_dataset

run, cache = sys.argv[1:]
for row in load_dataset("webdataset", data_files=f"{run}/shards/*.tar", split="train", cache_dir=cache):
    print(json.dumps([row["__key__"], row["png"].size, row["json"]]))
"""


@pytest.mark.parametrize(
    ("library", "program", "form"),
    [("webdataset", WEBDATASET, "tar"), ("datasets", DATASETS, "parquet"), ("datasets", DATASETS_OF_TARS, "tar")],
)
def test_libraries_for_training_read_the_shards(
    whole: Path, tmp_path: Path, library: str, program: str, form: str
) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install {library}")
    arguments = [whole / form, *([tmp_path / "cache"] if library == "datasets" else [])]
    ended = run(sys.executable, "-c", program, *arguments, environment={"HF_HUB_OFFLINE": "1"})
    assert ended.code == 0, ended.err
    samples = [json.loads(line) for line in ended.out.splitlines()]
    outputs = open_run(str(whole / form)).outputs.values()
    assert {about["output"]: key for key, _, about in samples} == {each.name: sample_key(each.name) for each in outputs}
    for _, size, about in samples:
        assert size == [about["width"], about["height"]] == [64, 50]
        assert sum(source["share"] for source in about["sources"]) == pytest.approx(1.0, abs=1e-5)
