"""Only one module spells path names, and its parsers invert its builders."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kt_batch.store import layout

PACKAGE = Path(layout.__file__).resolve().parents[1]
UNIT, DIGEST, SHA = "0123456789abcdef", "fedcba9876543210", "c0ffee" * 10 + "cafe"
LITERAL = re.compile(
    r"(?<![\w-])(plan|receipts|images(?!/s\b)|patches|rejects|provenance|options|index|shards|subtrees|build)/"
    r"|\b(library|run|index)\.json\b|\btree\.safetensors\b|\bmembers\.parquet\b|\bpart-"
)
PROSE = ("images/a.jpg.png", "listed in rejects/;", "that index.json says")  # sentences of commands


def strings(module: ast.Module) -> Iterator[str]:
    """Return the string constants of a module, with parts of f-strings, without docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def listed_by_literal(module: ast.Module) -> Iterator[str]:
    """Return the directories that a module lists by a literal name."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "list":
            yield from (str(argument.value) for argument in node.args if isinstance(argument, ast.Constant))


def path_literals(module: ast.Module) -> list[str]:
    found = [text for text in strings(module) if LITERAL.search(text) and not any(example in text for example in PROSE)]
    return [*found, *listed_by_literal(module)]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_other_module_spells_a_path_name(path: Path) -> None:
    if path != Path(layout.__file__).resolve():
        assert path_literals(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        'location.read_bytes("run.json")',
        'name = f"index/{digest}/index.json"',
        'location.list("plan")',
        'pattern = re.compile(r"plan/\\d{6}\\.parquet")',
        'name = f"{kind}/part-{unit}-{sha}.parquet"',
    ],
)
def test_the_check_for_path_names_finds_them(code: str) -> None:
    assert path_literals(ast.parse(code))


def test_a_docstring_may_name_a_path() -> None:
    assert path_literals(ast.parse('def f():\n    """Read `run.json`."""\n')) == []


def test_built_paths_are_parsed_back() -> None:
    assert layout.is_plan(layout.plan_path(0))
    assert layout.parse_receipt_path(layout.receipt_path(UNIT)) == UNIT
    assert layout.parse_part_path(layout.part_path(layout.PATCHES, UNIT, SHA)) == ("patches", UNIT)
    assert layout.relative_output(layout.output_path("park/a.jpg.png")) == "park/a.jpg.png"
    assert layout.is_options(layout.options_path("build_library", "0123abcd"))
    assert layout.is_shard(layout.shard_path(SHA))
    for path in layout.index_files(DIGEST):
        assert layout.parse_index_file(path) == layout.parse_in_index(path) == DIGEST
    assert layout.parse_index_summary_path(layout.index_summary_path(DIGEST)) == DIGEST
    build = layout.build_folder(DIGEST)
    blobs = [layout.blob_path(kind, SHA) for kind in (layout.TOP, layout.ROUTED, layout.CLUSTERS, layout.SUBTREES)]
    for path in (layout.receipt_path(UNIT), layout.part_path("sample", UNIT, SHA), *blobs):
        assert layout.parse_build_file(f"{build}/{path}") == DIGEST
    assert layout.is_build_receipt(f"{build}/{layout.receipt_path(UNIT)}")


@pytest.mark.parametrize(
    "path",
    [
        "plan/draft.parquet",
        "receipts/readme.json",
        "patches/part-of-something.parquet",
        "options/mine.yaml",
        "index/notes/other.json",
        "index/shards/readme",
        f"index/{DIGEST}/build/notes",
        f"x/{layout.receipt_path(UNIT)}",
        f"{layout.receipt_path(UNIT)}\n",
    ],
)
def test_a_foreign_path_is_not_recognised(path: str) -> None:
    assert not layout.is_plan(path)
    assert not layout.is_options(path)
    assert not layout.is_shard(path)
    assert not layout.is_build_receipt(path)
    assert layout.parse_receipt_path(path) is None
    assert layout.parse_part_path(path) is None
    assert layout.parse_build_file(path) is None
    assert layout.parse_index_file(path) is None
    assert layout.parse_index_summary_path(path) is None


def test_paths_are_those_of_earlier_versions() -> None:
    assert layout.plan_path(12) == "plan/000012.parquet"
    assert layout.part_path("patches", UNIT, SHA) == f"patches/part-{UNIT}-{SHA[:16]}.parquet"
    assert layout.tree_path(DIGEST) == f"index/{DIGEST}/tree.safetensors"
    assert layout.members_path(DIGEST) == f"index/{DIGEST}/members.parquet"
    assert layout.shard_path(SHA) == f"index/shards/{SHA}"
