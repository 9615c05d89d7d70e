"""A build stays below a limit of memory, or says that it cannot; the index does not depend on the limit."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.build_memory import write_library
from kt_batch.config import IndexConfig, RunOptions
from kt_batch.errors import UsageError
from kt_batch.pipelines.index.finish import BuildSummary, build_index
from kt_batch.pipelines.index.memory import LEAST_ROWS, PROCESS, check_join, pack_bytes, slice_rows
from kt_batch.pipelines.index.plan import plan_index
from kt_batch.pipelines.progress import no_progress
from kt_batch.runners.base import Runner
from kt_batch.runners.local import LocalRunner
from kt_batch.store.receipts import Receipt, new_attempt
from kt_batch.store.tables import SLICE_ROWS
from tests.e2e.conftest import run
from tests.support.collection import Recorder
from tests.support.tiny import hashes

CHANNELS = 152
GB = 10**9
# Runs a command and prints the highest resident memory of its process, in bytes.
MEASURED = """
from kt_batch.process import tune_process
tune_process()
import sys
from benchmarks.build_memory import peak
from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
code = run_app(app, sys.argv[1:])
print(peak("self") << 20)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of 5,000 patches of 608 values in one part, without an index."""
    place = tmp_path_factory.mktemp("memory") / "library"
    write_library(place, 5_000, CHANNELS, 8)
    return place


def build(library: Path, memory: int | None, runner: Runner | None = None, **config: Any) -> BuildSummary:
    settings = IndexConfig.model_validate({"fan_out": 4, **config})
    return build_index(
        str(library), settings, RunOptions(threads=1), runner or LocalRunner(), no_progress, fresh=True, memory=memory
    )


def without_index(library: Path, place: Path) -> Path:
    """Return a library of the same patches without an index."""
    place.mkdir()
    for path in library.iterdir():
        if path.name != "index":
            (place / path.name).symlink_to(path)
    return place


def test_no_limit_changes_a_byte_of_the_index(library: Path, tmp_path: Path) -> None:
    limits = None, PROCESS + 40_000_000, PROCESS + 100_000_000
    rows, found = set(), []
    for number, limit in enumerate(limits):
        place = without_index(library, tmp_path / str(number))
        job = plan_index(str(place), IndexConfig(), RunOptions(threads=1)).job
        rows.add(slice_rows(replace(job, memory=limit)))
        found.append((build(place, limit).index, hashes(place, "index")))
    assert len(rows) == len(limits)  # patches are routed in other slices each time
    assert min(rows) >= LEAST_ROWS
    assert max(rows) == SLICE_ROWS
    assert found[1:] == found[:-1]


def test_a_limit_below_the_fixed_costs_stops_before_any_work(library: Path, tmp_path: Path) -> None:
    place = without_index(library, tmp_path / "library")
    with pytest.raises(UsageError) as stopped:
        build(place, PROCESS)
    assert str(stopped.value) == (
        "--build-memory is 0.46 GB, but indexing 5,000 patches of 608 values takes 0.48 GB in a process; give as much "
        "or more, or leave the option out. Finished work is kept."
    )
    assert not (place / "index").exists()
    assert build(place, 480_000_000).built  # what it says is enough


def test_a_cluster_above_the_limit_stops_before_packing_and_routing_is_not_done_again(
    library: Path, tmp_path: Path
) -> None:
    place, runner = without_index(library, tmp_path / "library"), Recorder()
    whole: dict[str, Any] = {"sample": 64, "max_leaf": 8192}  # one cluster of one leaf
    limit = PROCESS + 40_000_000
    assert pack_bytes(5_000, 4 * CHANNELS, IndexConfig.model_validate(whole)) > 40_000_000
    with pytest.raises(UsageError, match=r"but packing the largest cluster, of 5,000 patches .* Finished work is kept"):
        build(place, limit, runner, **whole)
    assert len(runner.units) == 2  # one sample, one route
    again = Recorder()
    assert build(place, None, again, **whole).built
    assert len(again.units) == 1
    other = without_index(library, tmp_path / "other")
    build(other, None, **whole)
    assert hashes(place, "index") == hashes(other, "index")


def test_clusters_that_cannot_be_joined_within_the_limit_are_named(library: Path) -> None:
    plan = plan_index(str(library), IndexConfig(), RunOptions(threads=1), fresh=True)
    receipt = Receipt(
        unit="0" * 16,
        attempt=new_attempt(),
        config_digest="0" * 16,
        outputs=(("0" * 64, 10 * GB), ("0" * 64, GB)),  # a shard, which is not read, and a subtree
        numerics={},
    )
    with pytest.raises(UsageError, match=r"--build-memory is 1 GB, but joining the packed clusters takes 1\.71 GB"):
        check_join(replace(plan, job=replace(plan.job, memory=GB)), [receipt])
    check_join(replace(plan, job=replace(plan.job, memory=2 * GB)), [receipt])
    check_join(plan, [receipt])


def test_joining_counts_the_merged_patches_of_the_generation_that_grows(library: Path) -> None:
    plan = plan_index(str(library), IndexConfig(), RunOptions(threads=1), fresh=True)
    generation = SimpleNamespace(tree_bytes=1, patches=30_000_000, kept=10_000_000)
    growth: Any = SimpleNamespace(generation=generation)
    plan = replace(plan, growth=growth, job=replace(plan.job, memory=2 * GB))
    with pytest.raises(UsageError, match=r"--build-memory is 2 GB, but joining the packed clusters takes 2\.46 GB"):
        check_join(plan, [])


def test_fixed_numbers_of_clusters_take_no_limit(library: Path, tmp_path: Path) -> None:
    place = without_index(library, tmp_path / "library")
    with pytest.raises(UsageError, match=r"--build-memory is 2 GB, but leaves of --clusters have any size"):
        build(place, 2 * GB, clusters=(4, 4))


def test_more_values_and_wider_codes_take_more_memory() -> None:
    """The figures of benchmarks/pack_memory.py: 457 and 573 MiB beside the process."""
    narrow, wide = (pack_bytes(196_608, values, IndexConfig(max_leaf=8)) >> 20 for values in (608, 816))
    assert narrow == pytest.approx(457, rel=0.05)
    assert wide == pytest.approx(573, rel=0.05)
    assert pack_bytes(1000, 608, IndexConfig(payload="float16")) > pack_bytes(1000, 608, IndexConfig(payload="5bit"))


@pytest.mark.slow
def test_a_process_with_a_limit_stays_below_it_and_one_without_exceeds_it(tmp_path: Path) -> None:
    limit, words = 600_000_000, ["--threads", "1", "--fresh", "--json"]
    write_library(tmp_path / "first", 30_000, CHANNELS, 8)
    peaks, found = [], []
    for number, more in enumerate([[], ["--build-memory", "600MB"]]):
        place = without_index(tmp_path / "first", tmp_path / str(number))
        ended = run(sys.executable, "-c", MEASURED, "index", place, *words, *more)
        assert ended.code == 0, ended.err
        peaks.append(int(ended.out.splitlines()[-1]))
        found.append(hashes(place, "index"))
    assert peaks[1] <= limit < peaks[0]
    assert found[0] == found[1]
