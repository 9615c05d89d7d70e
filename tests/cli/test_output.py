"""Everything that is printed goes one way, with foreign text escaped."""

from __future__ import annotations

import ast
import logging
import warnings
from pathlib import Path

import pytest

from kt_batch.cli.output import print_error, print_lines, print_summary, print_traceback, printing_warnings

ROOT = Path(__file__).resolve().parent.parent.parent
# What these write themselves is a sentence of ours; progress escapes its notes.
WRITERS = {"cli/output.py", "cli/start.py", "cli/interrupt.py", "cli/progress.py", "events.py"}


def test_nothing_else_in_the_package_prints() -> None:
    printing = set()
    for path in [*(ROOT / "kt_batch").rglob("*.py"), *(ROOT / "jobs").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("print", "sys.stdout.write", "sys.stderr.write", "typer.echo", "typer.secho"):
                printing.add(path.relative_to(ROOT / "kt_batch").as_posix() if "kt_batch" in path.parts else path.name)
    assert printing <= WRITERS


def test_a_line_end_in_a_name_makes_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines(["a\nb", "c"])
    print_error("no 'x\n\x1b[2J'")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("a\\nb\nc\n", "kt-batch: no 'x\\n\\x1b[2J'\n")


def test_a_summary_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary({"uri": "\x9b\u202e\n"}, [], as_json=True)
    assert capsys.readouterr().out == '{"uri": "\\u009b\\u202e\\n"}\n'


def test_a_message_of_several_lines_stays_indented_in_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    print_traceback(ValueError("first\nkt-batch: done\x1b[2J"))
    assert capsys.readouterr().err == "ValueError: first\n    kt-batch: done\\x1b[2J\n"


@pytest.mark.filterwarnings("default")
def test_warnings_and_logs_of_other_packages_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with printing_warnings():
            warnings.warn("a file called \x1b[2J", stacklevel=1)
            assert logging.lastResort is not None
            logging.lastResort.handle(logging.LogRecord("s3", logging.WARNING, "", 1, "denied: %s", ("\x9b",), None))
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "UserWarning: a file called \\x1b[2J\ndenied: \\x9b\n")
