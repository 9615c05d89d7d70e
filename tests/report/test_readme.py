"""The statements of README about commands and tables are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kt_batch.cli.app import app
from kt_batch.report.views import connect
from tests.report.conftest import Made

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", README, re.DOTALL)


def test_readme_shows_queries() -> None:
    assert len(QUERIES) >= 2


def test_every_command_in_readme_exists() -> None:
    commands = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    named = set(re.findall(r"kt-batch ([a-z]+) ", README))
    assert named <= commands
    assert {"try", "extract", "index", "translate", "explain", "inspect"} <= named


@pytest.mark.parametrize("query", QUERIES)
def test_the_queries_in_readme_work_on_a_run(query: str, made: Made) -> None:
    columns = [column[0] for column in connect(str(made.blended)).execute(query).description]
    assert columns[0] in ("uri", "output")


def test_the_files_linked_in_readme_exist() -> None:
    root = Path(__file__).parents[2]
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (root / link.partition("#")[0]).exists()] == []
