"""Two faiss distributions that overwrite each other are refused before use."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from kt_batch.errors import UsageError
from kt_batch.index.searchers.faiss_guard import load_faiss


def pretend_installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def distribution(name: str) -> str:
        if name not in names:
            raise metadata.PackageNotFoundError(name)
        return name

    monkeypatch.setattr(metadata, "distribution", distribution)


@pytest.mark.parametrize("other", ["faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12"])
def test_two_distributions_of_faiss_are_refused_with_the_commands_that_fix_it(
    monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    pretend_installed(monkeypatch, "faiss-cpu", other)
    with pytest.raises(
        UsageError, match=f"faiss-cpu and {other} are both installed.*pip uninstall --yes faiss-cpu {other}`"
    ):
        load_faiss()


@pytest.mark.parametrize("fault", ["ImportError", "RuntimeError"])
def test_a_faiss_that_cannot_be_loaded_names_the_extras(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    (tmp_path / "faiss.py").write_text(f"raise {fault}('libcudart is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    with pytest.raises(UsageError, match=r"libcudart is missing.*kt-batch\[cpu\].*kt-batch\[gpu\]"):
        load_faiss()


def test_a_single_faiss_distribution_is_returned() -> None:
    pytest.importorskip("faiss")
    assert load_faiss().__name__ == "faiss"
