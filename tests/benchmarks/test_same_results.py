"""The comparison of the results of two checkouts reports only real differences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.draw_images import draw_images
from benchmarks.same_results import compare, places, read_contents

UNIT = "0123456789abcdef"
LIBRARY = Path("libraries/default")
RUN = Path("runs/default")
REJECTS = f"rejects/part-{UNIT}-{'a' * 16}.parquet"

Change = Callable[[Path], object]


def write(path: Path, content: bytes | dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def write_plan(place: Path, uri: str = "a.png", metadata: str = "{}") -> None:
    columns = {"unit": [bytes.fromhex(UNIT)], "image_id": [b"12345678"], "uri": [uri], "name": ["a.png"]}
    (place / "plan").mkdir(parents=True, exist_ok=True)
    table = pa.table(columns).replace_schema_metadata({"config": metadata})
    pq.write_table(table, place / "plan/000000.parquet")


def write_rejects(place: Path, name: str = REJECTS, reason: str = "damaged", message: str = "cannot be read") -> None:
    (place / "rejects").mkdir(parents=True, exist_ok=True)
    row = {"uri": "broken.png", "stage": "decode", "reason": reason, "message": message}
    pq.write_table(pa.Table.from_pylist([row]), place / name)


def receipt(**changes: Any) -> dict[str, Any]:
    tables = [{"kind": "patches", "sha256": "b", "bytes": 3}, {"kind": "rejects", "sha256": "c", "bytes": 4}]
    fixed = {"unit": UNIT, "config_digest": "d" * 16, "tables": tables, "patches": 7}
    return {**fixed, "attempt": "1", "timings": {"read": 1}, "finished": 5.0, "worker": "host:1", **changes}


def fabricate(root: Path) -> Path:
    """Write a fabricated library with an index, a run, a page and the records."""
    for place, summary in ((root / LIBRARY, "library.json"), (root / RUN, "run.json")):
        write_plan(place)
        write_rejects(place)
        write(place / f"receipts/{UNIT}.json", receipt())
        write(place / summary, {"snapshot": "1" * 16, "config_digest": "2" * 16, "images": 1})
        write(place / "options/extract.yaml", b"size: 128")
    write(root / LIBRARY / "patches/part-1.parquet", b"patches")
    write(root / LIBRARY / "images/part-1.parquet", b"images")
    write(root / LIBRARY / "index/33/tree.safetensors", b"tree")
    write(root / LIBRARY / "index/33/members.parquet", b"members")
    write(root / LIBRARY / "index/33/index.json", {"digest": "33", "kept": 5, "config": {"seed": 0}})
    write(root / LIBRARY / "index/shards/44", b"shard")
    write(root / RUN / "images/folder/a.png.png", b"pixels")
    write(root / RUN / "provenance/part-1.parquet", b"provenance")
    write(root / "try.png", b"pixels")
    write(root / "demo/index.html", b"page")
    write(root / "records.json", {"digests": {"runs/default": "5"}, "exit codes": {"extract": 0}})
    return root


def found_after(change: Change, tmp_path: Path) -> list[str]:
    """Return the differences between a fabricated tree and a changed copy."""
    base, new = fabricate(tmp_path / "base"), fabricate(tmp_path / "new")
    change(new)
    return compare(read_contents(base), read_contents(new))


def test_equal_trees_have_no_difference(tmp_path: Path) -> None:
    assert found_after(lambda root: None, tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        "libraries/default/patches/part-1.parquet",
        "libraries/default/images/part-1.parquet",
        "libraries/default/index/33/tree.safetensors",
        "libraries/default/index/33/members.parquet",
        "libraries/default/index/shards/44",
        "runs/default/images/folder/a.png.png",
        "runs/default/provenance/part-1.parquet",
        "try.png",
    ],
)
def test_a_flipped_byte_is_detected(name: str, tmp_path: Path) -> None:
    def flip(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        data[0] ^= 1
        (root / name).write_bytes(data)

    (line,) = found_after(flip, tmp_path)
    assert line.endswith(f"{name}: differs")


@pytest.mark.parametrize("name", ["libraries", "runs", "try.png", "demo"])
def test_a_missing_file_below_a_place_is_detected(name: str, tmp_path: Path) -> None:
    root = fabricate(tmp_path / "tree")
    files = [path.relative_to(root) for path in [root / name, *(root / name).rglob("*")] if path.is_file()]
    assert files
    for number, file in enumerate(file for file in files if "options" not in file.parts):
        lines = found_after(lambda new, file=file: (new / file).unlink(), tmp_path / str(number))  # type: ignore[misc]
        key = file.as_posix().removesuffix(f"-{'a' * 16}.parquet")
        assert any(line.endswith(f"{key}: in the base only") for line in lines), file


def test_a_file_missing_from_the_base_is_detected(tmp_path: Path) -> None:
    (line,) = found_after(lambda root: write(root / LIBRARY / "index/55/tree.safetensors", b"tree"), tmp_path)
    assert line.endswith("index/55/tree.safetensors: not in the base")


@pytest.mark.parametrize(
    ("change", "group"),
    [
        (lambda root: write(root / RUN / "run.json", {"snapshot": "1" * 16, "config_digest": "3" * 16}), "summaries"),
        (
            lambda root: write(root / LIBRARY / "library.json", {"snapshot": "9", "config_digest": "2" * 16}),
            "summaries",
        ),
        (lambda root: write(root / RUN / f"receipts/{UNIT}.json", receipt(config_digest="e" * 16)), "receipts"),
        (lambda root: write(root / RUN / f"receipts/{UNIT}.json", receipt(patches=8)), "receipts"),
        (lambda root: write(root / LIBRARY / "index/33/index.json", {"digest": "33", "kept": 6}), "index summaries"),
        (lambda root: write_plan(root / RUN, uri="b.png"), "plans"),
        (lambda root: write_rejects(root / RUN, reason="too_large"), "rejects"),
        (lambda root: write(root / "records.json", {"digests": {"runs/default": "6"}}), "digests"),
        (lambda root: write(root / "records.json", {"exit codes": {"extract": 3}}), "exit codes"),
    ],
)
def test_a_changed_digest_row_or_count_is_detected(change: Change, group: str, tmp_path: Path) -> None:
    assert any(line.startswith(group) for line in found_after(change, tmp_path))


def other_message(root: Path) -> None:
    (root / LIBRARY / REJECTS).unlink()
    write_rejects(root / LIBRARY, f"rejects/part-{UNIT}-{'f' * 16}.parquet", message="is damaged")
    tables = [{"kind": "patches", "sha256": "b", "bytes": 3}, {"kind": "rejects", "sha256": "f", "bytes": 9}]
    write(root / LIBRARY / f"receipts/{UNIT}.json", receipt(tables=tables))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: write(root / RUN / f"receipts/{UNIT}.json", receipt(attempt="2", finished=6.0, worker="host:2")),
        lambda root: write_plan(root / RUN, metadata='{"searcher": "tree"}'),
        lambda root: write(root / RUN / "options/translate.yaml", b"searcher: tree"),
        lambda root: write(root / "demo/index.html", b"another page"),
        other_message,
    ],
)
def test_permitted_differences_are_not_reported(change: Change, tmp_path: Path) -> None:
    assert found_after(change, tmp_path) == []


def test_an_empty_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no results"):
        compare(read_contents(tmp_path), read_contents(fabricate(tmp_path / "new")))


def test_libraries_and_runs_are_recognised_by_their_plans(tmp_path: Path) -> None:
    assert places(fabricate(tmp_path)) == ["libraries/default", "runs/default"]


def test_drawing_selects_the_same_images_each_time(tmp_path: Path) -> None:
    drawn = []
    for name in ("first", "second"):
        draw_images(tmp_path / name)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        drawn.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 15
