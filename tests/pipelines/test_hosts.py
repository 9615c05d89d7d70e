"""Where there are no hard links, one host may write, and others are refused."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import kt_batch.store.publish
from kt_batch.config import ExtractConfig, RunOptions
from kt_batch.errors import StorageError
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.extract.plan import ExtractRequest, plan_extract
from kt_batch.pipelines.extract.worker import ExtractWorker
from kt_batch.pipelines.progress import no_progress
from kt_batch.runners.local import LocalRunner
from kt_batch.store.locations import check_kernel, open_location
from kt_batch.store.publish import Way, kernel_id
from tests.support.collection import Collection
from tests.support.tiny import draw_all, encoder_config, extracted, indexed, translate_request, translated

REFUSED = r"without hard links, where writers on several hosts .* object storage \(s3://bucket/prefix\)"


class TwoHosts(LocalRunner):
    """A local runner that says that its workers are on two hosts."""

    def hosts(self) -> int:
        return 2


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after which every probe finds no hard links, and only locks."""

    def begin() -> None:
        monkeypatch.setattr(kt_batch.store.publish, "_known_ways", {})
        monkeypatch.setattr(kt_batch.store.publish, "_probe", lambda _: Way.LOCK)

    return begin


def test_extract_on_two_hosts_is_refused_before_the_first_image(tmp_path: Path, no_links: Callable[[], None]) -> None:
    photos = draw_all(tmp_path / "photos", [1])
    no_links()
    with pytest.raises(StorageError, match=REFUSED):
        extracted([photos], tmp_path / "library", TwoHosts())
    assert not (tmp_path / "library/receipts").exists()
    assert extracted([photos], tmp_path / "library").images == 1  # what was planned is done on one host


def test_index_on_two_hosts_is_refused(tmp_path: Path, no_links: Callable[[], None]) -> None:
    extracted([draw_all(tmp_path / "photos", [1])], tmp_path / "library")
    no_links()
    with pytest.raises(StorageError, match=REFUSED):
        indexed(tmp_path / "library", TwoHosts())


def test_translate_on_two_hosts_is_refused(
    tmp_path: Path, collection: Collection, no_links: Callable[[], None]
) -> None:
    request = translate_request(collection.library, tmp_path / "run", collection.index)
    no_links()
    with pytest.raises(StorageError, match=REFUSED):
        translated([collection.photos], request, TwoHosts())
    assert not (tmp_path / "run/images").exists()


def test_two_hosts_share_a_file_system_with_hard_links(tmp_path: Path) -> None:
    assert extracted([draw_all(tmp_path / "photos", [1])], tmp_path / "library", TwoHosts()).images == 1


def test_a_worker_of_a_host_that_joins_later_is_refused(tmp_path: Path, no_links: Callable[[], None]) -> None:
    no_links()
    photos, config = draw_all(tmp_path / "photos", [1]), ExtractConfig(encoder=encoder_config())
    request = ExtractRequest([str(photos)], str(tmp_path / "library"), config, EncoderSource(), RunOptions(threads=1))
    job = plan_extract(request, no_progress).job
    assert job.kernel == kernel_id()
    with pytest.raises(StorageError, match=REFUSED):
        ExtractWorker(replace(job, kernel="another kernel"))


def test_a_worker_whose_mount_lacks_the_hard_links_of_the_drivers_is_refused(
    tmp_path: Path, no_links: Callable[[], None]
) -> None:
    location = open_location(str(tmp_path))
    check_kernel(location, None)
    no_links()
    with pytest.raises(StorageError, match=REFUSED):
        check_kernel(location, None)


def test_the_hosts_name_stands_for_a_kernel_that_tells_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert kernel_id() == socket.gethostname()
