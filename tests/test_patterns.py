"""Every regular expression of the package is linear: names, tables and files of strangers cannot keep it busy."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from kt_batch.errors import Reason, RejectError
from kt_batch.store.images.rasters import _SIGNATURE, read_raster
from kt_batch.store.patterns import matches
from tests.support.regex_steps import TooManySteps, attacks, parse, steps

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "kt_batch").rglob("*.py"))
STEPS_A_CHARACTER = 60
FUNCTIONS = {"compile", "match", "search", "fullmatch", "sub", "subn", "split", "findall", "finditer"}


def written_patterns() -> dict[str, re.Pattern[Any]]:
    """Return every expression that a module of the package compiles or passes to `re`, by its place."""
    found: dict[str, re.Pattern[Any]] = {}
    for path in MODULES:
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "re"
            and node.func.attr in FUNCTIONS
        ]
        if not calls:
            continue
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        place = path.relative_to(ROOT / "kt_batch").as_posix()
        for call in calls:
            if isinstance(call.args[0], ast.Constant):
                found[f"{place}:{call.lineno}"] = re.compile(call.args[0].value)
        compiled = {name: value for name, value in vars(module).items() if isinstance(value, re.Pattern)}
        found |= {f"{place}:{name}": value for name, value in compiled.items()}
        here = [call for call in calls if not isinstance(call.args[0], ast.Constant)]
        assert len(here) <= len(compiled), f"{place}: an expression that is built at run time escapes this test"
    return found


def attack(pattern: re.Pattern[Any], length: int) -> None:
    """Raise TooManySteps if a text of about this length takes more steps than a linear search."""
    for text in attacks(pattern, length):
        steps(pattern, text, STEPS_A_CHARACTER * (len(text) + 10))


PATTERNS = written_patterns()


@pytest.mark.parametrize("place", PATTERNS)
def test_no_attack_takes_more_steps_than_a_multiple_of_its_length(place: str) -> None:
    for length in (20, 40, 80):
        attack(PATTERNS[place], length)


@pytest.mark.parametrize(
    "expression",
    [
        rb"P[1-6fF]\s+(#[^\n]*\s+)*-?\d",  # read the header of a PPM once
        r"(a+)+$", r"(a|a)*b", r"(a|aa)+$", r"(\w+\s?)*$", r"(.*)*x", r"a*a*b", r"\s*,?\s*;", r"(?:[a-z]+_?)+!",
    ],
)  # fmt: skip
def test_the_attacks_find_expressions_that_are_not_linear(expression: bytes | str) -> None:
    with pytest.raises(TooManySteps):
        attack(re.compile(expression), 160)


COMMENTS = [
    pytest.param(b"P5 " + b"# " * 24 + b"x", id="52 bytes that took seconds"),
    pytest.param(b"P5 " + b"# " * 40 + b"x", id="84 bytes that took the whole deadline"),
    pytest.param(b"P6\n" + b"#\n" * 40 + b"x", id="empty comments"),
    pytest.param(b"P6\n" + b"#\n \n" * 30 + b"#", id="comments with empty lines"),
    pytest.param(b"P4 " + b" " * 80 + b"x", id="spaces"),
    pytest.param(b"P4 #" + b" -" * 40 + b"x", id="minus signs in a comment"),
    pytest.param(b"P3\r" + b"#\r" * 40 + b"x", id="old line ends"),
    pytest.param(b"Pf\t" + b"#\t\v\f" * 20 + b"x", id="other spaces"),
]


@pytest.mark.parametrize("data", COMMENTS)
def test_comments_of_a_ppm_take_a_step_for_each_byte_or_a_few(data: bytes) -> None:
    assert steps(_SIGNATURE, data.decode("latin-1"), 20 * len(data)) > 0


@pytest.mark.parametrize("data", COMMENTS)
def test_such_a_file_is_a_reject(data: bytes) -> None:
    for longer in (data, data[:3] + data[3:] * 100):
        with pytest.raises(RejectError) as rejected:
            read_raster(longer, 64)
        assert rejected.value.reason == Reason.NOT_AN_IMAGE


@pytest.mark.parametrize(
    ("data", "is_image"),
    [
        (b"P5 1", True),
        (b"P5 -1", True),
        (b"P5\n# by hand\n1", True),
        (b"P5\n# one\n# two\n\n 1", True),
        (b"P5 # a comment on the line 1", True),  # as it was always read
        (b"P5 #x 1\n# two", True),
        (b"P5\n# by hand\nx", False),
        (b"P51", False),
        (b"P5 #1", False),
        (b"P7 1", False),
    ],
)
def test_the_header_of_a_ppm_is_recognised_as_before(data: bytes, is_image: bool) -> None:
    assert (_SIGNATURE.match(data) is not None) is is_image


class Counted(str):
    """A component of a path that counts how often it is looked at."""

    looks = 0

    def __hash__(self) -> int:
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        Counted.looks += 1
        return super().__eq__(other)


@pytest.mark.parametrize("stars", [2, 4, 8, 16])
def test_many_double_stars_look_at_a_path_a_few_times(stars: int) -> None:
    pattern = [part for _ in range(stars) for part in (Counted("**"), Counted("a"))] + [Counted("b")]
    Counted.looks = 0
    assert not matches(["a"] * 60, pattern)
    assert Counted.looks <= 2 * 60 * len(pattern)


def test_the_step_counter_understands_every_expression() -> None:
    assert len(PATTERNS) > 15
    assert all(len(parse(pattern)) for pattern in PATTERNS.values())
