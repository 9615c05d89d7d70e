"""File systems that lack something, made of small C libraries that take the place of system calls."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).with_name("preload")


def preload(folder: Path, *names: str) -> dict[str, str]:
    """Return the environment of a process in which the system calls of `preload/<name>.c` behave that way."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here to make libraries that take the place of system calls")
    libraries = []
    for name in names:
        library = folder / f"{name}.so"
        if not library.exists():
            subprocess.run([compiler, "-shared", "-fPIC", "-o", library, SOURCES / f"{name}.c"], check=True)
        libraries.append(str(library))
    return {"LD_PRELOAD": ":".join(libraries)}
