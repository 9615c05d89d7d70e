"""Libraries of patches at several keys `layer@scale`, and an index for each key."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
from pydantic import ValidationError

from kt_batch.config import EncoderConfig, ExtractConfig, IndexConfig, RunOptions, ScaleKey
from kt_batch.errors import DamagedError, MismatchError, MissingError, UsageError
from kt_batch.maintenance.gc import gc
from kt_batch.maintenance.recompute import Recompute, recompute
from kt_batch.maintenance.verify import verify
from kt_batch.models.weights import EncoderSource, load_encoder
from kt_batch.pipelines.extract.plan import disk_estimate
from kt_batch.pipelines.extract.worker import keyed_patches
from kt_batch.pipelines.index.finish import BuildSummary, build_index
from kt_batch.pipelines.progress import no_progress
from kt_batch.pipelines.translate.finish import translate
from kt_batch.pipelines.translate.plan import TranslateRequest
from kt_batch.pipelines.translate.sources import Choice, choose
from kt_batch.report.explain import explain
from kt_batch.report.inspect import inspect
from kt_batch.report.views import connect, sql
from kt_batch.runners.local import LocalRunner
from kt_batch.store.images.files import decode
from kt_batch.store.indexes import IndexSummary, ShardRef, find_index, index_digest, write_index_summary
from kt_batch.store.library import Library
from kt_batch.store.local import LocalLocation
from kt_batch.store.locations import open_location
from kt_batch.store.opening import open_library
from kt_batch.store.receipts import Receipt, TableRef
from tests.support.tiny import SIZE, TREE, draw, draw_all, encoder_config, extracted, hashes, indexed, parts, rows

ALSO = ("relu4_1@32", "relu3_1@32", "relu4_1@64")
ONE = RunOptions(threads=1)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return 1.png .. 4.png of 72 x 56 pixels: 64 x 50 at scale 64, and 32 x 25 at scale 32."""
    return draw_all(tmp_path / "pictures", [1, 2, 3, 4])


@pytest.fixture
def library(pictures: Path, tmp_path: Path) -> Path:
    extracted([pictures], tmp_path / "library", also=ALSO)
    return tmp_path / "library"


def indexed_at(library: Path, key: str, config: IndexConfig = TREE) -> BuildSummary:
    return build_index(str(library), config, ONE, LocalRunner(), no_progress, ScaleKey.parse(key))


def part_hashes(library: Path, folder: str) -> set[str]:
    return set(hashes(library, folder).values())


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_read_and_written_as_layer_at_scale() -> None:
    assert ScaleKey.parse("relu4_1@256") == ScaleKey("relu4_1", 256)
    assert str(ScaleKey("relu2_1", 4096)) == "relu2_1@4096"


@pytest.mark.parametrize(
    "text",
    ["relu4_1", "relu4_1@", "relu5_1@256", "relu4_1@7", "relu4_1@4097", "relu4_1@0256", "relu4_1@٢٥٦", "../x@64"],
)
def test_no_other_text_is_a_key(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no layer@scale such as relu4_1@256"):
        ScaleKey.parse(text)


def test_further_keys_have_one_order_whatever_the_order_of_the_options() -> None:
    one, other = (ExtractConfig(encoder=encoder_config(), also=keys) for keys in (ALSO, ALSO[::-1]))
    assert one.digest() == other.digest()
    assert [str(key) for key in one.keys] == ["relu3_1@64", "relu3_1@32", "relu4_1@32", "relu4_1@64"]


@pytest.mark.parametrize("also", [("relu3_1@64",), ("relu4_1@32", "relu4_1@32")], ids=["the base key", "a key twice"])
def test_a_key_is_kept_once(also: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="stands twice; each layer@scale is kept once"):
        ExtractConfig(encoder=encoder_config(), also=also)


# ---- what has no further key stays as it was -------------------------------------------------------------------------

PLAIN = ExtractConfig(encoder=EncoderConfig(weights_sha256="0" * 64))
SNAPSHOT = "0123456789abcdef"


def test_digests_of_libraries_without_further_keys_are_those_of_earlier_versions() -> None:
    assert PLAIN.digest() == "de48f99d6b09077f"
    assert index_digest(IndexConfig(), SNAPSHOT) == "9a88c0b5010d4735"
    assert index_digest(TREE, SNAPSHOT) == "dbdc0fa2e7dd3b44"
    assert {"also", "keep_images"}.isdisjoint(PLAIN.model_dump(mode="json"))  # as in their plans


def test_the_summary_of_an_index_of_the_base_key_has_the_bytes_of_earlier_versions(tmp_path: Path) -> None:
    summary = IndexSummary(
        digest=SNAPSHOT, config=IndexConfig(), snapshot=SNAPSHOT, layer="relu3_1", channels=64, patches=9, kept=8,
        leaves=1, tree_sha256="1" * 64, tree_bytes=5, members_sha256="2" * 64,
        shards=(ShardRef(sha256="3" * 64, bytes=7),), numerics={"torch": "2"},
    )  # fmt: skip
    write_index_summary(LocalLocation(tmp_path), summary)
    (sha256,) = hashes(tmp_path).values()
    assert sha256 == "b7383bbc27c5fc930d4712d4006f4ee0fa9c55cd1afba137e3e857d62306b8fb"


def test_a_receipt_without_further_keys_has_the_bytes_of_earlier_versions() -> None:
    name = f"patches/part-{SNAPSHOT}-{'4' * 16}.parquet"
    table = TableRef(kind="patches", name=name, rows=1, bytes=2, sha256="4" * 64)
    receipt = Receipt(unit=SNAPSHOT, attempt=SNAPSHOT, config_digest=SNAPSHOT, tables=(table,), images=1, patches=1)
    assert receipt.to_json() == (
        b'{"attempt":"0123456789abcdef","config_digest":"0123456789abcdef","format":"kt-batch-receipt/1","images":1,'
        b'"numerics":{},"outputs":[],"patches":1,"rejects":0,"tables":[{"bytes":2,"kind":"patches","rows":1,'
        b'"sha256":"4444444444444444444444444444444444444444444444444444444444444444"}],"timings":{},'
        b'"unit":"0123456789abcdef"}'
    )


def test_the_parts_of_the_base_key_do_not_depend_on_further_keys(pictures: Path, library: Path, tmp_path: Path) -> None:
    extracted([pictures], tmp_path / "plain")
    plain = {name: sha for name, sha in hashes(tmp_path / "plain").items() if name.startswith(("images/", "patches/"))}
    assert len(plain) == 4
    assert plain.items() <= hashes(library).items()
    assert open_library(str(library)).patches == open_library(str(tmp_path / "plain")).patches == 4 * 15 * 12


# ---- further keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ALSO)
def test_patches_of_a_further_key_are_those_of_a_library_whose_base_key_it_is(
    pictures: Path, library: Path, tmp_path: Path, key: str
) -> None:
    layer, _, size = key.partition("@")
    encoder = encoder_config(int(size)).model_copy(update={"layer": layer})
    extracted([pictures], tmp_path / "other", encoder=encoder)
    assert part_hashes(library, f"patches/{key}") == part_hashes(tmp_path / "other", "patches")


def test_patches_are_counted_by_key(library: Path) -> None:
    opened = open_library(str(library))
    counts = {str(key): opened.patches_at(key) for key in opened.config.keys}
    # Cells: 16 x 13 and 8 x 7 of 64 x 50 pixels at strides 4 and 8, and 8 x 7 and 4 x 4 of 32 x 25 pixels.
    assert counts == {"relu3_1@64": 720, "relu4_1@64": 4 * 7 * 6, "relu3_1@32": 4 * 7 * 6, "relu4_1@32": 4 * 3 * 3}
    assert json.loads((library / "library.json").read_text())["patches_also"] == {
        "relu3_1@32": 168, "relu4_1@32": 36, "relu4_1@64": 168,
    }  # fmt: skip


def test_an_image_smaller_than_a_scale_is_encoded_as_it_is(tmp_path: Path) -> None:
    draw(tmp_path / "pictures" / "1.png", 1, width=40, height=32)
    extracted([tmp_path / "pictures"], tmp_path / "library", encoder=encoder_config(128), also=("relu3_1@64",))
    assert part_hashes(tmp_path / "library", "patches/relu3_1@64") <= {
        ref.sha256 for ref in parts(tmp_path / "library", "patches")
    }


@pytest.mark.parametrize(("height", "passes"), [(56, 1), (50, 3)], ids=["sides of 8", "a side of 50"])
def test_layers_of_one_scale_share_a_pass_where_they_pad_the_image_alike(
    tmp_path: Path, height: int, passes: int
) -> None:
    network = load_encoder(EncoderSource()).network
    config = ExtractConfig(encoder=encoder_config(), also=("relu4_1@64", "relu2_1@64"))
    image = decode(draw(tmp_path / "1.png", 1, width=64, height=height).read_bytes(), SIZE)
    seen = []
    hook = network.get_submodule("conv1_1").register_forward_hook(lambda *_: seen.append(1))
    try:
        tables = keyed_patches(network, image, "0" * 16, config)
    finally:
        hook.remove()
    # Heights at strides 2, 4 and 8: 56, 56, 56; or 50, 52, 56.
    assert len(seen) == passes
    assert set(tables) == set(config.keys)


def test_the_disk_estimate_adds_up_the_keys() -> None:
    network = load_encoder(EncoderSource()).network
    base, more = (
        disk_estimate(1, ExtractConfig(encoder=encoder_config(), also=a), EncoderSource()) for a in ((), ALSO)
    )
    # Square images: 7 x 7 patches of relu4_1@64 and relu3_1@32, 3 x 3 of relu4_1@32.
    wide, narrow = (8 * network.channels_at(layer) + 40 for layer in ("relu4_1", "relu3_1"))
    assert more - base == 49 * wide + 9 * wide + 49 * narrow


def test_a_library_of_several_keys_does_not_depend_on_the_unit_size(
    pictures: Path, library: Path, tmp_path: Path
) -> None:
    extracted([pictures], tmp_path / "other", options=RunOptions(threads=1, unit_size=3), also=ALSO[::-1])
    digests = [verify(str(place), no_progress).digest for place in (library, tmp_path / "other")]
    assert digests[0] == digests[1] is not None


def test_verify_reads_every_key_and_gc_removes_only_what_no_receipt_names(library: Path) -> None:
    part = next((library / "patches/relu4_1@32").iterdir())
    left = part.with_name(part.name[:-24] + "0123456789abcdef.parquet")
    left.write_bytes(part.read_bytes())
    assert [orphan.name for orphan in gc(str(library), no_progress).orphans] == [f"patches/relu4_1@32/{left.name}"]
    gc(str(library), no_progress, delete=True)
    assert not left.exists()
    assert verify(str(library), no_progress).faults == ()
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    assert [part.name in fault for fault in verify(str(library), no_progress).faults] == [True]


def test_done_once_more_the_patches_of_every_key_are_compared(library: Path) -> None:
    assert len(recompute(str(library), Recompute(4), no_progress).equal) == 4


def test_views_and_inspect_know_every_key(library: Path) -> None:
    with closing(duckdb.connect()) as shell:
        shell.execute(sql(str(library)))
        for view, count in {"patches": 720, "patches_relu4_1_32": 36, "patches_relu3_1_32": 168}.items():
            assert shell.execute(f"SELECT count(*) FROM {view}").fetchone() == (count,)
    assert inspect(str(library))["patches_also"]["relu4_1@64"] == 168


@pytest.mark.parametrize("kind", ["patches/relu9_1@32", "patches/..", "images/relu4_1@32", "patches/relu4_1@32/x"])
def test_a_receipt_names_no_other_folder(kind: str) -> None:
    name = f"{kind}/part-{SNAPSHOT}-{'4' * 16}.parquet"
    with pytest.raises(ValidationError):
        TableRef(kind=kind, name=name, rows=1, bytes=2, sha256="4" * 64)


# ---- an index for each key -------------------------------------------------------------------------------------------


def test_an_index_of_the_base_key_is_that_of_a_library_of_the_same_snapshot_and_says_no_scale(library: Path) -> None:
    base, named = indexed(library), indexed_at(library, "relu3_1@64")
    assert (named.index, named.built) == (base.index, False)
    assert "scale" not in json.loads((library / f"index/{base.index}/index.json").read_text())


def test_each_key_has_an_index_of_its_own_patches(library: Path) -> None:
    built = {key: indexed_at(library, key) for key in ("relu3_1@64", *ALSO)}
    assert len({summary.index for summary in built.values()}) == 4
    assert {key: summary.patches for key, summary in built.items()} == {
        "relu3_1@64": 720, "relu4_1@32": 36, "relu3_1@32": 168, "relu4_1@64": 168,
    }  # fmt: skip
    opened = open_library(str(library))
    for key, summary in built.items():
        found = find_index(opened, None, ScaleKey.parse(key))
        assert (found.digest, str(found.key(opened))) == (summary.index, key)
    assert find_index(opened, None).digest == built["relu3_1@64"].index
    assert {entry["key"] for entry in inspect(str(library))["indexes"]} == built.keys()
    assert verify(str(library), no_progress).faults == ()
    assert gc(str(library), no_progress).orphans == ()


def test_an_index_at_a_key_has_the_shards_of_a_library_whose_base_key_it_is(
    pictures: Path, library: Path, tmp_path: Path
) -> None:
    extracted([pictures], tmp_path / "other", encoder=encoder_config(32))
    indexed(tmp_path / "other")
    indexed_at(library, "relu3_1@32")
    assert part_hashes(library, "index/shards") == part_hashes(tmp_path / "other", "index/shards")


def test_a_key_without_an_index_is_named_with_the_command_that_builds_it(library: Path) -> None:
    indexed(library)
    opened = open_library(str(library))
    with pytest.raises(MissingError, match=r"has no index at relu4_1@32; run: kt-batch index .* --at relu4_1@32"):
        find_index(opened, None, ScaleKey("relu4_1", 32))
    with pytest.raises(MissingError, match=r"has no index; run: kt-batch index"):
        find_index(_without_indexes(opened.location.uri), None)


def _without_indexes(uri: str) -> Library:
    library = open_library(uri)
    for name in library.location.list("index"):
        library.location.delete(name)
    return library


def test_two_indexes_of_one_key_are_still_refused(library: Path) -> None:
    for config in (TREE, TREE.model_copy(update={"seed": 1})):
        indexed_at(library, "relu4_1@32", config)
    with pytest.raises(MismatchError, match=r"2 indexes of its present state at relu4_1@32; choose with --index"):
        find_index(open_library(str(library)), None, ScaleKey("relu4_1", 32))


def test_a_named_index_of_another_key_is_refused(library: Path) -> None:
    base, opened = indexed(library).index, open_library(str(library))
    with pytest.raises(MismatchError, match=f"The index {base} of .* is of relu3_1@64, not of relu4_1@32"):
        find_index(opened, base[:6], ScaleKey("relu4_1", 32))
    assert find_index(opened, base[:6]).digest == base


def test_a_key_that_the_library_does_not_keep_is_refused(library: Path) -> None:
    with pytest.raises(UsageError, match=r"keeps no patches at relu2_1@32; it keeps those at relu3_1@64, relu3_1@32"):
        indexed_at(library, "relu2_1@32")


def test_an_index_whose_scale_is_no_scale_is_damaged(library: Path) -> None:
    path = library / f"index/{indexed_at(library, 'relu4_1@32').index}/index.json"
    path.write_text(re.sub(r'"scale": 32', '"scale": 99999', path.read_text()))
    with pytest.raises(DamagedError, match="is not of format"):
        find_index(open_library(str(library)), None)


# ---- a run over a further key ----------------------------------------------------------------------------------------


def test_explain_computes_the_boxes_of_the_key_that_was_searched(pictures: Path, library: Path, tmp_path: Path) -> None:
    index = indexed_at(library, "relu3_1@32").index
    config, sources = choose("knowledge", {}, Choice(library=str(library), index=index, cache=str(tmp_path / "cache")))
    assert config.encoder is not None
    assert (config.encoder.layer, config.encoder.size) == ("relu3_1", 32)
    photo = draw(tmp_path / "photo.png", 9)
    run = tmp_path / "run"
    translate(TranslateRequest([str(photo)], str(run), config, sources, ONE), LocalRunner(), no_progress)
    stored = {
        (row["image_id"].hex(), row["row"], row["col"]): tuple(row[edge] for edge in ("x0", "y0", "x1", "y1"))
        for row in rows(library, "patches/relu3_1@32")
    }
    found = explain(str(run), "photo.png", 16, 12).contributions
    assert found
    for part in found:
        box = part.box
        assert (box.x0, box.y0, box.x1, box.y1) == stored[part.image_id, part.source_row, part.source_col]
    with closing(connect(str(run))) as database:
        boxes = database.execute("SELECT hex(source_image_id), source_row, source_col, x0, y0, x1, y1 FROM sources")
        for image, row, col, *edges in boxes.fetchall():
            assert stored[image.lower(), row, col] == tuple(edges)
    assert open_location(str(run)).list("images")
