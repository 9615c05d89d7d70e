"""The public names of the package and the examples of docs/python.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kt_batch
from tests.support.tiny import draw

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def run(code: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_examples_of_the_page_run_one_after_the_other(tmp_path: Path) -> None:
    for name, seed in (("paintings/a.png", 1), ("paintings/b.png", 2), ("photos/a.png", 3)):
        draw(tmp_path / name, seed)
    printed = [run(code, tmp_path) for code in EXAMPLES]
    assert len(printed) == 3
    assert "2 images" in printed[0]
    assert re.search(r"1 translated, mean NCC 0\.\d+", printed[0])
    assert re.search(r"\d+% from .*paintings/[ab]\.png, pixels Box", printed[0])
    assert (tmp_path / "styled/images/a.png.png").is_file()
    assert "images/a.png.png from" in printed[2]


def test_importing_the_package_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    code = "import sys, kt_batch; print(sorted({'torch', 'ray', 'pyarrow'} & set(sys.modules)))"
    assert run(code, tmp_path) == "[]\n"


@pytest.mark.parametrize("name", kt_batch.__all__)
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    value = getattr(kt_batch, name)
    assert name == "__version__" or value.__doc__
    assert name == "__version__" or f"`{name}`" in PAGE


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'magic'"):
        _ = kt_batch.magic


def test_a_value_that_is_not_allowed_is_a_usage_error(tmp_path: Path) -> None:
    photo = draw(tmp_path / "a.png", 1)
    with pytest.raises(kt_batch.errors.UsageError, match="the option stride got 0"):
        kt_batch.extract(photo, tmp_path / "lib", stride=0)
    with pytest.raises(kt_batch.errors.UsageError, match="the option alpha got 3"):
        kt_batch.translate(photo, tmp_path / "run", kt_batch.Choice(styles=photo), method="adain", alpha=3)
    with pytest.raises(kt_batch.errors.UsageError, match="the option leaf got 3"):
        kt_batch.build_index(tmp_path / "lib", leaf=3)


def test_ray_is_asked_for_with_a_runner(tmp_path: Path) -> None:
    options = kt_batch.RunOptions(runner="ray")
    with pytest.raises(kt_batch.errors.UsageError, match="pass runner=RayRunner"):
        kt_batch.extract(draw(tmp_path / "a.png", 1), tmp_path / "lib", options=options, size=64)
