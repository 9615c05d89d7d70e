"""`docs/formats.md` names every column, every format version and every kind of file."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from kt_batch.store import layout, output_shards, schemas
from kt_batch.store.receipts import Receipt

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
SCHEMAS = {
    **{name: value for name, value in vars(schemas).items() if isinstance(value, pa.Schema)},
    "patches_schema": schemas.patches_schema(64),
    "statistics_schema": schemas.statistics_schema(64),
    "output_shards": output_shards.ROWS,
}
ELSEWHERE = ("kt-batch-encoder/", "kt-batch-decoder/", "kt-batch-stylebank/", "kt-batch-bank/")  # docs/models.md


def test_every_schema_is_checked() -> None:
    made = {name for name in vars(schemas) if name.endswith("_schema")}
    assert made <= SCHEMAS.keys()
    assert {"PLAN", "IMAGES", "REJECTS", "MEMBERS", "PROVENANCE", "SHARES"} <= SCHEMAS.keys()


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_column_is_described(name: str) -> None:
    assert [column for column in SCHEMAS[name].names if f"`{column}`" not in TEXT] == []


def test_every_format_version_is_described() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "kt_batch").rglob("*.py"))
    formats = {found for found in re.findall(r"\"(kt-batch-[a-z]+/\d+)\"", code) if not found.startswith(ELSEWHERE)}
    assert len(formats) >= 8
    assert {found for found in formats if f"`{found}`" not in TEXT} == set()


def test_no_obsolete_format_version_is_described() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "kt_batch").rglob("*.py"))
    assert {found for found in re.findall(r"`(kt-batch-[a-z]+/\d+)`", TEXT) if found not in code} == set()


def test_every_kind_of_file_and_every_receipt_field_is_described() -> None:
    kinds = {*layout.LIBRARY_KINDS, *layout.RUN_KINDS, layout.SAMPLE, layout.MEMBERS}
    folders = {layout.PLAN, layout.RECEIPTS, layout.OPTIONS, layout.OUTPUTS, layout.SHARDS, layout.TOP, layout.SUBTREES}
    folders |= {layout.OUTPUT_SHARDS, layout.ROUTED, layout.CLUSTERS}
    assert {folder for folder in kinds | folders if f"{folder}/" not in TEXT} == set()
    files = [layout.LIBRARY_SUMMARY, layout.RUN_SUMMARY, *layout.index_files("<digest>")]
    assert {file for file in files if f"`{file}`" not in TEXT} == set()
    assert {field for field in Receipt.model_fields if f"`{field}`" not in TEXT} == set()
