"""Search measurements on cases with known results."""

from __future__ import annotations

import math

import pytest

from kt_batch.errors import MismatchError, UsageError, WeightsError
from kt_batch.evaluation import growth as growth_module
from kt_batch.evaluation.growth import bench_growth
from kt_batch.evaluation.paper import bench_paper
from kt_batch.evaluation.search import SearchFigures, bench_search, matrix_gflops, speed_at
from kt_batch.models.weights import EncoderSource
from kt_batch.pipelines.progress import Step, no_progress
from tests.support.collection import PATCHES, Collection


def figures(recall: float, speed: float, searcher: str = "tree") -> SearchFigures:
    return SearchFigures(searcher, 1, recall, 1.0, 10, speed, 0.0, None, None)


def test_the_speed_at_a_recall_is_interpolated_logarithmically_between_settings() -> None:
    rows = [figures(0.9, 1000), figures(1.0, 10), figures(0.95, 7, "another")]
    assert speed_at(rows, "tree", 0.95) == pytest.approx(100)  # half of the way from 10^3 to 10^1
    assert speed_at(rows, "tree", 0.9) == pytest.approx(1000)


def test_a_recall_below_all_settings_has_the_speed_of_the_lowest_setting() -> None:
    assert speed_at([figures(0.9, 1000), figures(1.0, 10)], "tree", 0.5) == pytest.approx(1000)


def test_a_recall_that_no_setting_reaches_has_no_speed() -> None:
    assert speed_at([figures(0.9, 1000)], "tree", 0.95) is None
    assert speed_at([], "tree", 0.95) is None


def test_time_that_doubles_when_patches_quadruple_has_exponent_one_half() -> None:
    assert growth_module._exponent([(100, 1.0), (400, 2.0), (1600, 4.0)]) == pytest.approx(0.5)


def test_the_rate_of_a_large_product_is_positive() -> None:
    assert matrix_gflops(64) > 0


def test_every_searcher_is_measured_and_the_exact_one_has_full_recall(collection: Collection, threads: None) -> None:
    pytest.importorskip("faiss", reason="the peers are searched through faiss")
    steps: list[Step] = []
    table = bench_search(str(collection.library), [str(collection.photos)], EncoderSource(), ["ivf"], 1, steps.append)
    rows = {(row.searcher, row.setting): row for row in table.rows}
    assert table.patches <= 4 * PATCHES
    assert table.queries == 3 * PATCHES
    assert rows["exact", None].recall == rows["exact", None].ncc_ratio == 1
    assert rows["scan", None].recall > 0.99
    assert table.scan_device in ("cpu", "cuda")
    assert rows["tree --certify", 16].recall == rows["tree --certify", 16].certified == 1
    assert rows["ivf", 64].recall == 1  # more than the number of lists
    assert rows["bhkm 4", 1].recall == rows["hkm", 1].recall <= 1
    assert all(row.queries_per_second > 0 for row in table.rows)
    assert {step.stage for step in steps} == {"tree", "4bit", "5bit", "ivf"}
    # Each row is reported as soon as it is measured, so that a failure does not lose it.
    exact = rows["exact", None]
    assert f"exact: recall 1.0000, NCC ratio 1.00000, {exact.queries_per_second:.0f} queries/s" in [
        s.note for s in steps
    ]
    assert len([step for step in steps if step.note]) == len(table.rows)


def test_an_encoder_other_than_that_of_the_library_is_refused(
    collection: Collection, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from kt_batch.models.weights import encoder_bytes, load_encoder

    network = load_encoder(EncoderSource()).network
    for parameter in network.parameters():
        parameter.data *= 1.01
    other = tmp_path_factory.mktemp("other") / "encoder.safetensors"
    other.write_bytes(encoder_bytes(network, "kt-vgg"))
    source = EncoderSource("kt-vgg", str(other))
    with pytest.raises(MismatchError, match="was made with encoder weights"):
        bench_search(str(collection.library), [str(collection.photos)], source, [], 1, no_progress)


def test_growth_needs_two_sizes(collection: Collection, threads: None) -> None:
    with pytest.raises(UsageError, match="growth needs at least 262144"):
        bench_growth(str(collection.library), [str(collection.photos)], EncoderSource(), 0.9, 0, 1, no_progress)


def test_growth_measures_every_size_up_to_that_of_the_library(
    collection: Collection, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth_module, "SIZES", (150, 300, 600, 10**6))
    found = bench_growth(str(collection.library), [str(collection.photos)], EncoderSource(), 0.0, 0, 1, no_progress)
    assert [size.patches for size in found.sizes] == pytest.approx([150, 300, 600], abs=30)  # minus duplicates
    assert found.query_exponent is None or math.isfinite(found.query_exponent)
    assert math.isfinite(found.build_exponent)


def test_the_papers_tables_need_six_paintings(collection: Collection) -> None:
    photos = [str(collection.photos)]
    with pytest.raises(UsageError, match="at least six paintings, not 3"):
        bench_paper(photos, photos, EncoderSource(), ["relu4_1"], [], 1, no_progress)


def test_missing_decoders_are_reported_before_any_measurement(collection: Collection) -> None:
    source, pictures = EncoderSource(), [str(collection.paintings), str(collection.photos)]
    with pytest.raises(UsageError, match="2 layers need as many decoders, or none; 1 were given"):
        bench_paper(pictures, pictures, source, ["relu4_1", "relu3_1"], ["some.safetensors"], 1, no_progress)
    with pytest.raises(WeightsError, match=r"missing\.safetensors"):
        bench_paper(pictures, pictures, source, ["relu4_1"], ["missing.safetensors"], 1, no_progress)


def test_the_papers_tables_have_a_row_for_every_searcher_and_a_sheet_for_every_figure(
    collection: Collection, threads: None
) -> None:
    pytest.importorskip("faiss", reason="pq is searched through faiss")
    pictures = [str(collection.paintings), str(collection.photos)]
    rows, sheets = bench_paper(pictures, [str(collection.photos)], EncoderSource(), ["relu3_1"], [], 1, no_progress)
    by_name = {row.searcher: row for row in rows}
    assert list(by_name) == ["traverse", "exact", "pq", "hkm", "bhkm 1", "bhkm 2", "bhkm 3", "bhkm 4", "tree"]
    assert by_name["traverse"].recall == by_name["exact"].recall == 1
    assert by_name["hkm"].recall == by_name["bhkm 4"].recall
    assert by_name["traverse"].paper == 3.981e-3
    assert by_name["tree"].paper is None
    assert {name for name, data in sheets.items() if data.startswith(b"\x89PNG")} == {
        "fig12-relu3_1.png",
        "fig13-relu3_1.png",
    }
