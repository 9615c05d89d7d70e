"""Disasters end in one sentence or in the result of an undisturbed run.

The disasters are a full disk, a read-only disk, a deleted bucket, a clock set back and concurrent drivers.

The tests mount a separate file system as the disk, which needs root.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from kt_batch.maintenance.verify import verify
from kt_batch.pipelines.progress import no_progress
from kt_batch.store.locations import open_location
from tests.e2e.conftest import COMMAND, Ended, Small, kt, run
from tests.e2e.paused import paused
from tests.support.s3_server import S3Server, ceph_server  # noqa: F401  # the fixture
from tests.support.tiny import draw_all, parts

pytestmark = pytest.mark.slow

HOW = ["--threads", 1, "--unit-size", 1]
DISK_BYTES = 48 << 20
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
HALFWAY = {"extract": (8, 10), "index": (10,), "translate": (7,)}  # numbers of the writes before which a command stops


@dataclass(frozen=True)
class Job:
    """The commands extract, index and translate on the same images."""

    images: Path
    library: str
    run: str

    def words(self, stage: str) -> list[object]:
        """Return the command-line words after `kt-batch`."""
        return {
            "extract": ["extract", self.images, "--library", self.library, "--size", 64, *HOW],
            "index": ["index", self.library, "--max-leaf", 64, "--threads", 1],
            "translate": ["translate", self.images, "--library", self.library, "--out", self.run, *HOW],
        }[stage]

    def made_by(self, stage: str) -> str:
        """Return the library or the run that a stage writes."""
        return self.run if stage == "translate" else self.library


def digest(place: str) -> str:
    """Return the digest of a place that `verify` finds intact."""
    found = verify(place, no_progress)
    assert (found.faults, found.pending, found.foreign) == ((), 0, 0)
    assert found.digest
    return found.digest


def one_sentence(ended: Ended, text: str) -> None:
    """Assert exit code 1 and one error line besides progress."""
    assert ended.code == 1, (ended.out, ended.err)
    said = [line for line in ended.err.splitlines() if line.startswith("kt-batch: ")]
    assert len(said) == 1, ended.err
    assert text in said[0]
    for clutter in ("Traceback", "Error", "internal error", "Errno", "Exception"):
        assert clutter not in ended.err
    assert ended.err.splitlines()[-1] == said[0]


def everything_visible_is_whole(place: str) -> None:
    """Assert that committed files match their receipts and no temporary file remains."""
    found = verify(place, no_progress)
    assert found.faults == ()
    assert found.pending > 0
    assert open_location(place).list_temporary() == {}


# ---- disk ------------------------------------------------------------------------------------------------------------


class Disk:
    """A small file system in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, *options: str) -> None:
        """Mount the file system, or change its mount options."""
        line = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={DISK_BYTES}", *options)), "tmpfs", str(self.folder)]
        subprocess.run(line, check=True, capture_output=True, text=True)

    def unmount(self) -> None:
        """Unmount the file system lazily."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True, capture_output=True)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Fill the file system within the block."""
        ballast, piece = self.folder / "ballast", bytes(4096)
        try:
            with ballast.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(piece)
            yield
        finally:
            ballast.unlink()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    disk = Disk(tmp_path_factory.mktemp("disk"))
    try:
        disk.mount()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {getattr(error, 'stderr', error)}")
    yield disk
    disk.unmount()


@dataclass(frozen=True)
class Undisturbed:
    """A successful job, its digests by stage, and the library before each stage."""

    job: Job
    digests: dict[str, str]
    before: dict[str, Path]

    def rewind(self, stage: str) -> None:
        """Restore the place to the begin of `stage`."""
        for place in (self.job.library, self.job.run):
            shutil.rmtree(place, ignore_errors=True)
        if stage in self.before:
            shutil.copytree(self.before[stage], self.job.library)


@pytest.fixture(scope="module")
def undisturbed(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    root = tmp_path_factory.mktemp("undisturbed")
    images, place = draw_all(root / "images", range(1, 7)), disk.folder / "place"
    job = Job(images, str(place / "library"), str(place / "run"))
    digests, before = {}, {}
    for stage in ("extract", "index", "translate"):
        if stage != "extract":
            before[stage] = shutil.copytree(job.library, root / stage)
        assert kt(*job.words(stage)).code == 0
        digests[stage] = digest(job.made_by(stage))
    return Undisturbed(job, digests, before)


@pytest.mark.parametrize(("stage", "number"), [(stage, n) for stage, numbers in HALFWAY.items() for n in numbers])
def test_a_full_disk_is_one_sentence_and_the_job_continues_with_free_space(
    disk: Disk, undisturbed: Undisturbed, stage: str, number: int
) -> None:
    job = undisturbed.job
    undisturbed.rewind(stage)
    with paused(number, *job.words(stage)) as process, disk.full():
        process.go_on()
        ended = process.end()
    one_sentence(ended, "No space left on device")
    if stage != "index":  # whose parts are not units
        everything_visible_is_whole(job.made_by(stage))
    assert kt(*job.words(stage)).code == 0
    assert digest(job.made_by(stage)) == undisturbed.digests[stage]


@pytest.mark.parametrize(("stage", "number"), [("extract", 10), ("index", 10)])
def test_a_read_only_disk_is_one_sentence_and_the_job_continues_when_writable(
    disk: Disk, undisturbed: Undisturbed, stage: str, number: int
) -> None:
    job = undisturbed.job
    undisturbed.rewind(stage)
    with paused(number, *job.words(stage)) as process:
        disk.mount("remount", "ro")
        try:
            process.go_on()
            ended = process.end()
            one_sentence(ended, "Read-only file system")
            again = kt(*job.words(stage))
        finally:
            disk.mount("remount", "rw")
    one_sentence(again, "Read-only file system")
    assert kt(*job.words(stage)).code == 0
    assert digest(job.made_by(stage)) == undisturbed.digests[stage]


def test_a_file_size_limit_is_one_sentence_and_the_job_continues_without_it(
    undisturbed: Undisturbed,
) -> None:
    job = undisturbed.job
    undisturbed.rewind("extract")
    ended = run("bash", "-c", 'ulimit -f 100 && exec "$@"', "bash", COMMAND, *job.words("extract"))  # kilobytes
    one_sentence(ended, "File too large")
    everything_visible_is_whole(job.made_by("extract"))
    assert kt(*job.words("extract")).code == 0
    assert digest(job.made_by("extract")) == undisturbed.digests["extract"]


# ---- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not FAKETIME, reason="libfaketime not found: install Debian's libfaketime")
@pytest.mark.parametrize(("stage", "number"), [("extract", 8), ("translate", 7)])
def test_setting_the_clock_back_by_years_halfway_changes_nothing(
    undisturbed: Undisturbed, tmp_path: Path, stage: str, number: int
) -> None:
    job = undisturbed.job
    undisturbed.rewind(stage)
    offset = tmp_path / "offset"
    offset.write_text("+0")
    clock = {
        "LD_PRELOAD": str(FAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # nobody can set that clock
    }
    with paused(number, *job.words(stage), environment=clock) as process:
        offset.write_text("-9y")
        process.go_on()
        ended = process.end()
    assert ended.code == 0, ended.err
    place = Path(job.made_by(stage))
    finished = [json.loads(path.read_text())["finished"] for path in (place / "receipts").iterdir()]
    assert max(finished) - min(finished) > 8 * 365 * 86400
    assert digest(str(place)) == undisturbed.digests[stage]
    assert kt("report", place, environment=clock).code == 0


@pytest.mark.skipif(not FAKETIME, reason="libfaketime not found: install Debian's libfaketime")
def test_a_killed_job_continues_with_a_clock_before_its_start(undisturbed: Undisturbed) -> None:
    job = undisturbed.job
    undisturbed.rewind("extract")
    with paused(10, *job.words("extract")) as process:
        process.kill()
        assert process.end().code != 0
    clock = {"LD_PRELOAD": str(FAKETIME[0]), "FAKETIME": "@1999-12-31 23:59:59", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    assert kt(*job.words("extract"), environment=clock).code == 0
    assert digest(job.made_by("extract")) == undisturbed.digests["extract"]


# ---- concurrent drivers ----------------------------------------------------------------------------------------------


def both(job: Job, stage: str) -> None:
    """Run the same command twice concurrently; both start without a plan and succeed."""
    words = [*job.words(stage), "--json"]
    with paused(1, *words) as one, paused(1, *words) as other:
        one.go_on()
        other.go_on()
        ends = one.end(), other.end()
    images = len(list(job.images.iterdir()))
    for ended in ends:
        assert ended.code == 0, ended.err
        if stage != "index":
            assert (ended.json["images"], ended.json["rejected"]) == (images, 0)
    if stage == "extract":
        assert len(parts(job.library, "images")) == images


def test_two_concurrent_drivers_on_a_local_place_give_the_result_of_one(undisturbed: Undisturbed) -> None:
    job = undisturbed.job
    undisturbed.rewind("extract")
    for stage, expected in undisturbed.digests.items():
        both(job, stage)
        assert digest(job.made_by(stage)) == expected


@pytest.mark.s3
@pytest.mark.parametrize("stage", ["extract", "translate"])
def test_two_concurrent_drivers_on_a_bucket_give_the_result_of_one(
    small: Small,
    ceph_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    place = ceph_server.new_location(monkeypatch)
    job = job_in_bucket(small, place.uri, stage)
    assert kt(*job.words(stage)).code == 0
    expected = digest(job.made_by(stage))
    for name in list(place.list()):
        place.delete(name)
    both(job, stage)
    assert digest(job.made_by(stage)) == expected


def job_in_bucket(small: Small, place: str, stage: str) -> Job:
    """Return a job whose `stage` writes to the bucket; the library of a translation is local."""
    return Job(small.photos, f"{place}/library" if stage == "extract" else str(small.library), f"{place}/run")


# ---- a bucket that is deleted ----------------------------------------------------------------------------------------


@pytest.mark.s3
@pytest.mark.parametrize("stage", ["extract", "translate"])
def test_a_bucket_deleted_halfway_is_one_sentence(
    small: Small,
    ceph_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    place = ceph_server.new_location(monkeypatch)
    bucket = place.uri.removeprefix("s3://").partition("/")[0]
    job = job_in_bucket(small, place.uri, stage)
    with paused(5, *job.words(stage)) as process:
        assert any(name.startswith(f"{job.made_by(stage).rpartition('/')[2]}/receipts/") for name in place.list())
        delete_bucket(ceph_server, bucket)
        process.go_on()
        ended = process.end()
    one_sentence(ended, f"there is no bucket '{bucket}'")
    one_sentence(kt(*job.words(stage)), f"there is no bucket '{bucket}'")
    assert ceph_server.secret_key not in ended.err


@pytest.mark.s3
def test_images_whose_bucket_is_deleted_halfway_are_not_rejected(
    small: Small,
    ceph_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    images = ceph_server.new_location(monkeypatch)
    bucket = images.uri.removeprefix("s3://").partition("/")[0]
    for path in small.photos.iterdir():
        assert images.put_if_absent(path.name, path.read_bytes())
    words = ["translate", images.uri, "--library", small.library, "--out", tmp_path / "run", *HOW]
    with paused(3, *words) as process:
        delete_bucket(ceph_server, bucket)
        process.go_on()
        ended = process.end()
    one_sentence(ended, f"there is no bucket '{bucket}'")
    assert list((tmp_path / "run" / "receipts").iterdir())
    assert not (tmp_path / "run" / "rejects").exists()


def delete_bucket(server: S3Server, bucket: str) -> None:
    """Delete a bucket with its objects, as another client would."""
    from s3fs import S3FileSystem

    store = S3FileSystem(
        key=server.access_key, secret=server.secret_key, endpoint_url=server.endpoint, skip_instance_cache=True
    )
    store.rm(bucket, recursive=True)
    assert not store.exists(bucket)
