"""Lists of pairs: which tables are one, what their places mean, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kt_batch.errors import UsageError
from kt_batch.store.manifest_files import read_manifest, read_pair_list
from kt_batch.store.manifests import Row

BEFORE = [Row("/data/a.dng", ("split=train",)), Row("s3://raw/b.dng", ("split=test",))]
AFTER = [Row("/elsewhere/x.jpg"), Row("/edits/b.jpg")]
TABLE = {
    "before": ["a.dng", "s3://raw/b.dng"],
    "after": ["/elsewhere/x.jpg", "../edits/b.jpg"],
    "split": ["train", "test"],
}


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "before,after,split\n{}/a.dng,/elsewhere/x.jpg,train\ns3://raw/b.dng,/edits/b.jpg,test\n"),
        ("p.tsv", "after\tsplit\tbefore\n/elsewhere/x.jpg\ttrain\t{}/a.dng\n/edits/b.jpg\ttest\ts3://raw/b.dng\n"),
        (
            "p.jsonl",
            (
                '{{"before": "{}/a.dng", "after": "/elsewhere/x.jpg", "split": "train"}}\n'
                '{{"before": "s3://raw/b.dng", "after": "/edits/b.jpg", "split": "test"}}\n'
            ),
        ),
    ],
)
def test_tables_of_text_are_lists_of_pairs(tmp_path: Path, name: str, text: str) -> None:
    found = read_pair_list(written(tmp_path, name, text.format("/data")))
    assert (list(found.before.rows), list(found.after.rows)) == (BEFORE, AFTER)


def test_relative_places_are_relative_to_the_list(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    pq.write_table(pa.table(TABLE), tmp_path / "lists/p.parquet")
    found = read_pair_list(str(tmp_path / "lists/p.parquet"))
    assert [row.place for row in found.before.rows] == [f"{tmp_path}/lists/a.dng", "s3://raw/b.dng"]
    assert [row.place for row in found.after.rows] == ["/elsewhere/x.jpg", f"{tmp_path}/lists/../edits/b.jpg"]
    assert found.before.rows[0].tags == ("split=train",)


def test_the_stores_of_both_sides_are_named_by_the_list(tmp_path: Path) -> None:
    found = read_pair_list(written(tmp_path, "p.csv", "before,after\ns3://raw/a.dng,https://example.org/a.jpg\n"))
    origins = [manifest.origins() for manifest in found.manifests]
    assert origins[0] != origins[1]
    assert None not in origins[0] | origins[1]


def test_rows_without_both_places_are_counted(tmp_path: Path) -> None:
    found = read_pair_list(written(tmp_path, "p.csv", "before,after\na.jpg,\n,b.jpg\nc.jpg,d.jpg\n"))
    assert len(found.before.rows) == len(found.after.rows) == 1
    assert found.before.passed_over == {"row without a place": 2}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.csv", "uri,after\na.jpg,b.jpg\n", "needs one column 'before'; its columns are 'uri', 'after'"),
        ("p.csv", "before,after,after\na,b,c\n", "needs one column 'after'"),
        ("p.csv", "before,after\n", "names no pair; allowed are .csv, .jsonl and .parquet with the columns"),
        ("p.jsonl", '{"before": "a.jpg"}\n', "has no column 'after'; allowed are .csv, .jsonl and .parquet with"),
        ("p.jsonl", '{"before": 3, "after": "b.jpg"}\n', "has the place 3; allowed is text"),
        ("p.txt", "a.jpg b.jpg\n", "is no table; allowed are .csv, .jsonl and .parquet with the columns"),
    ],
)
def test_what_is_no_list_of_pairs_is_refused_in_words(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        read_pair_list(written(tmp_path, name, text))
    assert said in str(error.value)


def test_a_column_of_numbers_is_no_column_of_places(tmp_path: Path) -> None:
    pq.write_table(pa.table({"before": ["a.jpg"], "after": [1]}), tmp_path / "p.parquet")
    with pytest.raises(UsageError, match="has the column 'after' of type int64; allowed is text"):
        read_pair_list(str(tmp_path / "p.parquet"))


def test_the_columns_of_pairs_are_tags_in_a_list_of_images(tmp_path: Path) -> None:
    place = written(tmp_path, "p.csv", "uri,before,after\n/data/a.jpg,x,y\n")
    assert list(read_manifest(place).rows) == [Row("/data/a.jpg", ("after=y", "before=x"))]
