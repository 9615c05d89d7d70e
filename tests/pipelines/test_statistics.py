"""The statistics of a library: of each image and of all, whatever the units, and what reads them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from kt_batch.cli.app import app
from kt_batch.cli.exit_codes import run_app
from kt_batch.config import RunOptions, ScaleKey
from kt_batch.errors import DamagedError, KtBatchError, MissingError
from kt_batch.kernels.cells import moments_of
from kt_batch.maintenance.gc import gc
from kt_batch.maintenance.verify import verify
from kt_batch.methods.features import encode, to_tensor
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.statistics.finish import StatisticsResult, build_statistics
from kt_batch.report.inspect import inspect
from kt_batch.runners.local import LocalRunner
from kt_batch.store.images.files import decode, image_id, pad_to
from kt_batch.store.opening import open_library
from kt_batch.store.statistics import find_statistics, image_moments, read_statistics, read_statistics_summary
from tests.support.collection import Recorder
from tests.support.hostile_libraries import column, part_with
from tests.support.s3_server import S3Server, moto_server  # noqa: F401  # the fixture
from tests.support.tiny import SIZE, draw, draw_all, extracted, hashes

ONE = RunOptions(threads=1)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return draw_all(tmp_path / "pictures", [1, 2, 3])


@pytest.fixture
def library(pictures: Path, tmp_path: Path) -> Path:
    extracted([pictures], tmp_path / "library", also=("relu4_1@32",))
    return tmp_path / "library"


def statistics(library: Path, key: str | None = None, runner: LocalRunner | Recorder | None = None) -> StatisticsResult:
    wanted = ScaleKey.parse(key) if key else None
    return build_statistics(str(library), ONE, runner or LocalRunner(), no_progress, wanted)


def content(library: Path, key: ScaleKey | None = None) -> tuple[bytes, dict[str, bytes]]:
    """Return the bytes of the moments of a library, and of each of its images."""
    opened = open_library(str(library))
    summary = find_statistics(opened, key)
    total = read_statistics(opened.location, summary)
    images = {image: m.mean.tobytes() + m.second.tobytes() for image, m in image_moments(opened.location, summary)}
    return total.mean.tobytes() + total.second.tobytes(), images


def test_the_moments_of_an_image_are_those_of_its_features(pictures: Path, library: Path) -> None:
    statistics(library)
    opened, network = open_library(str(library)), load_encoder(EncoderSource()).network
    found = dict(image_moments(opened.location, find_statistics(opened)))
    assert len(found) == 3
    for path in pictures.iterdir():
        data = path.read_bytes()
        features = encode(network, to_tensor(pad_to(decode(data, SIZE).pixels, 4)), "relu3_1").half()
        expected = moments_of(features.flatten(1).T.double().numpy())
        moments = found[image_id(data)]
        assert moments.count == expected.count == 16 * 13
        assert np.allclose(moments.mean, expected.mean, rtol=1e-12)
        assert np.allclose(moments.second, expected.second, rtol=1e-12)


def test_the_moments_of_a_library_are_those_of_its_images_by_their_cells(library: Path) -> None:
    result = statistics(library)
    opened = open_library(str(library))
    total = read_statistics(opened.location, read_statistics_summary(opened.location, result.statistics))
    images = [moments for _, moments in image_moments(opened.location, find_statistics(opened))]
    assert (result.count, result.images, total.count) == (3 * 16 * 13, 3, 3 * 16 * 13)
    assert np.allclose(total.mean, np.mean([image.mean for image in images], axis=0), atol=1e-6)
    assert np.allclose(total.second, np.mean([image.second for image in images], axis=0), atol=1e-6)


def test_each_key_has_statistics_of_its_own(library: Path) -> None:
    base, other = statistics(library), statistics(library, "relu4_1@32")
    # Cells: 16 x 13, and 4 x 4 of 32 x 25 pixels at stride 8.
    assert (base.key, base.count, other.key, other.count) == ("relu3_1@64", 624, "relu4_1@32", 48)
    opened = open_library(str(library))
    assert find_statistics(opened).digest == base.statistics
    assert find_statistics(opened, ScaleKey("relu4_1", 32)).digest == other.statistics
    assert [(entry["key"], entry["state"]) for entry in inspect(str(library))["statistics"]] == sorted(
        [("relu3_1@64", "current"), ("relu4_1@32", "current")],
        key=lambda pair: {"relu3_1@64": base.statistics, "relu4_1@32": other.statistics}[pair[0]],
    )


def test_statistics_have_the_same_bytes_for_any_unit_size(pictures: Path, library: Path, tmp_path: Path) -> None:
    contents = []
    for unit_size in (1, 3):
        place = tmp_path / f"units-{unit_size}"
        extracted([pictures], place, options=RunOptions(threads=1, unit_size=unit_size), also=("relu4_1@32",))
        statistics(place)
        contents.append(content(place))
    statistics(library)
    assert content(library) == contents[0] == contents[1]


def test_work_that_was_stopped_continues_and_a_second_call_does_nothing(library: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        statistics(library, runner=Recorder(stop_at=1))
    again = Recorder()
    assert statistics(library, runner=again).made
    assert len(again.units) == 1  # of two
    before = hashes(library, "statistics")
    assert not statistics(library).made
    assert hashes(library, "statistics") == before


def test_a_library_that_has_grown_computes_its_new_parts_alone(pictures: Path, library: Path) -> None:
    first = statistics(library)
    draw(pictures / "4.png", 4)
    extracted([pictures], library, also=("relu4_1@32",))
    with pytest.raises(MissingError, match="has no statistics of what it holds now; run: kt-batch statistics"):
        find_statistics(open_library(str(library)))
    recorder = Recorder()
    assert statistics(library, runner=recorder).count == first.count + 16 * 13
    assert len(recorder.units) == 1
    assert read_statistics_summary(open_library(str(library)).location, first.statistics).images == 3


def test_statistics_change_no_snapshot_and_no_other_file(library: Path) -> None:
    before = hashes(library)
    statistics(library)
    after = hashes(library)
    assert before.items() <= after.items()
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"statistics"}


def test_verify_reads_them_and_gc_removes_what_nothing_names(library: Path) -> None:
    statistics(library)
    assert verify(str(library), no_progress).faults == ()
    assert gc(str(library), no_progress).orphans == ()
    left = [f"statistics/{'a' * 64}", f"statistics/moments/part-{'b' * 16}-{'c' * 16}.parquet"]
    for name in left:
        (library / name).write_bytes(b"x")
    assert [orphan.name for orphan in gc(str(library), no_progress).orphans] == left
    gc(str(library), no_progress, delete=True)
    assert verify(str(library), no_progress).faults == ()
    part = next((library / "statistics/moments").iterdir())
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    assert [part.name in fault for fault in verify(str(library), no_progress).faults] == [True]


def test_numbers_that_no_summary_can_name_are_kept_while_one_is_unreadable(library: Path) -> None:
    digest = statistics(library).statistics
    (library / f"statistics/{digest}.json").write_text("{}")
    assert gc(str(library), no_progress).orphans == ()
    assert any("is not the summary of statistics" in fault for fault in verify(str(library), no_progress).faults)


def test_a_receipt_that_is_none_is_one_fault_and_no_reason_to_remove_anything(library: Path) -> None:
    statistics(library)
    receipt = next((library / "statistics/receipts").iterdir())
    receipt.write_text("{}")
    (fault,) = verify(str(library), no_progress).faults
    assert receipt.name in fault
    (library / f"statistics/{'a' * 64}").write_bytes(b"x")
    assert gc(str(library), no_progress).orphans == ()


def test_statistics_work_in_a_folder_of_any_name(pictures: Path, tmp_path: Path) -> None:
    place = tmp_path / "a b#c%20d" / "ü?"
    extracted([pictures], place)
    assert statistics(place).count == 624
    assert verify(str(place), no_progress).faults == ()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mean": np.zeros(3), "second": np.zeros(6)}, "are not finite numbers of"),
        ({"mean": np.zeros(3)}, "cannot be read"),
    ],
    ids=["other channels", "no second moment"],
)
def test_moments_of_another_shape_are_damaged(
    library: Path, arrays: dict[str, NDArray[np.float64]], message: str
) -> None:
    digest = statistics(library).statistics
    data = save(arrays)
    sha256 = hashlib.sha256(data).hexdigest()
    (library / f"statistics/{sha256}").write_bytes(data)
    path = library / f"statistics/{digest}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"moments_sha256": sha256}))
    opened = open_library(str(library))
    with pytest.raises(DamagedError, match=message):
        read_statistics(opened.location, find_statistics(opened))


def test_a_part_with_nan_is_named(library: Path) -> None:
    def nan(table: pa.Table) -> pa.Array:
        width = table.schema.field("vector").type.byte_width
        return pa.array([b"\xff" * width] * table.num_rows, pa.binary(width))

    part_with("patches", column("vector", nan))(library)
    with pytest.raises(DamagedError, match=r"patches/part-.* holds patches with NaN or infinity"):
        statistics(library)


def test_an_unfinished_or_empty_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    extracted([tmp_path / "pictures"], tmp_path / "library")
    with pytest.raises(KtBatchError, match="holds no patches, so there are no statistics of it"):
        statistics(tmp_path / "library")


def test_the_command_prints_the_digest_the_cells_and_the_images(
    library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["statistics", str(library), "--at", "relu4_1@32", "--threads", "1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["key"], printed["count"], printed["images"], printed["made"]) == ("relu4_1@32", 48, 3, True)
    assert run_app(app, ["statistics", str(library), "--at", "relu4_1", "--threads", "1"]) == 2
    assert "is no layer@scale" in capsys.readouterr().err


def test_the_table_of_an_image_has_the_upper_triangle_of_its_second_moment(library: Path) -> None:
    channels = statistics(library).channels
    table = pq.read_table(next((library / "statistics/moments").iterdir()))
    widths = {field.name: field.type.byte_width for field in table.schema if field.name in ("mean", "second")}
    assert widths == {"mean": 8 * channels, "second": 8 * channels * (channels + 1) // 2}


def test_statistics_lie_in_a_bucket_as_in_a_folder(
    pictures: Path,
    library: Path,
    moto_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = moto_server.new_location(monkeypatch)
    extracted([pictures], place.uri, also=("relu4_1@32",))
    made = build_statistics(place.uri, ONE, LocalRunner(), no_progress)
    assert made.statistics == statistics(library).statistics
    assert verify(place.uri, no_progress).faults == ()
    assert gc(place.uri, no_progress).orphans == ()
