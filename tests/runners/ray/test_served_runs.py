"""Runs whose index is shared among actors of a real local Ray are those of one process, to the last byte."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import ray

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.config import IndexConfig
from kt_batch.errors import DamagedError
from kt_batch.pipelines.progress import Step, no_progress
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.report.index_owners import read_owners
from kt_batch.runners.base import Keeper
from kt_batch.runners.local import LocalRunner
from kt_batch.runners.ray.keepers import Keepers
from kt_batch.runners.ray.runner import RayRunner
from kt_batch.store.image_filters import ImageFilter
from kt_batch.store.images.files import image_id
from tests.e2e.conftest import run
from tests.support.ray_local import actor_names, ray_environment, ray_here  # noqa: F401  # the second is the fixture
from tests.support.served import assert_same_run, limit, local_run, served_words
from tests.support.tiny import draw_all, extracted, indexed, rows

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.usefixtures("ray_here")]


# Runs a command on a Ray whose object store holds more than it has room for; then says what was spilled.
FULL_STORE = """
import sys, numpy, ray
from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from ray._private.internal_api import memory_summary
ray.init(address="local", num_cpus=2, object_store_memory=80 << 20, include_dashboard=False, log_to_driver=False)
held = [ray.put(numpy.full(5 << 20, number, numpy.uint8)) for number in range(20)]
code = run_app(app, sys.argv[1:])
print(memory_summary(ray.get_runtime_context().gcs_address, stats_only=True), file=sys.stderr)
sys.exit(code)
"""


class DiesAtFirst:
    """A factory of an owner whose process is killed once while the actor starts, and once while it opens its shards."""

    def __init__(self, factory: Callable[[], Keeper], mark: Path) -> None:
        self.factory, self.mark = factory, mark

    def __reduce__(self) -> tuple[Any, ...]:
        return _sent, (self.factory, self.mark)

    def __call__(self) -> Keeper:
        _die_at_first(self.mark.with_suffix(".opens"))
        return self.factory()


def _sent(factory: Callable[[], Keeper], mark: Path) -> DiesAtFirst:
    _die_at_first(mark.with_suffix(".starts"))
    return DiesAtFirst(factory, mark)


def _die_at_first(mark: Path) -> None:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


class Watched(RayRunner):
    """A runner with one worker that remembers the processes of its owners."""

    def __init__(self) -> None:
        super().__init__(None, 1, 1)
        self.keepers: Keepers | None = None
        self.pids: list[int] = []

    def serve(self, factories: Sequence[Callable[[], Keeper]], memory: Sequence[int], replicas: int = 1) -> Keepers:
        self.keepers = super().serve(factories, memory, replicas)
        self.pids = self.keepers.pids()
        return self.keepers


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> TranslateRequest:
    """The request of a run of one process, which is done."""
    return local_run(tmp_path_factory.mktemp("shared"), [11, 12, 13])


def assert_ended(pids: Sequence[int]) -> None:
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.1)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize(("owners", "replicas"), [(1, 2), (3, 1)])
def test_a_run_with_a_shared_index_is_that_of_one_process(
    local: TranslateRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str], owners: int, replicas: int
) -> None:
    log = tmp_path / "log"
    words = [*served_words(local, owners, 1), "--index-replicas", str(replicas)]
    assert run_app(app, [*words, "--out", str(tmp_path / "run"), "--log-file", str(log)]) == 0
    assert_same_run(tmp_path / "run", local)
    said = json.loads(capsys.readouterr().out)["owners"]
    assert len(said) == owners
    logged = [asdict(owner) for owner in read_owners(log, str(tmp_path / "run"))]
    assert logged == [{"owner": number, "calls": 1, **owner} for number, owner in enumerate(said)]
    asked = 3 * 15 * 11  # patches of a photograph of 64 x 50 pixels, in cells of 4
    assert asked <= sum(owner["queries"] for owner in said) <= owners * 3 * 16 * 16
    assert all(owner["bytes"] > 0 and owner["visits"] > 0 and owner["seconds"] > 0 for owner in said)


def test_two_shared_libraries_and_a_filter_make_the_run_of_one_process(
    local: TranslateRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kt_batch.pipelines.translate.serving.IN_MEMORY_BYTES", -1)  # so that owners are asked
    root = Path(local.images[0]).parent
    extracted([draw_all(tmp_path / "others", [4, 5])], tmp_path / "library")
    indexed(tmp_path / "library", config=IndexConfig(fan_out=4, max_leaf=16))
    allowed = [image_id(path.read_bytes()) for path in (root / "paintings/1.png", tmp_path / "others/5.png")]
    libraries, only = [local.sources.library or "", f"{tmp_path / 'library'}=1.1"], ImageFilter(images=tuple(allowed))
    config, sources = choose("knowledge", {"search": {"probes": 4}}, Choice(library=libraries, only=only))
    one = replace(local, run=str(tmp_path / "one"), config=config, sources=sources)
    translate(one, LocalRunner(), no_progress)
    runner = Watched()
    try:
        shared = replace(one, run=str(tmp_path / "run"), index_memory=limit(local, 3))
        summary = translate(shared, runner, no_progress)
        assert_same_run(tmp_path / "run", one)
        assert len(summary.owners) == len(runner.pids) > 3
        assert all(owner.queries > 0 for owner in summary.owners)
        found = {(row["library"], row["source_image_id"].hex()) for row in rows(tmp_path / "run", "provenance")}
        assert found == {(libraries[0], allowed[0]), (str(tmp_path / "library"), allowed[1])}
        assert_ended(runner.pids)
    finally:
        runner.close()


def test_a_run_whose_owner_is_killed_is_that_of_one_process_and_leaves_no_process(
    local: TranslateRequest, tmp_path: Path
) -> None:
    runner = Watched()
    killed: list[int] = []

    def kill_once(step: Step) -> None:
        if step.stage == "translate" and step.done == 1 and not killed:
            killed.append(runner.pids[0])
            os.kill(runner.pids[0], signal.SIGKILL)

    request = replace(local, run=str(tmp_path / "run"), index_memory=limit(local, 2))
    try:
        summary = translate(request, runner, kill_once)
        assert runner.keepers is not None
        assert len(killed) == 1
        assert_same_run(tmp_path / "run", local)
        assert len(summary.owners) == 2
        assert_ended(runner.pids)
    finally:
        runner.close()


def test_a_run_whose_owners_are_killed_while_they_start_is_that_of_one_process(
    local: TranslateRequest, tmp_path: Path
) -> None:
    class Killed(Watched):
        def serve(self, factories: Sequence[Callable[[], Keeper]], memory: Sequence[int], replicas: int = 1) -> Keepers:
            dying = [DiesAtFirst(factory, tmp_path / str(number)) for number, factory in enumerate(factories)]
            return super().serve(dying, memory, replicas)

    runner = Killed()
    try:
        translate(replace(local, run=str(tmp_path / "run"), index_memory=limit(local, 2)), runner, no_progress)
        assert_same_run(tmp_path / "run", local)
        assert sorted(path.name for path in tmp_path.glob("?.*")) == ["0.opens", "0.starts", "1.opens", "1.starts"]
    finally:
        runner.close()


def test_a_run_that_loses_a_replica_for_good_goes_on_with_the_other(local: TranslateRequest, tmp_path: Path) -> None:
    runner = Watched()
    killed: list[int] = []

    def kill_once(step: Step) -> None:
        if step.stage == "translate" and step.done == 1 and not killed:
            assert runner.keepers is not None
            ((_, first), _), (_, (_, second)) = (list(runner.keepers._replicas.each([part])) for part in (0, 1))
            for actor in (first, second):  # those that the first worker asks
                ray.kill(actor, no_restart=True)
            killed.extend([runner.pids[0], runner.pids[3]])

    request = replace(local, run=str(tmp_path / "run"), index_memory=limit(local, 2), index_replicas=2)
    try:
        before = actor_names()
        summary = translate(request, runner, kill_once)
        named = (actor_names() - before).keys()
        owners = {
            f"kt_batch index owner {owner} of 2, of '{local.sources.library}', replica {replica} of 2"
            for owner in range(2)
            for replica in range(2)
        }
        assert named >= {*owners, "kt_batch worker 0", "kt_batch counts of index owners"}
        assert_same_run(tmp_path / "run", local)
        assert len(set(runner.pids)) == 4
        assert [owner.lost > 0 for owner in summary.owners] == [True, True]
        assert_ended(runner.pids)
    finally:
        runner.close()


def test_a_run_whose_messages_find_the_object_store_full_is_that_of_one_process(
    local: TranslateRequest, tmp_path: Path
) -> None:
    words = [*served_words(local, 2, 1), "--out", tmp_path / "run"]
    with ray_environment() as (environment, _):
        small = {**environment, "RAY_max_direct_call_object_size": "1000"}  # larger messages go through the store
        ended = run(sys.executable, "-c", FULL_STORE, *words, environment=small)
    assert ended.code == 0, ended.err
    assert "Spilled" in ended.err
    assert_same_run(tmp_path / "run", local)


def test_a_run_that_waits_for_a_slow_owner_is_that_of_one_process(local: TranslateRequest, tmp_path: Path) -> None:
    runner, stopped = Watched(), 3.0
    goes_on = Timer(stopped, lambda: os.kill(runner.pids[0], signal.SIGCONT))

    def stop_once(step: Step) -> None:
        if step.stage == "translate" and step.done == 1 and not goes_on.is_alive():
            os.kill(runner.pids[0], signal.SIGSTOP)
            goes_on.start()

    request = replace(local, run=str(tmp_path / "run"), index_memory=limit(local, 2))
    try:
        summary = translate(request, runner, stop_once)
        assert_same_run(tmp_path / "run", local)
        assert summary.owners[0].seconds > stopped / 2
    finally:
        goes_on.join()
        runner.close()


def test_a_damaged_shard_is_one_sentence_before_any_picture(local: TranslateRequest, tmp_path: Path) -> None:
    library, made = tmp_path / "library", tmp_path / "run"
    shutil.copytree(local.sources.library or "", library)
    shard = min((library / "index" / "shards").iterdir())
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    sources = replace(local.sources, library=str(library))
    runner = Watched()
    try:
        with pytest.raises(DamagedError, match=shard.name):
            translate(replace(local, run=str(made), sources=sources, index_memory=limit(local, 2)), runner, no_progress)
        assert not (made / "images").exists()
        assert not list(made.glob("receipts/*"))
        assert_ended(runner.pids)
    finally:
        runner.close()


def test_a_run_that_cannot_go_on_leaves_no_owner(local: TranslateRequest, tmp_path: Path) -> None:
    runner = Watched()
    request = replace(local, run=str(tmp_path / "run"), index_memory=limit(local, 1))

    def interrupt(step: Step) -> None:
        if step.stage == "translate":
            raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            translate(request, runner, interrupt)
        assert len(runner.pids) == 1
        assert_ended(runner.pids)
    finally:
        runner.close()
