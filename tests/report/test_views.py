"""SQL over what is committed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from kt_batch.errors import MissingError, StorageError
from kt_batch.report.explain import explain
from kt_batch.report.views import connect, sql
from kt_batch.store.opening import open_run
from tests.report.conftest import HOSTILE, LONG, Made
from tests.support.s3_server import S3Server, moto_server  # noqa: F401  # the fixture

PARK = "images/park/a.jpg.png"


def rows(place: str | Path, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    with closing(connect(str(place))) as connection:
        return connection.execute(query, list(parameters)).fetchall()


def views(place: str | Path) -> list[str]:
    return [name for (name,) in rows(place, "SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1")]


def test_a_library_has_five_views_and_a_run_four(made: Made) -> None:
    assert views(made.library) == ["image_uris", "images", "members", "patches", "rejects"]
    assert views(made.blended) == ["outputs", "provenance", "rejects", "sources"]


def test_the_views_of_a_library_contain_its_tables(made: Made) -> None:
    assert rows(made.library, "SELECT count(*), sum(original_width) FROM images") == [(2, 96 + 120)]
    assert rows(made.library, "SELECT count(*), min(x0), max(x1) FROM patches") == [(300, 0, 64)]
    assert rows(made.library, "SELECT reason FROM rejects") == [("not_an_image",)]
    assert rows(made.library, "SELECT name FROM image_uris ORDER BY name") == [
        ("broken.jpg",), ("sea.png",), ("wheat again.png",), ("wheat.png",),
    ]  # fmt: skip


def test_members_are_those_of_the_current_index(made: Made, tmp_path: Path) -> None:
    library = shutil.copytree(made.library, tmp_path / "library")
    summary = json.loads((library / "index" / made.index / "index.json").read_text())
    merged = summary["patches"] - summary["kept"]
    assert rows(library, "SELECT count(*) FROM members WHERE index_digest = ?", made.index) == [(merged,)]
    shutil.rmtree(library / "index")
    assert rows(library, "SELECT index_digest, patch_id, kept_patch_id FROM members") == []


def test_files_without_a_receipt_are_not_in_the_views(made: Made, tmp_path: Path) -> None:
    run = shutil.copytree(made.blended, tmp_path / "run")
    (part,) = [
        path for path in (run / "provenance").iterdir() if open_run(str(run)).outputs[PARK].part.name in str(path)
    ]
    shutil.copy(part, part.with_name("part-0123456789abcdef-0123456789abcdef.parquet"))
    count = "SELECT count(*) FROM provenance"
    assert rows(run, count) == rows(made.blended, count) == [(2 * (14 * 13 + 2 * 11 * 9),)]


def test_a_kind_without_parts_is_an_empty_view_with_the_same_columns(made: Made) -> None:
    described = "SELECT column_name, column_type FROM (DESCRIBE rejects)"
    assert rows(made.blended, described) == rows(made.library, described)
    assert rows(made.blended, "SELECT * FROM rejects") == []


def test_outputs_name_their_inputs_and_summarise_their_matches(made: Made) -> None:
    found = rows(made.blended, "SELECT output, name, patches FROM outputs")
    outputs = open_run(str(made.blended)).outputs
    assert [row[0] for row in found] == list(outputs)
    assert {row[1]: row[2] for row in found} == {"park/a.jpg": 14 * 13, HOSTILE: 11 * 9, LONG: 11 * 9}
    for output, uri in rows(made.blended, "SELECT output, uri FROM outputs"):
        assert uri == outputs[output].uri


def test_the_boxes_of_sources_are_those_of_the_patches_in_the_library(made: Made) -> None:
    with closing(connect(str(made.blended))) as connection:
        for statement in sql(str(made.library)).split("\n\n"):
            connection.execute(statement)
        compared = connection.execute(
            """
            SELECT count(*), count(*) FILTER (
              (s.x0, s.y0, s.x1, s.y1) = (p.x0, p.y0, p.x1, p.y1)
              AND s.file_x0 = floor(s.x0 * (i.original_width / i.width))
              AND s.file_y1 = ceil(s.y1 * (i.original_height / i.height))
            )
            FROM sources s
            JOIN patches p ON p.image_id = s.source_image_id AND p.row = s.source_row AND p.col = s.source_col
            JOIN images i ON i.image_id = s.source_image_id
            """
        ).fetchall()
    assert compared == [(2 * (14 * 13 + 2 * 11 * 9),) * 2]


def test_the_sources_view_agrees_with_explain(made: Made) -> None:
    found = explain(str(made.blended), PARK, 9, 10).contributions
    seen = rows(
        made.blended,
        "SELECT hex(source_image_id), uris, x0, y0, x1, y1, file_x0, file_y0, file_x1, file_y1, ncc, license "
        "FROM sources WHERE output = ? AND row IN (1, 2) AND col IN (1, 2) ORDER BY row, col, rank",
        PARK,
    )
    assert seen == [
        (
            entry.image_id.upper(), list(entry.uris),
            entry.box.x0, entry.box.y0, entry.box.x1, entry.box.y1,
            entry.file_box.x0, entry.file_box.y0, entry.file_box.x1, entry.file_box.y1,
            entry.ncc, "CC0",
        )
        for entry in found
    ]  # fmt: skip


def test_a_run_without_its_library_has_every_view_except_sources(made: Made, tmp_path: Path) -> None:
    run = shutil.copytree(made.blended, tmp_path / "run")
    summary = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**summary, "library": str(tmp_path / "gone")}))
    assert views(run) == ["outputs", "provenance", "rejects"]


@pytest.mark.parametrize("which", ["library", "blended"])
def test_the_printed_sql_works_without_kt_batch(made: Made, which: str) -> None:
    place = getattr(made, which)
    with closing(duckdb.connect()) as shell:
        shell.execute(sql(str(place)))
        for name in views(place):
            assert shell.execute(f"SELECT count(*) FROM {name}").fetchall() == rows(
                place, f"SELECT count(*) FROM {name}"
            )


@pytest.mark.parametrize("name", ["it's", "a[b]c", "*", "year=2020", "spaced out?", "'); DROP VIEW images; --"])
def test_a_place_may_have_any_name(made: Made, tmp_path: Path, name: str) -> None:
    library = shutil.copytree(made.library, tmp_path / name / "library")
    with closing(connect(str(library))) as connection:
        assert connection.execute("SELECT count(*) FROM images").fetchall() == [(2,)]
        assert len(connection.execute("SELECT * FROM rejects").description or []) == 4


def test_a_library_in_a_bucket_has_the_same_views(
    made: Made,
    moto_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = moto_server.new_location(monkeypatch)
    for name in files_below(made.library):
        place.put_if_absent(name, (made.library / name).read_bytes())
    query = "SELECT hex(image_id), row, col, x0, x1 FROM patches ORDER BY patch_id"
    assert rows(place.uri, query) == rows(made.library, query)
    assert f"'{place.uri}/images/part-" in sql(place.uri)


def test_a_local_run_asks_no_bucket_that_only_it_names(
    made: Made,
    moto_server: S3Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    place = moto_server.new_location(monkeypatch)
    for name in files_below(made.library):
        place.put_if_absent(name, (made.library / name).read_bytes())
    run = shutil.copytree(made.blended, tmp_path / "run")
    summary = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**summary, "library": place.uri}))
    with pytest.raises(duckdb.CatalogException, match="sources does not exist"):
        rows(run, "SELECT * FROM sources")
    query = "SELECT output, row, col, rank FROM provenance ORDER BY ALL"
    assert rows(run, query) == rows(made.blended, query)


def files_below(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_missing_part_is_one_clear_error(made: Made, tmp_path: Path) -> None:
    library = shutil.copytree(made.library, tmp_path / "library")
    for path in (library / "images").iterdir():
        path.unlink()
    with pytest.raises(StorageError, match=r"^The tables of '[^\n]*library' cannot be read: [^\n]*part-[^\n]*$"):
        connect(str(library))


def test_a_place_without_a_plan_has_no_views(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="neither a knowledge library nor a run"):
        sql(str(tmp_path))
