"""Spellings of places: schemes, `~`, relative paths under Ray, and credentials."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kt_batch.errors import UsageError
from kt_batch.pipelines.inputs import absolute_file
from kt_batch.redaction import redacted
from kt_batch.store.inputs import list_inputs
from kt_batch.store.locations import absolute_place, open_location
from kt_batch.store.places import clean_place


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("S3://bucket/Lib", "s3://bucket/Lib"),
        ("s3a://bucket/lib", "s3://bucket/lib"),
        ("S3N://bucket/lib", "s3://bucket/lib"),
        ("FILE:///data/lib", "file:///data/lib"),
        ("s3://bucket/a//b?versionId=7", "s3://bucket/a//b?versionId=7"),
        ("photos/me@home.jpg", "photos/me@home.jpg"),
        ("s3://bucket/me@home/a.jpg", "s3://bucket/me@home/a.jpg"),
        ("https://host/a.jpg?width=7", "https://host/a.jpg?width=7"),
        ("az://container@account.dfs.core.windows.net/a.jpg", "az://container@account.dfs.core.windows.net/a.jpg"),
    ],
)
def test_a_place_gets_the_usual_spelling(written: str, meant: str) -> None:
    assert clean_place(written) == meant
    assert clean_place(meant) == meant


def test_a_location_may_be_spelled_in_several_ways() -> None:
    pytest.importorskip("s3fs")
    assert open_location("S3A://bucket/lib").uri == open_location("s3://bucket/lib/").uri == "s3://bucket/lib"


HOLDING_CREDENTIALS = [
    "s3://AKIAKEY:SeCrEt@bucket/lib",
    "s3://SeCrEt@bucket/lib",
    "S3A://AKIAKEY:SeCrEt@bucket/lib",
    "https://user:SeCrEt@host/a.jpg",
    "https://SeCrEt@host/a.jpg",
    "https://host/a.jpg?X-Amz-Algorithm=AWS4&X-Amz-Signature=SeCrEt",
    "https://host/a.jpg?X-Amz-Credential=SeCrEt",
    "https://host/a.jpg?x-goog-signature=SeCrEt",
    "https://account.blob.core.windows.net/c/a.jpg?sv=2020&sig=SeCrEt",
    "https://host/a.jpg?Expires=1&Signature=SeCrEt&Key-Pair-Id=7",
    "https://host/a.jpg?access_token=SeCrEt",
    "https://host/a.jpg?api_key=SeCrEt",
    "https://host/a.jpg?width=7&token=SeCrEt",
    "https://host/a.jpg#access_token=SeCrEt",
    "s3://bucket/a.jpg?X-Amz-Signature=SeCrEt",
    "gs://bucket/a.jpg?X-Goog-Signature=SeCrEt",
    "az://user:SeCrEt@account/a.jpg",
    "ftp://user:SeCrEt@host/a.jpg",
]


@pytest.mark.parametrize("place", HOLDING_CREDENTIALS)
def test_credentials_in_a_place_are_refused_and_not_repeated(place: str) -> None:
    for use in (open_location, absolute_place, lambda text: list_inputs([text])):
        with pytest.raises(UsageError, match="holds credentials") as caught:
            use(place)
        assert "SeCrEt" not in str(caught.value)
    assert "SeCrEt" not in redacted(place)


def test_a_tilde_is_the_home_directory_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"")
    assert open_location("~/lib").uri == (tmp_path / "lib").as_uri()
    assert absolute_place("~/lib") == str(tmp_path / "lib")
    assert absolute_file("~/weights.safetensors") == str(tmp_path / "weights.safetensors")
    assert [item.uri for item in list_inputs(["~/photos"])] == [str(tmp_path / "photos/a.jpg")]
    assert absolute_place("./~") == str(Path.cwd() / "~")


def test_an_unknown_home_directory_is_no_new_folder() -> None:
    with pytest.raises(UsageError, match="home directory '~nobody-of-that-name' is unknown"):
        open_location("~nobody-of-that-name/lib")


@pytest.mark.parametrize(
    "folder", ["session_1/runtime_resources/working_dir_files/_ray_pkg_0a1b", "elsewhere/_ray_pkg_0a1b/deeper"]
)
def test_a_relative_place_in_a_folder_that_ray_unpacked_is_refused(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = tmp_path / folder
    unpacked.mkdir(parents=True)
    (unpacked / "a.jpg").write_bytes(b"")
    monkeypatch.chdir(unpacked)
    for use in (open_location, absolute_place, absolute_file, lambda text: list_inputs([text])):
        with pytest.raises(UsageError, match=f"'{unpacked}/a.jpg', in a folder that Ray .* '/data/run'"):
            use("a.jpg")
    assert absolute_place("/data/run") == "/data/run"
    assert absolute_place("s3://bucket/run") == "s3://bucket/run"


@pytest.mark.parametrize("scheme", ["gs", "az", "https", "http"])
def test_a_store_that_may_replace_what_is_there_holds_no_library(scheme: str) -> None:
    with pytest.raises(UsageError, match=f"{scheme}:// is for inputs alone"):
        open_location(f"{scheme}://bucket/lib")


@pytest.mark.parametrize("scheme", ["ftp", "sftp", "github", "memory", "zip", "simplecache", "data"])
def test_another_scheme_is_unknown(scheme: str) -> None:
    with pytest.raises(UsageError, match=f"scheme {scheme}:// is unknown"):
        open_location(f"{scheme}://bucket/lib")
    with pytest.raises(UsageError, match=f"unknown scheme {scheme}://"):
        list_inputs([f"{scheme}://bucket/a.jpg"])


@pytest.mark.skipif(bool(os.environ.get("KT_BATCH_HAS_GCSFS")), reason="gcsfs is installed")
def test_a_store_whose_package_is_missing_names_the_package() -> None:
    with pytest.raises(UsageError, match="gs:// needs the package gcsfs, which is not installed"):
        list_inputs(["gs://bucket/photos"])


@pytest.mark.parametrize("endpoint", ["localhost:9000", "127.0.0.1:9000", "ftp://host", "http://", "http://host:port"])
def test_an_endpoint_that_is_no_url_is_one_sentence(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(UsageError, match=r"in AWS_ENDPOINT_URL, is no URL; allowed is http://host:port"):
        open_location("s3://bucket/lib").list()


def test_a_switch_of_the_environment_is_on_or_off(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "perhaps")
    with pytest.raises(UsageError, match="AWS_NO_SIGN_REQUEST is 'perhaps'; allowed are 1, yes"):
        open_location("s3://bucket/lib").list()
