"""A machine without a directory for temporary files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from kt_batch.errors import StorageError
from kt_batch.store.scratch import temporary_directory


def test_a_machine_without_a_temporary_directory_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nowhere"])
    with pytest.raises(StorageError, match=r"no directory for temporary files .* TMPDIR=/a/directory"):
        temporary_directory()


def test_the_directory_of_the_environment_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert temporary_directory() == tmp_path
